"""The scans of Mamba-1, Mamba-2 and Mamba-3 on a CPU, compiled, and the norms and linear layers beside it.

Importing this package raises ModuleNotFoundError in a wheel that was built without its library, and ImportError where
the library is of another build than the Python files.
"""

from ._chunk_scan import chunk_scan, supports_chunk_scan
from ._decoder import Block, MambaDecoder
from ._layers import GatedMLP, Mamba2Mixer, Mamba3Mixer, MambaMixer, Norm, Weights
from ._lib import library
from ._linear import linear, supports_linear
from ._mamba3 import mamba3, supports_mamba3
from ._mamba3_step import mamba3_step, supports_mamba3_step
from ._mamba_forward import Direction, mamba_forward
from ._mamba_step import mamba_step, supports_mamba_step
from ._norm import gated_norm, layer_norm, supports_norm
from ._projected_scan import projected_scan, supports_projected_scan
from ._quantized import quantized_linear, supports_quantized_linear
from ._scan import selective_scan, supports
from ._state_update import selective_state_update, supports_state_update

__all__ = [
    "Block",
    "Direction",
    "GatedMLP",
    "Mamba2Mixer",
    "Mamba3Mixer",
    "MambaDecoder",
    "MambaMixer",
    "Norm",
    "Weights",
    "chunk_scan",
    "gated_norm",
    "instruction_set",
    "layer_norm",
    "linear",
    "mamba3",
    "mamba3_step",
    "mamba_forward",
    "mamba_step",
    "projected_scan",
    "quantized_linear",
    "selective_scan",
    "selective_state_update",
    "supports",
    "supports_chunk_scan",
    "supports_linear",
    "supports_mamba3",
    "supports_mamba3_step",
    "supports_mamba_step",
    "supports_norm",
    "supports_projected_scan",
    "supports_quantized_linear",
    "supports_state_update",
]


def instruction_set() -> str:
    """The instruction set that the kernels run on: base (NEON on aarch64, SSE2 on x86-64), or a better one by name.

    It is the best that the processor has, unless the environment variable MAMBAPORT_KERNEL_ISA named another when
    this package was imported.
    """
    return library.instruction_set
