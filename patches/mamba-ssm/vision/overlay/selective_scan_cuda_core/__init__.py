"""The extension module that VMamba and Mamba-YOLO import, implemented with selective_scan_cuda.

In those repositories, the module is a CUDA extension built from a fork of upstream's sources. This module has the same
two functions, for CUDA tensors and for CPU tensors.
"""

import selective_scan_cuda as scan

__all__ = ["bwd", "fwd"]


def fwd(u, delta, A, B, C, D=None, delta_bias=None, delta_softplus=False, nrows=1):
    """
    u, delta: (batch, dim, seqlen)
    A: (dim, dstate), real
    B, C: (batch, ngroups, dstate, seqlen); VMamba uses 4 groups, one for each direction
    D, delta_bias: (dim,)
    nrows: accepted because the forks' kernel has this argument; ignored

    Returns [out, x]. out has the shape and dtype of u. x is an argument of bwd; x[:, :, -1, 1::2] is the last state,
    (batch, dim, dstate) in float32.
    """
    _check(A, B, C)
    return scan.fwd(*_contiguous(u, delta), A, B, C, D, None, delta_bias, delta_softplus)[:2]


def bwd(u, delta, A, B, C, D, delta_bias, dout, x, delta_softplus=False, nrows=1):
    """The gradients [du, ddelta, dA, dB, dC, dD, ddelta_bias].

    dout: the shape and dtype of u; x: as fwd returned it

    A gradient has the shape and dtype of its tensor, and is None where the tensor is None.
    """
    _check(A, B, C)
    u, delta, dout = _contiguous(u, delta, dout)
    return scan.bwd(u, delta, A, B, C, D, None, delta_bias, dout, x, None, None, delta_softplus, False)[:7]


def _check(A, B, C):
    if A.is_complex():
        raise RuntimeError("selective_scan_cuda_core takes a real A only")
    for name, tensor in (("B", B), ("C", C)):
        if tensor.dim() != 4:
            raise RuntimeError(
                f"{name} must have shape (batch, ngroups, dstate, seqlen), and has {tuple(tensor.shape)}"
            )


def _contiguous(*tensors):
    return [t if t.stride(-1) == 1 else t.contiguous() for t in tensors]
