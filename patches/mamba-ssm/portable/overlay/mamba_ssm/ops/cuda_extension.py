"""selective_scan_cuda, or a stand-in that is false in conditions and raises an error with the reason when used."""

import warnings

import torch  # noqa: F401  importing torch loads libc10, which the extension needs


class _Missing:
    def __init__(self, reason):
        self.reason = reason

    def __bool__(self):
        return False

    def __getattr__(self, name):
        raise RuntimeError(f"selective_scan_cuda.{name} is not available: {self.reason}")


try:
    import selective_scan_cuda

    if not getattr(selective_scan_cuda, "HAS_CUDA", True):  # a CPU wheel has the module without CUDA code
        selective_scan_cuda = _Missing("this mamba_ssm was built without its CUDA extension")
except ModuleNotFoundError:
    selective_scan_cuda = _Missing("this mamba_ssm was built without its CUDA extension")
except ImportError as error:  # installed for another torch: without a warning, the slow path has no visible reason
    warnings.warn(
        f"selective_scan_cuda is installed but does not load, and is not used: {error}", stacklevel=2
    )
    selective_scan_cuda = _Missing(str(error))
