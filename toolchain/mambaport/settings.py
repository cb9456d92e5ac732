"""The environment variables that a user sets. No other module of the package reads the environment.

Programs that mambaport starts as the user would (pip, the interpreter of an environment) inherit all
variables, and read those that are meant for them: PIP_*, PYTHONPATH. The files that run by themselves in
another interpreter (the probe, the runner) read the variables that they need.

========================  ======================================================================
``MAMBAPORT_CACHE``       the store; by default the user's cache folder
``MAMBAPORT_INDEX_URL``   the package index; by default the one that pip is configured for
``MAMBAPORT_MIRROR``      a folder of archives in place of the index
``CC``, ``CXX``           the compilers of native builds
``CUDA_HOME``             the CUDA toolkit (``CUDA_PATH`` where it is not set)
``TORCH_CUDA_ARCH_LIST``  the GPUs of profile ``cuda``: ``8.7;9.0+PTX``; by default this machine's
``VIRTUAL_ENV``           the active environment
``*_FORCE_FALLBACK``      leaves a package's kernels out
``LC_ALL``, ``LANG``      the language of `doctor --explain` (also ``LC_MESSAGES``)
``SCCACHE_*``, ``AWS_*``  the storage of the compiler cache; by default a folder of the store
========================  ======================================================================
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

_CACHE_STORAGE = ("SCCACHE_", "AWS_", "ACTIONS_")
_TRUE = frozenset({"TRUE", "1", "YES", "ON"})


@dataclass(frozen=True)
class Settings:
    """The values of the variables."""

    cache: Path
    """The store's folder."""
    index_url: str | None
    mirror: Path | None
    cc: str
    """The C compiler of native builds: a name on PATH, or a path; empty where CC is not set."""
    cxx: str
    cuda_home: Path | None
    cuda_architectures: tuple[str, ...]
    """The words of TORCH_CUDA_ARCH_LIST: ``("8.7", "9.0+PTX")``."""
    virtual_env: Path | None
    path: str
    """PATH, for the programs that a build runs."""
    fallbacks: frozenset[str]
    """The names of the FORCE_FALLBACK variables that are true."""
    chinese: bool = False
    """Whether the locale is Simplified Chinese in UTF-8."""
    compiler_cache: tuple[tuple[str, str], ...] = ()
    """The variables that choose the compiler cache's storage and give access to it. They may hold secrets."""


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in an environment, by default that of this process."""
    variables = os.environ if environ is None else environ
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    locale = next((variables[name] for name in names if variables.get(name)), "").lower()
    cache = variables.get("MAMBAPORT_CACHE") or platformdirs.user_cache_dir("mambaport")
    return Settings(
        cache=Path(cache).resolve(),
        index_url=variables.get("MAMBAPORT_INDEX_URL") or None,
        mirror=_path(variables.get("MAMBAPORT_MIRROR")),
        cc=variables.get("CC", "").strip(),
        cxx=variables.get("CXX", "").strip(),
        cuda_home=_path(variables.get("CUDA_HOME") or variables.get("CUDA_PATH")),
        cuda_architectures=tuple(variables.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()),
        virtual_env=_path(variables.get("VIRTUAL_ENV")),
        path=variables.get("PATH", os.defpath),
        chinese=locale.startswith(("zh_cn", "zh_sg", "zh_hans")) and "utf" in locale,
        compiler_cache=tuple(
            (name, value) for name, value in variables.items() if name.startswith(_CACHE_STORAGE)
        ),
        fallbacks=frozenset(
            name for name, value in variables.items() if name.endswith("_FORCE_FALLBACK") and is_true(value)
        ),
    )


def process_environment() -> dict[str, str]:
    """All variables of this process, for a program that runs as the user would run it."""
    return dict(os.environ)


def is_true(text: str) -> bool:
    """Whether a variable's value means yes, as the packages read it."""
    return text.strip().upper() in _TRUE


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
