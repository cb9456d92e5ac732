"""The selective scan for every device, and small helpers for Mamba-YOLO's modules.

``core`` has the two functions of VMamba's extension module selective_scan_cuda_core. Where a module of that name is
installed, ``core`` calls the module for the tensors that it supports: a compiled extension supports CUDA tensors, and
the module in mambaport's mamba_ssm supports CUDA and CPU tensors. PyTorch computes all other tensors, step by step.
"""

import warnings
from importlib.machinery import ExtensionFileLoader
from types import SimpleNamespace

import torch
import torch.nn.functional as F

try:
    from timm.layers import DropPath
except ImportError:  # timm before 0.9
    from timm.models.layers import DropPath

try:
    import selective_scan_cuda_core as _module
except Exception as fault:  # an extension for another torch raises other exceptions than ImportError too
    _module = None
    warnings.warn(
        f"selective_scan_cuda_core cannot be imported ({fault}); the scan runs in plain PyTorch, slowly. "
        "`mambaport install --profile P` brings one."
    )

__all__ = ("DropPath", "center_crop", "core", "custom_bwd", "custom_fwd")

if hasattr(torch.amp, "custom_fwd"):
    _device = "cuda" if torch.cuda.is_available() else "cpu"
    custom_fwd = torch.amp.custom_fwd(device_type=_device)
    custom_bwd = torch.amp.custom_bwd(device_type=_device)
else:  # torch before 2.4
    custom_fwd, custom_bwd = torch.cuda.amp.custom_fwd, torch.cuda.amp.custom_bwd


def center_crop(x, height, width):
    """The middle of a feature map: (..., H, W) -> (..., height, width), with H >= height and W >= width."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top:top + height, left:left + width]


def _installed_for(u):
    compiled = isinstance(getattr(_module, "__loader__", None), ExtensionFileLoader)
    return _module is not None and (u.is_cuda or not compiled)


def _fwd(u, delta, A, B, C, D=None, delta_bias=None, delta_softplus=False, nrows=1):
    """
    u, delta: (batch, dim, seqlen)
    A: (dim, dstate); B, C: (batch, groups, dstate, seqlen); D, delta_bias: (dim,)

    Returns [out, x]: out has the shape and dtype of u; x is an argument of bwd.
    """
    if _installed_for(u):
        return _module.fwd(u, delta, A, B, C, D, delta_bias, delta_softplus, nrows)
    with torch.no_grad():
        out = _scan(u, delta, A, B, C, D, delta_bias, delta_softplus)
    return [out, u.new_empty(0)]


def _bwd(u, delta, A, B, C, D, delta_bias, dout, x, delta_softplus=False, nrows=1):
    """The gradients [du, ddelta, dA, dB, dC, dD, ddelta_bias], each None where its tensor is None."""
    if _installed_for(u):
        return _module.bwd(u, delta, A, B, C, D, delta_bias, dout, x, delta_softplus, nrows)
    inputs = [None if t is None else t.detach().requires_grad_() for t in (u, delta, A, B, C, D, delta_bias)]
    with torch.enable_grad():
        out = _scan(*inputs, delta_softplus)
    gradients = iter(torch.autograd.grad(out, [t for t in inputs if t is not None], dout))
    return [None if t is None else next(gradients) for t in inputs]


def _scan(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """h' = exp(delta A) h + delta B u, y = C h + D u, in float32; out like u."""
    length, groups = u.shape[-1], B.shape[1]
    x, step = u.float(), delta.float()
    if delta_bias is not None:
        step = step + delta_bias.float()[:, None]
    if delta_softplus:
        step = F.softplus(step)
    # Time first, so that each step reads whole rows: (seqlen, batch, groups, dim / groups [, dstate])
    steps = step.unflatten(1, (groups, -1)).permute(3, 0, 1, 2).contiguous()
    drive = (step * x).unflatten(1, (groups, -1)).permute(3, 0, 1, 2).contiguous()
    rows_b = B.float().permute(3, 0, 1, 2).contiguous()
    rows_c = C.float().permute(3, 0, 1, 2).contiguous()
    a = A.float().unflatten(0, (groups, -1))
    h = x.new_zeros(*steps.shape[1:], A.shape[1])
    rows = []
    for t in range(length):
        h = torch.exp(steps[t, ..., None] * a) * h + drive[t, ..., None] * rows_b[t, :, :, None]
        rows.append((h @ rows_c[t, ..., None]).squeeze(-1))
    y = torch.stack(rows, dim=-1).flatten(1, 2)
    if D is not None:
        y = y + D.float()[:, None] * x
    return y.to(u.dtype)


core = SimpleNamespace(fwd=_fwd, bwd=_bwd)
