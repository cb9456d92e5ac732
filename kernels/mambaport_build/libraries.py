"""What can be compiled: a library, its sources and their flags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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

_AVX512 = ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma", "-mf16c")
INSTRUCTION_SETS: dict[str, dict[str, tuple[str, ...]]] = {
    "aarch64": {
        "base": (),
        "dotprod": ("-march=armv8.2-a+fp16+dotprod",),
        "i8mm": ("-march=armv8.2-a+fp16+dotprod+i8mm+bf16",),
        "sve": ("-march=armv8.2-a+fp16+dotprod+i8mm+bf16+sve",),
    },
    "x86_64": {
        "base": (),
        "avx2": ("-mavx2", "-mfma", "-mf16c"),
        "avx512": _AVX512,
        "vnni": (*_AVX512, "-mavx512vnni"),
    },
}
"""By architecture, as compilers name it: what operators are compiled for beside the base, and the options for it. An
option ``-march`` or ``-mcpu`` replaces those that the base is compiled with: a set holds what ``csrc/common/isa.c``
asks the CPU for, and no more. ``kernels/wheels.toml`` names the features of aarch64's sets for the audit."""

ZIG_OPTIONS: dict[str, tuple[str, ...]] = {
    "dotprod": ("-mcpu=generic+fullfp16+dotprod",),
    "i8mm": ("-mcpu=generic+fullfp16+dotprod+i8mm+bf16",),
    "sve": ("-mcpu=generic+fullfp16+dotprod+i8mm+bf16+sve",),
    "avx512": ("-mevex512",),
    "vnni": ("-mevex512",),
}
"""More options for zig, which has LLVM's names of features, and turns every feature off that its -mcpu lacks: in zig
0.15's LLVM, 512-bit registers are a feature of their own."""

OPERATORS: dict[str, dict[str, frozenset[str]]] = {
    "aarch64": {
        "dotprod": frozenset({"quantized"}),
        "i8mm": frozenset({"norm", "tile"}),
        "sve": frozenset({"scan_block"}),
    },
    "x86_64": {"vnni": frozenset({"quantized"})},
}
"""By architecture and set: the operators that are compiled for the set, where not all are. On aarch64 the others would
be the same code again: vectors have four lanes on every set. An operator that is compiled for a set and calls functions
of another file by ``FOR_ISA`` needs the other file in the set too."""


BORROWED: dict[str, dict[str, Sequence[str]]] = {
    "mambaport_onnx": {
        "causal_conv1d_cpu": ["conv"],
        "selective_scan_cpu": [
            "gemm", "linear", "mamba_step", "norm", "quantized", "scan_block", "scan_forward", "state_update",
        ],
    },
    "selective_scan_cpu": {"causal_conv1d_cpu": ["conv"]},  # for a whole mixer in one call
}  # fmt: skip


@dataclass(frozen=True)
class KernelLibrary:
    """A library in C, loaded by the Python package of the same name.

    Its sources are the C files of ``csrc/common`` and ``csrc/NAME`` in the folder `root`, compiled once, and those of
    their folders ``operators``, compiled once for each instruction set. A file of ``csrc/NAME`` replaces the file of
    the same name in ``csrc/common``.
    """

    name: str
    root: str = "kernels"

    @property
    def borrows(self) -> Mapping[str, Sequence[str]]:
        """Another library -> those of its operators that this library contains too, from the same objects."""
        return BORROWED.get(self.name, {})

    @property
    def folders(self) -> list[Path]:
        """Where headers are found."""
        return [Path(self.root, "csrc", name) for name in ("common", self.name, *self.borrows)]

    @property
    def sources(self) -> list[Path]:
        found = {path.name: path for folder in self.folders[:2] for path in folder.glob("*.c")}
        return [found[name] for name in sorted(found)]

    @property
    def operators(self) -> list[Path]:
        """The largest first: it takes the compiler longest."""
        return _by_size(path for folder in self.folders[:2] for path in folder.glob("operators/*.c"))

    @property
    def lenders(self) -> Iterator[tuple[KernelLibrary, list[Path]]]:
        """(library, the sources of its operators that this library contains too)."""
        for name, operators in self.borrows.items():
            lender = KernelLibrary(name, self.root)
            yield lender, [path for path in lender.operators if path.stem in operators]


ONNX = KernelLibrary("mambaport_onnx")
"""The operators for ONNX Runtime, of the same kernels as the libraries for torch."""


def _by_size(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: (-path.stat().st_size, path.name))


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
