"""LayerNorm and RMSNorm, with what is fused into them: the residual's addition, dropout, a second branch."""

import torch
import torch.nn.functional as F

from mamba_ssm.ops.fallback.precision import autocast_enabled, working_dtype


def layer_norm(
    x,
    weight,
    bias,
    residual=None,
    x1=None,
    weight1=None,
    bias1=None,
    eps=1e-6,
    dropout_p=0.0,
    rowscale=None,
    prenorm=False,
    residual_in_fp32=False,
    is_rms_norm=False,
    return_dropout_mask=False,
):
    """norm(dropout(x * rowscale) + dropout(x1) + residual), and once more with weight1 where that is given.

    x, residual, x1: (..., dim)
    weight, bias, weight1, bias1: (dim,); None for a norm without weight
    rowscale: (...), not together with x1

    Returns y in the dtype of x; then the second y with weight1; then the sum before the norm with prenorm, in
    the residual's dtype, or else in float32 with residual_in_fp32; then both masks with return_dropout_mask,
    True where an element was kept. A tuple where that is more than y.
    """
    assert residual is None or residual.shape == x.shape
    assert x1 is None or x1.shape == x.shape
    assert x1 is None or rowscale is None, "rowscale is not supported with parallel LayerNorm"
    dtype = working_dtype(x, weight, residual, x1)
    total, mask = _dropout(x.to(dtype) if rowscale is None else x.to(dtype) * rowscale[..., None], dropout_p)
    mask1 = None
    if x1 is not None:
        second, mask1 = _dropout(x1.to(dtype), dropout_p)
        total = total + second
    if residual is not None:
        total = total + residual.to(dtype)
        residual_dtype = residual.dtype
    else:
        residual_dtype = torch.promote_types(x.dtype, torch.float32) if residual_in_fp32 else x.dtype

    outs = [normalize(total, weight, bias, eps, is_rms_norm).to(x.dtype)]
    if weight1 is not None:
        outs.append(normalize(total, weight1, bias1, eps, is_rms_norm).to(x.dtype))
    if prenorm:
        outs.append(total.to(residual_dtype))
    if return_dropout_mask:
        outs += [mask, mask1]
    return outs[0] if len(outs) == 1 else tuple(outs)


def layer_norm_linear(
    x,
    norm_weight,
    norm_bias,
    linear_weight,
    linear_bias,
    residual=None,
    eps=1e-6,
    prenorm=False,
    residual_in_fp32=False,
    is_rms_norm=False,
):
    """linear(norm(x + residual)), and with prenorm the sum before the norm."""
    y, total = layer_norm(
        x,
        norm_weight,
        norm_bias,
        residual,
        eps=eps,
        prenorm=True,
        residual_in_fp32=residual_in_fp32,
        is_rms_norm=is_rms_norm,
    )
    if not autocast_enabled(x.device.type):
        linear_weight = linear_weight.to(y.dtype)
        linear_bias = None if linear_bias is None else linear_bias.to(y.dtype)
    out = F.linear(y, linear_weight, linear_bias)
    return (out, total) if prenorm else out


def normalize(x, weight, bias, eps, is_rms_norm):
    """The norm over the last dimension of x, in the dtype of x."""
    weight = None if weight is None else weight.to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    if not is_rms_norm:
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    y = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _dropout(x, p):
    """x with a fraction p of its elements dropped and the rest scaled up, and which were kept."""
    if p == 0.0:
        return x, None
    mask = torch.rand_like(x) > p
    return torch.where(mask, x / (1.0 - p), 0.0), mask
