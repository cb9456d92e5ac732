"""The selective scan of Mamba-1: its forward and backward kernels as torch operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _lib, _library
from ._interface import DTYPES, View
from ._library import view

_ops = torch.library.Library("selective_scan_cpu", "FRAGMENT")


def supports(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
) -> bool:
    """Whether `selective_scan` takes these tensors.

    They must be on the CPU, float32, bfloat16 or float16, u, delta and z of one dtype, and A real and float32.
    """
    return (
        _library.readable(u, delta, A, B, C, D, z, delta_bias)
        and u.dim() == 3
        and A.dim() == 2
        and A.dtype == torch.float32
        and 2 <= B.dim() <= 4
        and 2 <= C.dim() <= 4
    )


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    reverse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Runs a diagonal linear system along time, one of `dstate` numbers for each of `dim` channels.

    With delta after its bias and softplus, h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t] and
    out[t] = (C[t] . h[t] + D u[t]) silu(z[t]), computed in float32. Differentiable, but for the last state.

    Args:
        u, delta, z: (batch, dim, seqlen), float32, bfloat16 or float16
        A: (dim, dstate), float32
        B, C: (batch, dstate, seqlen) or (batch, groups, dstate, seqlen), or constant in time (dim, dstate)
        D, delta_bias: (dim,)
        delta_softplus: whether softplus is applied to delta after its bias
        return_last_state: whether to return the state after the last step as well
        reverse: whether time runs from the last step to the first; equal to flipping all inputs and the output

    Returns:
        out of u's shape and dtype; with `return_last_state` the pair (out, last_state), the latter
        (batch, dim, dstate) in float32.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    args = (u, delta, A, B, C, D, z, delta_bias, bool(delta_softplus), bool(return_last_state), bool(reverse))
    if _library.is_plain_call(u, delta, A, B, C, D, z, delta_bias):
        out, last_state = _forward(*args)
    else:
        out, last_state = torch.ops.selective_scan_cpu.scan(*args)
    return (out, last_state) if return_last_state else out


def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    return_last_state: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    check(u, delta, A, B, C, D, z, delta_bias)
    batch, dim, seqlen = u.shape
    out = _library.output_like(u)
    last_state = _last_state(u, A, return_last_state)
    groups = _groups(B, C)
    _lib.selective_scan_forward(
        batch=batch, heads=groups, head_dim=dim // groups, seqlen=seqlen, dstate=A.shape[1], groups=groups,
        delta_softplus=delta_softplus, tied_A=False, variable_B=B.dim() > 2, variable_C=C.dim() > 2,
        threads=torch.get_num_threads(), u=channels(u, groups, reverse), delta=channels(delta, groups, reverse),
        z=channels(z, groups, reverse), out=channels(out, groups, reverse), A=parameter(A, groups),
        D=parameter(D, groups), delta_bias=parameter(delta_bias, groups),
        B=projection(B, groups, reverse), C=projection(C, groups, reverse),
        last_state=channels(last_state if return_last_state else None, groups),
    )  # fmt: skip
    return out, last_state


def _last_state(u: Tensor, A: Tensor, wanted: bool) -> Tensor:
    return u.new_empty((u.shape[0], u.shape[1], A.shape[1]) if wanted else (0,), dtype=torch.float32)


def _backward(
    grad_out: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, dim, seqlen = u.shape
    groups, dstate, threads = _groups(B, C), A.shape[1], torch.get_num_threads()
    grad_u, grad_delta = _library.output_like(u), _library.output_like(delta)
    grad_z = _library.output_like(z) if z is not None else None
    # Threads share out the batch first: its parts need no copy of the gradients of B and C.
    batch_parts = max(1, min(batch, threads))
    channel_parts = -(-threads // batch_parts)

    def sums(wanted: bool, *shape: Any) -> Tensor:
        return torch.zeros(shape if wanted else (0,), dtype=torch.float32)

    def projection_sums(tensor: Tensor) -> Tensor:
        if tensor.dim() == 2:
            return sums(True, batch_parts, dim, dstate)
        return sums(True, channel_parts, batch, groups, seqlen, dstate)

    grad_A = sums(True, batch_parts, dim, dstate)
    grad_B, grad_C = projection_sums(B), projection_sums(C)
    grad_D, grad_bias = sums(D is not None, batch_parts, dim), sums(delta_bias is not None, batch_parts, dim)
    if u.numel():
        _lib.selective_scan_backward(
            batch=batch, heads=groups, head_dim=dim // groups, seqlen=seqlen, dstate=dstate, groups=groups,
            delta_softplus=delta_softplus, tied_A=False, variable_B=B.dim() > 2, variable_C=C.dim() > 2,
            threads=threads, u=channels(u, groups, reverse), delta=channels(delta, groups, reverse),
            z=channels(z, groups, reverse), A=parameter(A, groups), D=parameter(D, groups),
            delta_bias=parameter(delta_bias, groups), B=projection(B, groups, reverse),
            C=projection(C, groups, reverse), grad_out=channels(grad_out, groups, reverse),
            grad_u=channels(grad_u, groups, reverse), grad_delta=channels(grad_delta, groups, reverse),
            grad_z=channels(grad_z, groups, reverse), grad_A=grad_A.data_ptr(),
            grad_D=grad_D.data_ptr() if D is not None else 0,
            grad_bias=grad_bias.data_ptr() if delta_bias is not None else 0,
            grad_B=grad_B.data_ptr(), grad_C=grad_C.data_ptr(), batch_parts=batch_parts, channel_parts=channel_parts,
        )  # fmt: skip

    def total(parts: Tensor, like: Tensor | None) -> Tensor:
        if like is None:
            return parts
        parts = parts[0] if len(parts) == 1 else parts.sum(0)
        if like.dim() > 2:  # (batch, groups, seqlen, dstate)
            parts = (parts.flip(2) if reverse else parts).transpose(2, 3)
            parts = parts.squeeze(1) if like.dim() == 3 else parts
        return parts.to(like.dtype)

    return (
        grad_u, grad_delta, total(grad_A, A), total(grad_B, B), total(grad_C, C), total(grad_D, D),
        grad_z if z is not None else grad_D.new_empty(0), total(grad_bias, delta_bias),
    )  # fmt: skip


def channels(tensor: Tensor | None, groups: int, reverse: bool = False) -> View:
    """A (batch, dim, seqlen) tensor as (batch, head, head_dim, seqlen), with one head for each group of B and C."""
    if tensor is None:
        return view(None)
    batch, dim, step = tensor.stride()
    fields = (DTYPES[tensor.dtype], batch, dim * (tensor.shape[1] // groups), dim)
    return _in_time(tensor, fields, step, reverse)


def projection(tensor: Tensor, groups: int, reverse: bool) -> View:
    """B or C: variable in time, with or without an axis of groups, or constant in time."""
    if tensor.dim() == 2:
        return parameter(tensor, groups)
    batch, *group, state, step = tensor.stride()
    return _in_time(tensor, (DTYPES[tensor.dtype], batch, *(group or (0,)), state), step, reverse)


def _in_time(tensor: Tensor, fields: tuple[int, ...], step: int, reverse: bool) -> View:
    """A view whose last axis is time; with `reverse` it starts at the last step and has a negative stride."""
    start = tensor.data_ptr()
    if start < _library.LOW:
        start = _library.address(tensor)
    if not reverse:
        return (start, *fields, step)
    return (start + max(0, tensor.shape[-1] - 1) * step * tensor.element_size(), *fields, -step)


def parameter(tensor: Tensor | None, groups: int) -> View:
    """(dim,) as (head, head_dim), or (dim, dstate) as (head, head_dim, dstate)."""
    if tensor is None:
        return view(None)
    dim, *state = tensor.stride()
    start = tensor.data_ptr()
    if start < _library.LOW:
        start = _library.address(tensor)
    fields = (start, DTYPES[tensor.dtype], dim * (tensor.shape[0] // groups), dim, *state)
    return fields + (0,) * (6 - len(fields))


def _groups(B: Tensor, C: Tensor) -> int:
    return B.shape[1] if B.dim() == 4 else C.shape[1] if C.dim() == 4 else 1


def check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    """Raises ValueError where a shape does not fit the others."""
    batch, dim, seqlen = u.shape
    groups, dstate = _groups(B, C), A.shape[1]
    if groups == 0 or dim % groups:
        raise ValueError(f"dim {dim} is not a multiple of the {groups} groups of B and C")

    def projection(t: Tensor) -> tuple[int, ...]:
        if t.dim() == 2:
            return (dim, dstate)
        return (batch, groups, dstate, seqlen) if t.dim() == 4 else (batch, dstate, seqlen)

    for name, tensor, shape in (
        ("delta", delta, u.shape),
        ("z", z, u.shape),
        ("A", A, (dim, dstate)),
        ("B", B, projection(B)),
        ("C", C, projection(C)),
        ("D", D, (dim,)),
        ("delta_bias", delta_bias, (dim,)),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
    if groups > 1 and 3 in (B.dim(), C.dim()):
        raise ValueError(f"B and C must both have an axis of groups, or neither: {tuple(B.shape)}, {tuple(C.shape)}")


def _fake_forward(u: Tensor, A: Tensor, return_last_state: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(u), _last_state(u, A, return_last_state)


def _fake_backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    def projection(t: Tensor) -> Tensor:
        # The kernel's sums have the state innermost, and are then transposed.
        return torch.empty_like(t) if t.dim() == 2 else torch.empty_like(t.mT, memory_format=torch.contiguous_format).mT

    def optional(t: Tensor | None) -> Tensor:
        return u.new_empty(0, dtype=torch.float32) if t is None else torch.empty_like(t)

    return (
        torch.empty_like(u), torch.empty_like(delta), torch.empty_like(A, memory_format=torch.contiguous_format),
        projection(B), projection(C), optional(D), optional(z), optional(delta_bias),
    )  # fmt: skip


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    *tensors, ctx.delta_softplus, _, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, grad_out: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_out is None:
        return (None,) * 11
    saved = ctx.saved_tensors
    grads = torch.ops.selective_scan_cpu.scan_backward(grad_out, *saved, ctx.delta_softplus, ctx.reverse)
    u, delta, A, B, C, D, z, bias = grads
    D, z, bias = (None if t is None else grad for t, grad in zip(saved[5:], (D, z, bias), strict=True))
    return u, delta, A, B, C, D, z, bias, None, None, None


_library.register(_ops, "scan", _forward, _fake_forward)
_library.register(_ops, "scan_backward", _backward, _fake_backward)
_library.differentiable(_ops, "scan", _autograd, _setup_context, "SELECTIVE_SCAN_FORCE_FALLBACK")
