"""Build commands for plain C kernels: no Python.h, no torch, one wheel for every Python.

A kernel is a shared library with a C ABI that a small package loads with ctypes, so nothing in it depends on
an interpreter. That lets a wheel carry the tag ``py3-none-<platform>``, and lets any C compiler build it for
any target: the host Python's own compiler flags play no part.

Environment:
    CC       the compiler, as one or several words (default ``cc``)
    CFLAGS   flags added after ours, so that they win
    LDFLAGS  flags added to the link
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext as _build_ext

try:
    from setuptools.command.bdist_wheel import bdist_wheel as _bdist_wheel
except ImportError:  # setuptools < 70.1
    from wheel.bdist_wheel import bdist_wheel as _bdist_wheel

COMPILE_FLAGS = (
    "-std=gnu11",
    "-O3",
    "-fPIC",
    "-pthread",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",  # where a multiply-add is fused is written in the source: the same bits from each compiler
    "-Wall",
    "-Wextra",
)
# No build id: it would differ between two linkers that agree on everything else. Symbols are for debuggers only.
LINK_FLAGS = ("-shared", "-pthread", "-Wl,--build-id=none", "-Wl,-z,now", "-s")


def truthy(value: str | None) -> bool:
    """Whether an environment variable's text means yes: TRUE, 1, YES or ON, in any case."""
    return (value or "").strip().upper() in {"TRUE", "1", "YES", "ON"}


class KernelExtension(Extension):
    """The C library of the package `name`: built from `sources` into ``name/libname.so``."""

    def __init__(self, name: str, sources: list[str]) -> None:
        super().__init__(f"{name}.lib{name}", sources=sorted(sources))


class KernelBuild:
    """What a ``build_ext`` command needs for `KernelExtension`; mixed in before any other ``build_ext``."""

    def get_ext_filename(self, fullname: str) -> str:
        # distutils asks with the last part of the name, setuptools with the whole.
        names = {part for ext in self._kernels() for part in (ext.name, ext.name.rpartition(".")[2])}
        if fullname in names:
            return os.path.join(*fullname.split(".")) + ".so"
        return super().get_ext_filename(fullname)

    def _kernels(self) -> list[KernelExtension]:
        return [ext for ext in self.extensions or () if isinstance(ext, KernelExtension)]

    def build_extension(self, ext: Extension) -> None:
        if not isinstance(ext, KernelExtension):
            super().build_extension(ext)
            return
        compiler = shlex.split(os.environ.get("CC") or "cc")
        # Every path below is relative, so that no folder of this machine can end up in the library.
        objects_dir = os.path.relpath(os.path.join(self.build_temp, ext.name))
        os.makedirs(objects_dir, exist_ok=True)
        flags = [*COMPILE_FLAGS, *_target_flags(compiler), *shlex.split(os.environ.get("CFLAGS", ""))]
        objects = []
        for source in ext.sources:
            objects.append(os.path.join(objects_dir, Path(source).stem + ".o"))
            _run([*compiler, *flags, "-c", source, "-o", objects[-1]])
        library = os.path.relpath(self.get_ext_fullpath(ext.name))
        os.makedirs(os.path.dirname(library), exist_ok=True)
        _run([*compiler, *flags, *objects, *LINK_FLAGS, *shlex.split(os.environ.get("LDFLAGS", "")), "-lm", "-o", library])

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []  # a kernel has no PyInit_ function


class build_ext(KernelBuild, _build_ext):
    """The ``build_ext`` of a project whose only extensions are kernels."""


class bdist_wheel(_bdist_wheel):
    """Tags a wheel by what is in it: nothing compiled, C kernels only, or real extension modules."""

    def get_tag(self) -> tuple[str, str, str]:
        extensions = self.distribution.ext_modules or []
        if extensions and all(isinstance(ext, KernelExtension) for ext in extensions):
            return "py3", "none", super().get_tag()[2]
        return super().get_tag()


def _target_flags(compiler: list[str]) -> list[str]:
    """Flags for the machine that `compiler` compiles for, which need not be this one."""
    answer = subprocess.run([*compiler, "-dumpmachine"], capture_output=True, text=True, check=False)
    machine = answer.stdout.partition("-")[0]
    # gcc would otherwise link in helpers that hold LSE atomics, which a Cortex-A72 does not have.
    return ["-mno-outline-atomics"] if machine == "aarch64" else []


def _run(command: list[str]) -> None:
    print(shlex.join(command), flush=True)
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        raise SystemExit(f"the C compiler {command[0]!r} was not found: install one, or name one in CC") from None
    except subprocess.CalledProcessError as failure:
        raise SystemExit(f"{command[0]} failed with exit status {failure.returncode}; its message is above") from None
