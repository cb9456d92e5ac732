import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # an isolated build does not have the source tree on sys.path

from mambaport_build.libraries import CudaLibrary, KernelLibrary
from mambaport_build.setup_commands import run_setup

run_setup(
    package="causal_conv1d",
    prefix="CAUSAL_CONV1D",
    fallback_variable="CAUSAL_CONV1D_FORCE_FALLBACK",
    kernels=[KernelLibrary("causal_conv1d_cpu")],
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
        memory_mib=2560,
    ),
)
