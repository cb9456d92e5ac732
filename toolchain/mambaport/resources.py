"""The folders of mambaport's data: profiles, patch sets, kernels and pins."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    installed = _PACKAGE / f"_{name}"
    return installed if installed.is_dir() else _PACKAGE.parent.parent / name


def profiles_dir() -> Path:
    """The built-in profiles, ``*.toml``."""
    return _folder("profiles")


def boards_dir() -> Path:
    """The data of boards that profiles name: ``cpus.toml``."""
    return profiles_dir() / "boards"


def patches_dir() -> Path:
    """The patch sets, ``<package>/<set>/``."""
    return _folder("patches")


def kernels_dir() -> Path:
    """The CPU kernels: one Python package per library, and ``csrc/``."""
    return _folder("kernels")


def pins_dir() -> Path:
    """The pinned files other than sources: build requirements, toolchains, what emulation needs."""
    return _PACKAGE / "pins"
