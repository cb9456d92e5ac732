import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # an isolated build does not have the source tree on sys.path

from mambaport_build.libraries import CudaLibrary, KernelLibrary
from mambaport_build.setup_commands import run_setup

SCAN = "csrc/selective_scan"

run_setup(
    package="mamba_ssm",
    prefix="MAMBA",
    fallback_variable="SELECTIVE_SCAN_FORCE_FALLBACK",
    kernels=KernelLibrary("selective_scan_cpu"),
    cuda=CudaLibrary(
        name="selective_scan_cuda",
        sources=[
            *(
                f"{SCAN}/selective_scan_bwd_{dtype}_{kind}.cu"
                for kind in ("complex", "real")
                for dtype in ("fp32", "fp16", "bf16")
            ),
            *(f"{SCAN}/selective_scan_fwd_{dtype}.cu" for dtype in ("fp32", "fp16", "bf16")),
            f"{SCAN}/selective_scan.cpp",
            "csrc/torch_library.cpp",
        ],
        include_dirs=[SCAN],
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
        memory_mib=1024,
        fallback_sm=["53", "62", "70", "72", "75", "80", "87", "90", "100", "120"],
    ),
)
