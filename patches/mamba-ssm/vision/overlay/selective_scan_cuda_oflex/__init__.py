"""VMamba's later extension module: selective_scan_cuda_core with an option for float32 results of 16-bit inputs."""

import selective_scan_cuda_core as core
import torch

__all__ = ["bwd", "fwd"]


def fwd(u, delta, A, B, C, D=None, delta_bias=None, delta_softplus=False, nrows=1, out_float=True):
    """As selective_scan_cuda_core.fwd. out is in float32 where out_float is true, else in the dtype of u."""
    dtype = torch.promote_types(u.dtype, torch.float32) if out_float else u.dtype
    u, delta, B, C = (t.to(dtype) for t in (u, delta, B, C))
    return core.fwd(u, delta, A, B, C, D, delta_bias, delta_softplus, nrows)


def bwd(u, delta, A, B, C, D, delta_bias, dout, x, delta_softplus=False, nrows=1):
    """As selective_scan_cuda_core.bwd. dout: in the dtype of fwd's out."""
    inputs = (u, delta, A, B, C, D, delta_bias)
    u, delta, B, C = (t.to(dout.dtype) for t in (u, delta, B, C))
    grads = core.bwd(u, delta, A, B, C, D, delta_bias, dout, x, delta_softplus, nrows)
    return [None if g is None else g.to(t.dtype) for g, t in zip(grads, inputs, strict=True)]
