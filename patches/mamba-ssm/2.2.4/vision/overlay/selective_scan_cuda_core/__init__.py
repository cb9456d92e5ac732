"""The extension module that VMamba and Mamba-YOLO import, on top of mamba_ssm's scan.

Theirs is a CUDA extension of its own, built from a fork of these sources; code that calls it finds the same
two functions here, for CUDA tensors by selective_scan_cuda and for CPU tensors by the CPU code.
"""

import torch

from mamba_ssm.ops import dispatch
from mamba_ssm.ops.cuda_extension import selective_scan_cuda

__all__ = ["bwd", "fwd"]


def fwd(u, delta, A, B, C, D=None, delta_bias=None, delta_softplus=False, nrows=1):
    """
    u, delta: (batch, dim, seqlen)
    A: (dim, dstate), real
    B, C: (batch, ngroups, dstate, seqlen); VMamba has 4 groups, one per direction
    D, delta_bias: (dim,)
    nrows: how the CUDA kernel shared its work; no effect on the result

    Returns [out, x], out like u. x is what bwd asks for; x[:, :, -1, 1::2] is the last state,
    (batch, dim, dstate) in float32.
    """
    _check(u, A, B, C)
    if dispatch.use_cuda(u):
        return list(
            selective_scan_cuda.fwd(*_contiguous(u, delta), A, B, C, D, None, delta_bias, delta_softplus)[:2]
        )
    with torch.no_grad():
        out, last_state = dispatch.selective_scan(
            u, delta, A, B, C, D, None, delta_bias, delta_softplus, return_last_state=True
        )
    x = torch.zeros(
        *last_state.shape[:2], 1, 2 * last_state.shape[2], dtype=last_state.dtype, device=u.device
    )
    x[:, :, 0, 1::2] = last_state
    return [out, x]


def bwd(u, delta, A, B, C, D, delta_bias, dout, x, delta_softplus=False, nrows=1):
    """The gradients [du, ddelta, dA, dB, dC, dD, ddelta_bias], each like its tensor, None where that is None.

    dout: like u; x: as fwd returned it
    """
    _check(u, A, B, C)
    if dispatch.use_cuda(u):
        return list(
            selective_scan_cuda.bwd(
                *_contiguous(u, delta),
                A,
                B,
                C,
                D,
                None,
                delta_bias,
                dout.contiguous(),
                x,
                None,
                None,
                delta_softplus,
                False,
            )[:7]
        )
    inputs = [None if t is None else t.detach().requires_grad_() for t in (u, delta, A, B, C, D, delta_bias)]
    u, delta, A, B, C, D, delta_bias = inputs
    with torch.enable_grad():
        out = dispatch.selective_scan(u, delta, A, B, C, D, None, delta_bias, delta_softplus)
    grads = iter(torch.autograd.grad(out, [t for t in inputs if t is not None], dout))
    return [None if t is None else next(grads) for t in inputs]


def _check(u, A, B, C):
    if A.is_complex():
        raise RuntimeError("selective_scan_cuda_core takes a real A only")
    for name, tensor in (("B", B), ("C", C)):
        if tensor.dim() != 4 or u.shape[1] % tensor.shape[1]:
            raise RuntimeError(
                f"{name} must have shape (batch, ngroups, dstate, seqlen), ngroups a divisor of {u.shape[1]}, "
                f"and has {tuple(tensor.shape)}"
            )


def _contiguous(*tensors):
    return [t if t.stride(-1) == 1 else t.contiguous() for t in tensors]
