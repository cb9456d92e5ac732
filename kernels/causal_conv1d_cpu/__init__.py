"""The causal depthwise convolution on a CPU, compiled.

Importing this package raises ModuleNotFoundError in a wheel that was built without its library, and ImportError where
the library is of another build than the Python files.
"""

from ._conv import causal_conv1d, causal_conv1d_update, supports, supports_update
from ._lib import library

__all__ = ["causal_conv1d", "causal_conv1d_update", "instruction_set", "supports", "supports_update"]


def instruction_set() -> str:
    """The instruction set that the kernels run on: base (NEON on aarch64, SSE2 on x86-64), or a better one by name.

    It is the best that the processor has, unless the environment variable MAMBAPORT_KERNEL_ISA named another when
    this package was imported.
    """
    return library.instruction_set
