"""The norms that carry a gate, and swiglu."""

import torch.nn.functional as F

from mamba_ssm.ops.fallback.norm import normalize
from mamba_ssm.ops.fallback.precision import working_dtype


def gated_norm(x, weight, bias, z=None, eps=1e-6, group_size=None, norm_before_gate=True, is_rms_norm=False):
    """norm(x) * silu(z) with norm_before_gate, else norm(x * silu(z)), in the dtype of x.

    x, z: (..., dim)
    weight, bias: (dim,)
    group_size: how many neighbouring features are normalized together; None for all
    """
    assert z is None or z.shape == x.shape
    dtype = working_dtype(x, weight, z)
    y, weight = x.to(dtype), weight.to(dtype)
    gate = None if z is None else F.silu(z.to(dtype))
    if gate is not None and not norm_before_gate:
        y = y * gate
    if group_size is None:
        y = normalize(y, weight, bias, eps, is_rms_norm)
    else:
        groups = y.unflatten(-1, (-1, group_size))
        y = normalize(groups, weight.new_ones(group_size), None, eps, is_rms_norm).flatten(-2) * weight
        y = y if bias is None else y + bias.to(dtype)
    if gate is not None and norm_before_gate:
        y = y * gate
    return y.to(x.dtype)


def swiglu(xy):
    """silu(x) * y, of the two halves x and y of the last dimension."""
    x, y = xy.to(working_dtype(xy)).chunk(2, dim=-1)
    return (F.silu(x) * y).to(xy.dtype)
