"""selective_scan_cuda, or a stand-in that is false and says on use that it is missing, and why."""

import warnings

import torch  # noqa: F401  the extension needs libc10, which this loads


class _Missing:
    def __init__(self, reason):
        self.reason = reason

    def __bool__(self):
        return False

    def __getattr__(self, name):
        raise RuntimeError(f"selective_scan_cuda.{name} is not available: {self.reason}")


try:
    import selective_scan_cuda

    if not getattr(selective_scan_cuda, "HAS_CUDA", True):  # the module of a CPU wheel, for code that imports it
        selective_scan_cuda = _Missing("this mamba_ssm was built without its CUDA extension")
except ModuleNotFoundError:
    selective_scan_cuda = _Missing("this mamba_ssm was built without its CUDA extension")
except ImportError as error:  # there, but for another torch: say so, or nobody learns why it is slow
    warnings.warn(
        f"selective_scan_cuda is installed but does not load, and is not used: {error}", stacklevel=2
    )
    selective_scan_cuda = _Missing(str(error))
