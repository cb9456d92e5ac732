import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # an isolated build does not have the source tree on sys.path

from mambaport_build.libraries import ONNX, CudaLibrary, KernelLibrary
from mambaport_build.setup_commands import run_setup

SCAN = "csrc/selective_scan"

run_setup(
    package="mamba_ssm",
    prefix="MAMBA",
    fallback_variable="SELECTIVE_SCAN_FORCE_FALLBACK",
    kernels=[KernelLibrary("selective_scan_cpu"), ONNX],
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
        memory_mib=1024,
    ),
)
