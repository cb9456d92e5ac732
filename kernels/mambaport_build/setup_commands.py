"""setuptools' commands, so that ``pip`` and PEP 517 build the libraries of a package."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext as _build_ext

from mambaport_build.config import (
    BuildConfig,
    check_cuda_version,
    installed_torch_has_cuda,
    machine_config,
    machine_cuda,
    read_config,
    truthy,
)
from mambaport_build.libraries import CudaLibrary, KernelLibrary
from mambaport_build.ninja_build import run_ninja
from mambaport_build.units import cuda_units, kernel_units

try:
    from setuptools.command.bdist_wheel import bdist_wheel as _bdist_wheel
except ImportError:  # setuptools < 70.1
    from wheel.bdist_wheel import bdist_wheel as _bdist_wheel

# The objects' folder. Its name stands in commands, and so in a compiler cache's keys: no Python and no platform in it.
OBJECTS = "build/objects"
NOT_PACKAGES = ("build", "csrc", "include", "tests", "dist", "docs", "benchmarks", "kernels", "mambaport_build")


def run_setup(
    package: str, prefix: str, fallback_variable: str, kernels: Sequence[KernelLibrary], cuda: CudaLibrary
) -> None:
    """``setup()`` of a package whose metadata is in pyproject.toml.

    Args:
        package: the Python package that holds ``__version__``
        prefix: of the variables ``PREFIX_BUILD_CUDA`` (TRUE, FALSE; unset: where the configuration or the torch that is
            installed has CUDA), ``PREFIX_SKIP_CUDA_BUILD`` (upstream's own: TRUE leaves CUDA out) and
            ``PREFIX_LOCAL_VERSION`` (the local label of the version)
        fallback_variable: the variable that, when true, leaves everything compiled out
        kernels, cuda: the libraries

    Raises:
        SystemExit: a library cannot be built; says what is missing.
    """
    config = read_config()
    libraries: list[KernelLibrary | CudaLibrary] = []
    if not truthy(os.environ.get(fallback_variable)):
        libraries += kernels
        if _wants_cuda(prefix, config):
            libraries.append(cuda)
    setup(
        version=_version(package, os.environ.get(f"{prefix}_LOCAL_VERSION")),
        packages=find_packages(exclude=[*NOT_PACKAGES, *(f"{name}.*" for name in NOT_PACKAGES)]),
        ext_modules=[_Library(library) for library in libraries],
        cmdclass={"build_ext": build_ext, "bdist_wheel": bdist_wheel},
    )


def _wants_cuda(prefix: str, config: BuildConfig | None) -> bool:
    answer = os.environ.get(f"{prefix}_BUILD_CUDA", "")
    if truthy(os.environ.get(f"{prefix}_SKIP_CUDA_BUILD")):
        return False
    if answer:
        return truthy(answer)
    return config.cuda is not None if config is not None else installed_torch_has_cuda()


def _version(package: str, local: str | None) -> str:
    text = Path(package, "__init__.py").read_text(encoding="utf-8")
    found = re.search(r"^__version__\s*=\s*(.*)$", text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"{package}/__init__.py has no __version__")
    public = str(ast.literal_eval(found[1]))
    return f"{public}+{local}" if local else public


class _Library(Extension):
    """A library as setuptools knows things: an extension, named for where its file goes."""

    def __init__(self, library: KernelLibrary | CudaLibrary) -> None:
        super().__init__(f"{library.name}.lib{library.name}", sources=[])
        self.library = library


class build_ext(_build_ext):
    """Builds all libraries of the package in one run of ninja."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.build_temp = OBJECTS

    def build_extensions(self) -> None:
        config = read_config() or machine_config()
        folder = Path(os.path.relpath(self.build_temp))
        folder.mkdir(parents=True, exist_ok=True)
        units, links = [], []
        for extension in self.extensions:
            library = extension.library
            output = Path(os.path.relpath(self.get_ext_fullpath(extension.name)))
            if isinstance(library, CudaLibrary):
                if config.cuda is None:
                    config = replace(config, cuda=machine_cuda(library.fallback_sm))
                check_cuda_version(config.cuda.version)
                more, link = cuda_units(library, output, folder, config)
                units = [*more, *units]  # CUDA takes longest, so CUDA starts first
            else:
                more, link = kernel_units(library, output, folder, config)
                units += more
            links.append(link)
        run_ninja(units, links, folder, config)

    def get_ext_filename(self, fullname: str) -> str:
        # distutils asks with the last part of the name, setuptools with the whole.
        return os.path.join(*fullname.split(".")) + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []  # the libraries have no PyInit_ function


class bdist_wheel(_bdist_wheel):
    """Tags the wheel: the configuration's tag, else ``py3-none`` and, with libraries, this machine's platform."""

    def get_tag(self) -> tuple[str, str, str]:
        if not self.distribution.ext_modules:
            return super().get_tag()
        config = read_config()
        if config is not None and config.wheel_tag is not None:
            return config.wheel_tag
        return "py3", "none", super().get_tag()[2]
