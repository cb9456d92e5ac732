"""Build commands for CUDA extensions, beside plain C kernels: no torch import when told what to build with.

Upstream gives the work to torch's BuildExtension, which compiles for the torch, the Python and the machine that it
runs in. This compiles for the torch and the machine that a configuration names (`cuda_config`), so that a wheel for a
Jetson can be made on any machine. Built by hand, the same facts are read from the torch that is installed.

An extension is a shared library that registers torch operators. It includes no header of Python, so one wheel serves
every Python; the package of its name loads it and calls the operators.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from setuptools import Extension

import cuda_objects
import kernel_build
from cuda_config import CudaConfig, configuration


class CudaExtension(kernel_build.KernelExtension):
    """The library of torch operators of the package `name`: ``name/libname.so``, from C++ and CUDA sources.

    Args:
        sources: in the order in which their compilation starts.
        extra_compile_args: flags for each of ``cxx`` and ``nvcc``, as torch's CUDAExtension takes them.
        include_dirs: the extension's own, inside the tree.
        job_mib: memory that the largest compilation takes, in MiB.
    """

    def __init__(
        self,
        name: str,
        sources: list[str],
        extra_compile_args: dict[str, list[str]],
        include_dirs: Sequence[str | Path],
        job_mib: int,
    ) -> None:
        super().__init__(name, sources)
        self.sources = [*sources, "csrc/torch_library.cpp"]
        self.include_dirs = [os.path.relpath(folder) for folder in include_dirs]
        self.flags = extra_compile_args
        self.job_mib = job_mib

    @cached_property
    def config(self) -> CudaConfig:
        return configuration(self.job_mib)


# What torch's BuildExtension adds and upstream does not take back.
COMMON_FLAGS = ("-std=c++17", "-DNDEBUG", "-D__CUDA_NO_HALF2_OPERATORS__")
# No build id and no symbols: they may differ where the code is the same, and nothing needs them.
LINK_FLAGS = ("-shared", "-Wl,--no-as-needed", "-Wl,--enable-new-dtags", "-Wl,--build-id=none", "-Wl,-z,now", "-s")


class build_ext(kernel_build.build_ext):
    """Builds `CudaExtension` and `kernel_build.KernelExtension`."""

    def build_extension(self, ext: Extension) -> None:
        if not isinstance(ext, CudaExtension):
            super().build_extension(ext)
            return
        config = ext.config
        print(f"{ext.name}: CUDA {config.cuda_version}, {config.jobs} files at once", flush=True)
        # Relative, like every path that a compiler sees of the tree, so that none of this machine gets into an object.
        folder = Path(os.path.relpath(self.build_temp), ext.name)
        objects = cuda_objects.compile_objects(_units(ext, folder), folder, config)
        library = Path(os.path.relpath(self.get_ext_fullpath(ext.name)))
        library.parent.mkdir(parents=True, exist_ok=True)
        command = [
            *shlex.split(config.cxx),
            *(str(path) for path in objects),
            *LINK_FLAGS,
            *(f"-L{path}" for path in config.library_dirs),
            *(f"-l{name}" for name in config.libraries),
            "-o",
            str(library),
        ]
        print(shlex.join(command), flush=True)
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"{ext.name} could not be linked; the linker's message is above")
        shutil.copyfile("torch_library.py", library.with_name("_library.py"))


bdist_wheel = kernel_build.bdist_wheel


def _units(ext: CudaExtension, folder: Path) -> list[cuda_objects.Unit]:
    config = ext.config
    outside = [word for folder in config.include_dirs for word in ("-isystem", folder)]
    mapping = cuda_objects.prefix_maps(config)
    common = [
        *COMMON_FLAGS,
        f"-DTORCH_EXTENSION_NAME={ext.name.partition('.')[0]}",
        f"-D_GLIBCXX_USE_CXX11_ABI={config.cxx11_abi}",
        *(f"-I{folder}" for folder in ext.include_dirs),
    ]
    cxx = shlex.split(config.cxx)
    nvcc = [*shlex.split(config.nvcc), "-ccbin", cxx[-1]]
    threads = ["--threads", str(config.nvcc_threads)] if config.nvcc_threads > 1 else []
    units = []
    for source in ext.sources:
        if source.endswith(".cu"):
            name, anchor = _names(source, folder, config)
            flags = [*common, "-Xcompiler", "-fPIC", *ext.flags["nvcc"], *name]
            here = [*outside, *(word for flag in mapping for word in ("-Xcompiler", flag)), *threads, *anchor]
        else:
            flags = [*common, "-fPIC", *ext.flags["cxx"]]
            here = [*outside, *mapping]
        tool = nvcc if source.endswith(".cu") else cxx
        units.append(cuda_objects.Unit(Path(source), tuple(tool), tuple(flags), tuple(here), tuple(ext.include_dirs)))
    return units


def _names(source: str, folder: Path, config: CudaConfig) -> tuple[list[str], list[str]]:
    """Options that make nvcc name what is local to a file by the file, wherever and whenever it is compiled.

    Left alone, it makes such names of the source's absolute path, and, where the file defines no function of its
    own, of a process id and a random number.
    """
    if int(config.cuda_version.partition(".")[0]) < 12:  # not known to take these options
        return [], []
    header = folder / f"{Path(source).stem}.name.h"
    header.parent.mkdir(parents=True, exist_ok=True)
    function = re.sub(r"\W", "_", source)
    header.write_text(f'__attribute__((visibility("hidden"))) void cuda_object_{function}() {{}}\n', encoding="ascii")
    return ["-Xcudafe", f"--orig_src_path_name={source}"], ["-include", str(header)]
