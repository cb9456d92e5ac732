"""The module selective_scan_cuda: upstream's functions fwd and bwd, for CUDA tensors and for all others.

Other repositories import the extension by this name: copies of mamba_ssm, VMamba, transformers. A CUDA tensor goes
to the compiled extension of a CUDA wheel. Every other tensor is computed by selective_scan_cpu or by PyTorch.

This module does not import mamba_ssm: another repository's copy of mamba_ssm may come first on the path.
"""

import functools
import importlib.util
import os
import sys
import types
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F

try:
    import selective_scan_cpu
except ModuleNotFoundError:  # a wheel without compiled kernels
    selective_scan_cpu = None
except ImportError as error:
    warnings.warn(
        f"selective_scan_cpu is installed but does not load; PyTorch computes in its place: {error}", stacklevel=2
    )
    selective_scan_cpu = None

__all__ = ["HAS_CUDA", "bwd", "fwd"]

_SITE = Path(__file__).resolve().parents[1]


def _compiled():
    """The module with the compiled fwd and bwd, or None in a CPU wheel, which has no CUDA library."""
    if not Path(__file__).with_name("libselective_scan_cuda.so").is_file():
        return None
    return importlib.import_module(f"{__name__}._cuda")


@functools.cache
def _wheels_own(name):
    """A module below mamba_ssm.ops of this wheel, by file path: mamba_ssm may be another repository's copy."""
    package, _, module = f"ops.{name}".rpartition(".")
    holder = types.ModuleType(f"{__name__}._{package.replace('.', '_')}")
    holder.__path__ = [str(_SITE.joinpath("mamba_ssm", *package.split(".")))]
    sys.modules[holder.__name__] = holder
    return importlib.import_module(f"{holder.__name__}.{module}")


_exporting = _wheels_own("exporting")
_cuda = _compiled()
HAS_CUDA = _cuda is not None
"""Whether CUDA tensors are computed by compiled CUDA code. False in a CPU wheel."""


def fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """The scan of Mamba-1.

    u, delta, z: (batch, dim, seqlen), of one dtype; z may be None
    A: (dim, dstate), float32 or complex64
    B, C: (batch, ngroups, dstate, seqlen) in the dtype of u, or (dim, dstate) in the dtype of A; with a complex A, the
        length is 2 * seqlen
    D, delta_bias: (dim,) float32, or None

    Returns [out, x], or [out, x, out * silu(z)] where z is given. out has the shape and dtype of u. x is an
    argument of bwd;    x[:, :, -1, 1::2] is the state after the last step, (batch, dim, dstate) in the dtype of A.
    """
    if _use_cuda(u):
        return list(_cuda.fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus))
    _check(u, delta, A, B, C, z)
    if _exporting.form():
        words = (u, delta, A, B, C, D, None, delta_bias, bool(delta_softplus), True, False)
        out, state = _exporting.selective_scan(*words)
        x = torch.stack([torch.zeros_like(state), state], dim=-1).flatten(2).unsqueeze(2)
        return [out, x] if z is None else [out, x, out * F.silu(z)]
    with torch.no_grad():
        out, state = _scan(u, delta, A, B, C, D, None, delta_bias, delta_softplus, return_last_state=True)
        x = state.new_zeros(*state.shape[:2], 1, 2 * state.shape[2])
        x[:, :, 0, 1::2] = state
        if z is None:
            return [out, x]
        wide = torch.promote_types(out.dtype, torch.float32)
        return [out, x, (out.to(wide) * F.silu(z.to(wide))).to(out.dtype)]


def bwd(u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus, recompute_out_z):
    """The gradients [du, ddelta, dA, dB, dC, dD, ddelta_bias], then dz where z is given, then out * silu(z).

    dout: the shape and dtype of u; the gradient of fwd's out, or of out * silu(z) where z is given
    x, out: as fwd returned them; out is needed only with z
    dz: None, or a tensor of the shape and dtype of z that receives the gradient of z
    recompute_out_z: whether out * silu(z) is returned

    A gradient has the shape and dtype of its tensor, and is None where the tensor is None.
    """
    if _use_cuda(u):
        words = (u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus, recompute_out_z)
        return list(_cuda.bwd(*words))
    _check(u, delta, A, B, C, z)
    given = (u, delta, A, B, C, D, z, delta_bias)
    inputs = [None if t is None else t.detach().requires_grad_() for t in given]
    with torch.enable_grad():
        y = _scan(*inputs, delta_softplus)
    grads = iter(torch.autograd.grad(y, [t for t in inputs if t is not None], dout))
    *grads, dz_, ddelta_bias = [None if t is None else next(grads) for t in inputs]
    result = [*grads, ddelta_bias]
    if z is not None:
        result.append(dz_ if dz is None else dz.copy_(dz_))
        if recompute_out_z:
            result.append(y.detach())
    return result


def _force_fallback():
    word = os.environ.get("SELECTIVE_SCAN_FORCE_FALLBACK")
    return word is not None and word.strip().upper() in ("TRUE", "1", "YES", "ON")


def _use_cuda(u):
    # In a graph, a comparison of the number of elements would fix it.
    there = HAS_CUDA and u.is_cuda and (torch.compiler.is_compiling() or u.numel() > 0)
    return there and not _force_fallback() and not _exporting.form()


def _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state=False):
    words = (u, delta, A, B, C, D, z, delta_bias)
    if selective_scan_cpu is not None and not _force_fallback() and selective_scan_cpu.supports(*words):
        return selective_scan_cpu.selective_scan(*words, bool(delta_softplus), return_last_state)
    fallback = _wheels_own("fallback.selective_scan")
    return fallback.selective_scan(*words, bool(delta_softplus), return_last_state)


def _check(u, delta, A, B, C, z):
    """Raise RuntimeError, as the compiled extension does, for shapes that do not fit each other."""
    batch, dim, seqlen = u.shape
    for name, tensor in (("delta", delta), ("z", z)):
        if tensor is not None and tensor.shape != u.shape:
            raise RuntimeError(f"{name} must have the shape of u, {tuple(u.shape)}, and has {tuple(tensor.shape)}")
    if A.dim() != 2 or A.shape[0] != dim:
        raise RuntimeError(f"A must have shape ({dim}, dstate), and has {tuple(A.shape)}")
    dstate = A.shape[1]
    length = seqlen * (2 if A.is_complex() else 1)
    for name, tensor in (("B", B), ("C", C)):
        shape = tuple(tensor.shape)
        groups = shape[1] if len(shape) == 4 else 0
        if shape != (dim, dstate) and (
            groups == 0 or dim % groups or shape != (batch, groups, dstate, length)
        ):
            raise RuntimeError(
                f"{name} must have shape ({batch}, ngroups, {dstate}, {length}), ngroups a divisor of {dim}, "
                f"or ({dim}, {dstate}), and has {shape}"
            )
