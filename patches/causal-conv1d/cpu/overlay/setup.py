import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # an isolated build does not have the source tree on sys.path

from mambaport_build.libraries import CudaLibrary, KernelLibrary
from mambaport_build.setup_commands import run_setup

run_setup(
    package="causal_conv1d",
    prefix="CAUSAL_CONV1D",
    fallback_variable="CAUSAL_CONV1D_FORCE_FALLBACK",
    kernels=KernelLibrary("causal_conv1d_cpu"),
    cuda=CudaLibrary(
        name="causal_conv1d_cuda",
        sources=[
            "csrc/causal_conv1d_bwd.cu",
            "csrc/causal_conv1d.cpp",
            "csrc/torch_library.cpp",
            "csrc/causal_conv1d_fwd.cu",
            "csrc/causal_conv1d_update.cu",
        ],
        include_dirs=["csrc"],
        cxx_flags=["-O3"],
        nvcc_flags=[
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
        ],
        memory_mib=2560,
        fallback_sm=["53", "62", "70", "72", "75", "80", "87", "90", "100", "120"],
    ),
)
