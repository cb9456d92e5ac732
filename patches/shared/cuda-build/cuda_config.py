"""What a CUDA extension is built with and for: told by CUDA_BUILD_CONFIG, or read from this machine.

CUDA_BUILD_CONFIG names a JSON file with the fields of `CudaConfig`, and ``sm`` and ``ptx``. Then nothing here
looks at the machine, and torch is not imported. Without it, torch and the CUDA toolkit are those of this machine.

Environment of a build by hand:
    CUDA_HOME             the toolkit's folder; otherwise nvcc on PATH, then /usr/local/cuda
    CXX                   the host compiler, nvcc's too (default ``g++``)
    TORCH_CUDA_ARCH_LIST  architectures, as torch takes them: ``8.7``, ``8.7+PTX``, ``8.6;8.7``
    MAX_JOBS              files compiled at once (default: as many as cores and free memory allow)
    NVCC_THREADS          architectures that each nvcc works on at once (default 1)
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

LIBRARIES = ("c10", "torch_cpu", "c10_cuda", "cudart")


@dataclass(frozen=True)
class CudaConfig:
    """What an extension is compiled and linked with."""

    nvcc: str
    cxx: str
    """The host compiler: of C++ sources, behind nvcc, and for the link."""
    cuda_version: str
    include_dirs: tuple[str, ...]
    library_dirs: tuple[str, ...]
    libraries: tuple[str, ...]
    cxx11_abi: int
    """1 where the target's torch has libstdc++'s C++11 ABI, otherwise 0."""
    jobs: int
    nvcc_threads: int
    object_cache: str | None = None
    """A folder that keeps compiled objects between builds."""
    toolchain: str = ""
    """What else decides an object's bytes: compilers, CUDA and torch headers."""


def told() -> bool:
    """Whether CUDA_BUILD_CONFIG says everything."""
    return bool(os.environ.get("CUDA_BUILD_CONFIG"))


def cuda_version() -> str:
    """The toolkit's version, such as ``12.6``.

    Raises:
        SystemExit: there is no nvcc, or no configuration where one was promised.
    """
    return _file()["cuda_version"] if told() else _nvcc_version(_nvcc())


def gencode(fallback: list[str]) -> list[str]:
    """nvcc's ``-gencode`` options: one list for every file.

    The configuration's; by hand those of TORCH_CUDA_ARCH_LIST, else this machine's GPUs', else those of
    `fallback`, SMs as digits (``"87"``), that this nvcc knows.
    """
    if told():
        return _options(_file()["sm"], _file()["ptx"])
    import torch
    from torch.utils import cpp_extension

    if os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return cpp_extension._get_cuda_arch_flags()
    if torch.cuda.is_available():
        found = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
        return _options([f"{major}{minor}" for major, minor in sorted(found)], [])
    known = set(re.findall(r"sm_(\w+)", _said(_nvcc(), "--list-gpu-code")))
    return _options([number for number in fallback if number in known], [])


def configuration(job_mib: int) -> CudaConfig:
    """The configuration of CUDA_BUILD_CONFIG, or this machine's.

    Args:
        job_mib: memory that the largest compilation takes, in MiB; by hand, it bounds how many run at once.

    Raises:
        SystemExit: the file does not hold a configuration, or this machine cannot build; says what is missing.
    """
    if not told():
        return _from_machine(job_mib)
    known = {field.name for field in fields(CudaConfig)}
    return CudaConfig(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in _file().items() if key in known}
    )


@cache
def _file() -> dict[str, Any]:
    path = os.environ["CUDA_BUILD_CONFIG"]
    needed = {"sm", "ptx", *(field.name for field in fields(CudaConfig))} - {"object_cache", "toolchain"}
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
        missing = sorted(needed - config.keys())
    except (OSError, ValueError, AttributeError) as fault:
        raise SystemExit(f"CUDA_BUILD_CONFIG={path} is no configuration: {fault}") from None
    if missing:
        raise SystemExit(f"CUDA_BUILD_CONFIG={path} is no configuration: it lacks {', '.join(missing)}")
    return config


def _options(sm: list[str], ptx: list[str]) -> list[str]:
    codes = [(number, f"sm_{number}") for number in sm] + [(number, f"compute_{number}") for number in ptx]
    return [f"-gencode=arch=compute_{number},code={code}" for number, code in codes]


def _nvcc() -> str:
    """This machine's nvcc, where torch looks for it."""
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as missing:
        raise SystemExit(
            "The CUDA extension is built for the torch that is installed, and torch cannot be imported: "
            f"{missing}. Install it first, and build with pip's --no-build-isolation."
        ) from None
    if not torch.version.cuda:
        raise SystemExit(
            f"The CUDA extension was asked for, and torch {torch.__version__} is a build without CUDA: install the "
            "CUDA build that this machine needs (on a Jetson, NVIDIA's own)."
        )
    home = cpp_extension.CUDA_HOME
    if not home or not Path(home, "bin", "nvcc").is_file():
        raise SystemExit(
            f"The CUDA extension was asked for, but nvcc was not found{f' in CUDA_HOME={home}' if home else ''}: set "
            "CUDA_HOME to the toolkit's folder, such as /usr/local/cuda."
        )
    return str(Path(home, "bin", "nvcc"))


@cache
def _said(nvcc: str, option: str) -> str:
    return subprocess.run([nvcc, option], capture_output=True, text=True, check=False).stdout


def _nvcc_version(nvcc: str) -> str:
    found = re.search(r"release (\d+\.\d+)", _said(nvcc, "--version"))
    if found is None:
        raise SystemExit(f"`{nvcc} --version` names no release")
    return found[1]


def _from_machine(job_mib: int) -> CudaConfig:
    nvcc = _nvcc()
    version = _nvcc_version(nvcc)
    import torch
    from torch.utils import cpp_extension

    if version.partition(".")[0] != torch.version.cuda.partition(".")[0]:
        raise SystemExit(
            f"{nvcc} is CUDA {version}, and torch {torch.__version__} was built for CUDA {torch.version.cuda}: set "
            "CUDA_HOME to a toolkit of the same major version."
        )
    return CudaConfig(
        nvcc=nvcc,
        cxx=os.environ.get("CXX") or "g++",
        cuda_version=version,
        # "cuda" is a device to newer torch, and merely true to older.
        include_dirs=tuple(cpp_extension.include_paths("cuda")),
        library_dirs=tuple(cpp_extension.library_paths("cuda")),
        libraries=LIBRARIES,
        cxx11_abi=int(torch._C._GLIBCXX_USE_CXX11_ABI),
        jobs=_jobs(job_mib),
        nvcc_threads=int(os.environ.get("NVCC_THREADS") or 1),
    )


def _jobs(job_mib: int) -> int:
    if os.environ.get("MAX_JOBS"):
        return max(1, int(os.environ["MAX_JOBS"]))
    cores = len(os.sched_getaffinity(0))
    found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    return max(1, min(cores, int(found[1]) // 1024 // job_mib)) if found else cores
