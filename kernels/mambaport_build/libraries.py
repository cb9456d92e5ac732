"""What can be compiled: a library, its sources and their flags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Upstream's flags of both packages, without those for profilers.
NVCC_FLAGS = (
    "-O3",
    "-U__CUDA_NO_HALF_OPERATORS__",
    "-U__CUDA_NO_HALF_CONVERSIONS__",
    "-U__CUDA_NO_BFLOAT16_OPERATORS__",
    "-U__CUDA_NO_BFLOAT16_CONVERSIONS__",
    "-U__CUDA_NO_BFLOAT162_OPERATORS__",
    "-U__CUDA_NO_BFLOAT162_CONVERSIONS__",
    "--expt-relaxed-constexpr",
    "--expt-extended-lambda",
    "--use_fast_math",
)

INSTRUCTION_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "base": (),
        "avx2": ("-mavx2", "-mfma", "-mf16c"),
        "avx512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"),
    },
}
"""By architecture, as compilers name it: what operators are compiled for beside the base, and the options for it."""


@dataclass(frozen=True)
class KernelLibrary:
    """A library of CPU kernels in C, loaded by the Python package of the same name.

    Its sources are the C files of ``csrc/common`` and ``csrc/NAME`` in the folder `root`, compiled once, and those of
    their folders ``operators``, compiled once for each instruction set.
    """

    name: str
    root: str = "kernels"

    @property
    def folders(self) -> tuple[Path, Path]:
        return Path(self.root, "csrc", "common"), Path(self.root, "csrc", self.name)

    @property
    def sources(self) -> list[Path]:
        return sorted((path for folder in self.folders for path in folder.glob("*.c")), key=lambda path: path.name)

    @property
    def operators(self) -> list[Path]:
        """The largest first: it takes the compiler longest."""
        found = (path for folder in self.folders for path in folder.glob("operators/*.c"))
        return sorted(found, key=lambda path: (-path.stat().st_size, path.name))


@dataclass(frozen=True)
class CudaLibrary:
    """A library of C++ and CUDA sources that include torch, loaded by the Python package of the same name."""

    name: str
    sources: Sequence[str]
    """In the order in which their compilation starts: the longest first."""
    include_dirs: Sequence[str]
    """Folders of the tree. Each CUDA object depends on every header in them."""
    memory_mib: int
    """Memory that the largest compilation takes, in MiB."""
    cxx_flags: Sequence[str] = ("-O3",)
    nvcc_flags: Sequence[str] = NVCC_FLAGS
    fallback_sm: Sequence[str] = ("53", "62", "70", "72", "75", "80", "87", "90", "100", "120")
    """GPU architectures for a build by hand on a machine without a GPU; those that nvcc does not know are left out."""
