"""mamba_ssm's operations in plain PyTorch: any device, any floating dtype, differentiable.

Each function has the arguments of the one that it stands in for. All compute in float32, or in float64
where an argument is, and round once at the end; state is updated in place where the CUDA code does so.
"""

from mamba_ssm.ops.fallback import quantized
from mamba_ssm.ops.fallback.norm import layer_norm, layer_norm_linear
from mamba_ssm.ops.fallback.norm_gated import gated_norm, swiglu
from mamba_ssm.ops.fallback.selective_scan import selective_scan
from mamba_ssm.ops.fallback.ssd import mamba_chunk_scan_combined
from mamba_ssm.ops.fallback.state_update import selective_state_update

__all__ = [
    "gated_norm",
    "layer_norm",
    "layer_norm_linear",
    "mamba_chunk_scan_combined",
    "quantized",
    "selective_scan",
    "selective_state_update",
    "swiglu",
]
