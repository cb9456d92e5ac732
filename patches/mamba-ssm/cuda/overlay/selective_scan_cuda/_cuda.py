"""The compiled CUDA functions: fwd and bwd of upstream's extension, with the same arguments and results.

Both call torch operators, which return a fixed number of tensors.

u, delta: (batch, dim, seqlen) in float32, float16 or bfloat16
A: (dim, dstate) in float32 or complex64
B, C: (dim, dstate) in the dtype of A, or (batch, ngroups, dstate, seqlen) in the dtype of u; twice the seqlen where A
    is complex
D, delta_bias: (dim,) in float32
z: the shape and dtype of u
All tensors are on one CUDA device.
"""

import torch

from selective_scan_cuda import _library

__all__ = ["bwd", "fwd"]
_CHUNK = 2048


def fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """[out, x], and out_z where z is not None.

    out: the shape and dtype of delta; out_z: out times silu(z); x: (batch, dim, chunks, 2 * dstate), the state after
    each 2048 steps, which is an argument of bwd.
    """
    out, x, out_z = torch.ops.selective_scan_cuda.fwd(u, delta, A, B, C, D, z, delta_bias, bool(delta_softplus))
    return [out, x] if z is None else [out, x, out_z]


def bwd(u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus, recompute_out_z):
    """[du, ddelta, dA, dB, dC, dD, ddelta_bias], then dz where z is not None, then out_z where recompute_out_z.

    Each gradient has the shape and dtype of its tensor, and is None where the tensor is None.
    dz: None, or the tensor that receives the gradient of z.
    """
    if z is None:
        dz = None
    elif dz is None:
        dz = torch.empty_like(z)
    du, ddelta, dA, dB, dC, dD, ddelta_bias, out_z = torch.ops.selective_scan_cuda.bwd(
        u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, bool(delta_softplus), bool(recompute_out_z)
    )
    grads = [du, ddelta, dA, dB, dC, None if D is None else dD, None if delta_bias is None else ddelta_bias]
    if z is not None:
        grads.append(dz)
    if recompute_out_z:
        grads.append(None if z is None else out_z)
    return grads


def _fake_fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    batch, dim, seqlen = u.shape
    if isinstance(seqlen, torch.SymInt):
        # Computed from the length, the number of chunks would split the lengths of a traced program at one chunk.
        chunks = torch.library.get_ctx().new_dynamic_size(min=1)
    else:
        chunks = (seqlen + _CHUNK - 1) // _CHUNK
    x = u.new_empty((batch, dim, chunks, 2 * A.shape[1]), dtype=A.dtype)
    return torch.empty_like(delta), x, u.new_empty(0) if z is None else torch.empty_like(z)


def _fake_bwd(u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus, recompute_out_z):
    optional = [u.new_empty(0) if t is None else torch.empty_like(t) for t in (D, delta_bias)]
    out_z = torch.empty_like(out) if recompute_out_z and z is not None else u.new_empty(0)
    return *(torch.empty_like(t) for t in (u, delta, A, B, C)), *optional, out_z


_library.load("selective_scan_cuda", {"fwd": _fake_fwd, "bwd": _fake_bwd})
