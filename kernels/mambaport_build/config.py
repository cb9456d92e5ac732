"""What libraries are compiled with and for: a file that MAMBAPORT_BUILD_CONFIG names, or this machine.

The file is JSON with the fields of `BuildConfig`. With it, nothing here looks at the machine, and torch is not
imported. Without it (``pip install .`` in a patched tree) the compilers, torch and the CUDA toolkit are those of this
machine.

Environment of a build by hand:
    CC, CFLAGS, LDFLAGS   the C compiler, as one or several words (default ``cc``), and flags added after ours
    CXX                   the C++ compiler, nvcc's host compiler too: a program without options (default ``g++``)
    CUDA_HOME             the toolkit's folder; otherwise nvcc on PATH, then /usr/local/cuda
    TORCH_CUDA_ARCH_LIST  architectures, as torch takes them: ``8.7``, ``8.7+PTX``, ``8.6;8.7``
    MAX_JOBS              files compiled at once (default: the number of cores)
    NVCC_THREADS          architectures that each nvcc works on at once (default 1)
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

VARIABLE = "MAMBAPORT_BUILD_CONFIG"
# What a library for torch with CUDA is linked with. No libtorch_python: nothing of Python is called.
CUDA_LIBRARIES = ("c10", "torch_cpu", "c10_cuda", "cudart")
OLDEST_CUDA = (11, 6)


def truthy(value: str | None) -> bool:
    """Whether a variable's text means yes: TRUE, 1, YES or ON, in any case."""
    return (value or "").strip().upper() in {"TRUE", "1", "YES", "ON"}


@dataclass(frozen=True)
class CudaConfig:
    """What CUDA sources are compiled and linked with."""

    home: str
    """The toolkit's folder."""
    version: str
    """The toolkit's version, such as ``12.6``."""
    cxx: str
    """The host compiler: of C++ sources, behind nvcc, and for the link: a program without options."""
    sm: tuple[str, ...]
    """Architectures, such as ``87``: each object has one cubin for each."""
    ptx: tuple[str, ...]
    """Architectures whose PTX is in each object too."""
    include_dirs: tuple[str, ...]
    """torch's headers."""
    library_dirs: tuple[str, ...]
    libraries: tuple[str, ...]
    cxx11_abi: int
    """1 where the target's torch has libstdc++'s C++11 ABI, otherwise 0."""
    nvcc_threads: int = 1
    identity: str = ""
    """What decides an object's bytes beside sources and flags: compilers, CUDA and torch headers."""

    @property
    def cxx_standard(self) -> str:
        """The C++ standard that torch's headers ask for: c++17, and c++20 since torch 2.14."""
        for folder in self.include_dirs:
            header = Path(folder, "torch", "all.h")
            if header.is_file():
                found = re.search(r"__cplusplus < (\d{4})\d\dL", header.read_text(encoding="utf-8"))
                return f"c++{found[1][2:]}" if found else "c++17"
        return "c++17"

    @property
    def gencode(self) -> list[str]:
        """nvcc's ``-gencode`` options: one list for every file."""
        codes = [(number, f"sm_{number}") for number in self.sm]
        codes += [(number, f"compute_{number}") for number in self.ptx]
        return [f"-gencode=arch=compute_{number},code={code}" for number, code in codes]


@dataclass(frozen=True)
class BuildConfig:
    """Everything that a build is told."""

    jobs: int
    """Files compiled at once."""
    memory_mib: int
    """Memory for all of them together, in MiB."""
    launcher: tuple[str, ...] = ()
    """Words before each compiler's command: a compiler cache that has a server running already."""
    wheel_tag: tuple[str, str, str] | None = None
    """Python, ABI and platform of the wheel; without it, ``py3-none`` and this machine's platform."""
    cuda: CudaConfig | None = None


def read_config() -> BuildConfig | None:
    """The configuration of MAMBAPORT_BUILD_CONFIG; None where the variable is not set.

    Raises:
        SystemExit: the file does not hold a configuration; says what is missing.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        cuda = data.get("cuda")
        return _made(BuildConfig, {**data, "cuda": _made(CudaConfig, cuda) if cuda else None})
    except (OSError, ValueError, TypeError, AttributeError) as fault:
        raise SystemExit(f"{VARIABLE}={path} is no build configuration: {fault}") from None


def machine_config() -> BuildConfig:
    """The configuration of a build by hand, CUDA aside.

    Raises:
        SystemExit: MAX_JOBS is no whole number.
    """
    cores = len(os.sched_getaffinity(0))
    found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    return BuildConfig(
        jobs=max(1, _whole_number("MAX_JOBS", cores)),
        memory_mib=int(found[1]) // 1024 if found else 1024 * cores,
    )


def machine_cuda(fallback_sm: Sequence[str]) -> CudaConfig:
    """The CUDA side of a build by hand: the torch that is installed, and its toolkit.

    Raises:
        SystemExit: this machine cannot build; says what is missing.
    """
    home = _home()
    nvcc = str(Path(home, "bin", "nvcc"))
    version = _nvcc_version(nvcc)
    import torch
    from torch.utils import cpp_extension

    if version.partition(".")[0] != torch.version.cuda.partition(".")[0]:
        raise SystemExit(
            f"{nvcc} is CUDA {version}, and torch {torch.__version__} was built for CUDA {torch.version.cuda}: set "
            "CUDA_HOME to a toolkit of the same major version."
        )
    sm, ptx = _architectures(nvcc, fallback_sm)
    return CudaConfig(
        home=home,
        version=version,
        cxx=os.environ.get("CXX") or "g++",
        sm=sm,
        ptx=ptx,
        # "cuda" is a device to newer torch, and merely true to older.
        include_dirs=tuple(cpp_extension.include_paths("cuda")),
        library_dirs=tuple(cpp_extension.library_paths("cuda")),
        libraries=CUDA_LIBRARIES,
        cxx11_abi=int(torch._C._GLIBCXX_USE_CXX11_ABI),
        nvcc_threads=_whole_number("NVCC_THREADS", 1),
    )


def installed_torch_has_cuda() -> bool:
    """Whether a torch that was built for a GPU is installed."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.version.cuda)


def check_cuda_version(version: str) -> None:
    """Refuses a CUDA that upstream's sources do not compile with.

    Raises:
        SystemExit: it is older than 11.6.
    """
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_CUDA:
        raise SystemExit(
            f"CUDA 11.6 or newer is needed, and nvcc is of CUDA {version}. JetPack 5 has CUDA 11.4 and Python 3.8, "
            "both too old; JetPack 6 and 7 have what the packages need."
        )


def _whole_number(variable: str, default: int) -> int:
    """The number in an environment variable; `default` where the variable is empty or not set."""
    text = os.environ.get(variable)
    try:
        return int(text) if text else default
    except ValueError:
        raise SystemExit(f"{variable}={text} is no whole number: give one, such as {variable}={default}") from None


def _made(model: type[Any], data: Mapping[str, Any]) -> Any:
    unknown = sorted(data.keys() - {field.name for field in fields(model)})
    if unknown:
        raise ValueError(f"unknown fields {', '.join(unknown)}")
    return model(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})


def _architectures(nvcc: str, fallback_sm: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The architectures of cubins and of PTX: of TORCH_CUDA_ARCH_LIST, of this machine's GPUs, or `fallback_sm`."""
    import torch
    from torch.utils import cpp_extension

    if os.environ.get("TORCH_CUDA_ARCH_LIST"):
        flags = " ".join(cpp_extension._get_cuda_arch_flags())
        return tuple(re.findall(r"code=sm_(\w+)", flags)), tuple(re.findall(r"code=compute_(\w+)", flags))
    if torch.cuda.is_available():
        found = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
        return tuple(f"{major}{minor}" for major, minor in sorted(found)), ()
    known = set(re.findall(r"sm_(\w+)", _output(nvcc, "--list-gpu-code")))
    return tuple(number for number in fallback_sm if number in known), ()


def _home() -> str:
    """This machine's toolkit, where torch looks for it."""
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
    return str(home)


def _nvcc_version(nvcc: str) -> str:
    found = re.search(r"release (\d+\.\d+)", _output(nvcc, "--version"))
    if found is None:
        raise SystemExit(f"`{nvcc} --version` names no release")
    return found[1]


def _output(nvcc: str, option: str) -> str:
    return subprocess.run([nvcc, option], capture_output=True, text=True, check=False).stdout
