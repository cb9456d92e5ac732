"""mambaport: builds, proves and installs Mamba wheels for ARM edge devices."""

__version__: str


def __getattr__(name: str) -> str:
    """``__version__``, read when first needed: importing importlib.metadata takes longer than the start."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib import metadata  # noqa: PLC0415

    try:
        version = metadata.version("mambaport")
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        version = "0+unknown"
    globals()["__version__"] = version
    return version


__all__ = ["__version__"]
