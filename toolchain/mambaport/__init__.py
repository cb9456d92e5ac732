"""mambaport: builds, proves and installs Mamba wheels for ARM edge devices."""

from importlib import metadata

try:
    __version__ = metadata.version("mambaport")
except metadata.PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
