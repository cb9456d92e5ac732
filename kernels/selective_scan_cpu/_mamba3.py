"""Mamba-3's scan over whole sequences, SISO and MIMO."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _lib, _library
from ._library import view

_ops = torch.library.Library("selective_scan_cpu", "FRAGMENT")

States = tuple[Tensor, Tensor, Tensor, Tensor]
"""angle (sequences, heads, angles), state (sequences, heads, head_dim, dstate), k (sequences, rank, heads, dstate) and
v (sequences, heads, head_dim): the angle of the last step, its state, its rotated k, and its v."""


def supports_mamba3(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    adt: Tensor,
    dt: Tensor,
    trap: Tensor,
    q_bias: Tensor,
    k_bias: Tensor,
    angles: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    mimo_v: Tensor | None = None,
    mimo_z: Tensor | None = None,
    mimo_out: Tensor | None = None,
    states: States | None = None,
    cu_seqlens: Tensor | None = None,
) -> bool:
    """Whether `mamba3` takes these tensors: on the CPU, of 16 or 32 bits; with mimo_v, no gradient wanted."""
    tensors = (q, k, v, adt, dt, trap, q_bias, k_bias, angles, D, z, mimo_v, mimo_z, mimo_out, *(states or ()))
    return (
        _library.readable(*tensors)
        and q.dim() == k.dim() == 5
        and v.dim() == angles.dim() == 4
        and _library.countable(cu_seqlens)
        and (mimo_v is None or not _library.wants_grad(*tensors))
    )


def mamba3(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    adt: Tensor,
    dt: Tensor,
    trap: Tensor,
    q_bias: Tensor,
    k_bias: Tensor,
    angles: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    mimo_v: Tensor | None = None,
    mimo_z: Tensor | None = None,
    mimo_out: Tensor | None = None,
    states: States | None = None,
    cu_seqlens: Tensor | None = None,
    neighbours: bool = True,
) -> tuple[Tensor, States]:
    """Mamba-3's scan, computed in float32. Differentiable once, where mimo_v is not given.

    csrc/selective_scan_cpu/mamba3.h has the equations.

    Args:
        q, k: (batch, seqlen, rank, groups, dstate); heads // groups neighbouring heads share a group
        v, z: (batch, seqlen, heads, head_dim)
        adt, dt, trap: (batch, heads, seqlen); trap before its sigmoid
        q_bias, k_bias: (heads, rank, dstate)
        angles: (batch, seqlen, heads, angles), before their tanh; at most dstate // 2
        D: (heads,)
        mimo_v, mimo_z, mimo_out: (heads, rank, head_dim); without mimo_v, the rank is 1 and there is no other of them
        states: what the sequences begin with; zeros by default
        cu_seqlens: (sequences + 1,), integer: the bounds of the sequences that are packed in a batch of 1
        neighbours: whether elements 2 i and 2 i + 1 of q and k are rotated, not elements i and i + dstate // 2

    Returns:
        out in v's dtype, of v's shape, or (batch, seqlen, rank, heads, head_dim) where mimo_v is given and mimo_out is
        not; and the states after the last steps, the first three in float32.

    Raises:
        IndexError: cu_seqlens does not rise from 0 to seqlen.
        ValueError: shapes that do not fit each other.
    """
    bounds = _library.indices("cu_seqlens", cu_seqlens)
    first_angle, first_state, first_k, first_v = (None,) * 4 if states is None else states
    tensors = (
        q, k, v, adt, dt, trap, q_bias, k_bias, angles, D, z, mimo_v, mimo_z, mimo_out,
        first_angle, first_state, first_k, first_v, bounds,
    )  # fmt: skip
    if _library.is_plain_call(*tensors):
        out, last_angle, last_state, last_k = _forward(*tensors, bool(neighbours))
    else:
        with torch.set_grad_enabled(torch.is_grad_enabled() and mimo_v is None):
            out, last_angle, last_state, last_k = torch.ops.selective_scan_cpu.mamba3(*tensors, bool(neighbours))
    return out, (last_angle, last_state, last_k, _last_v(v, first_v, cu_seqlens))


def _last_v(v: Tensor, first: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
    """v of the last step of each sequence; of a sequence without steps, what it began with."""
    if cu_seqlens is None:
        if v.shape[1]:
            return v[:, -1]
        return v.new_zeros(v.shape[0], *v.shape[2:]) if first is None else first.to(v.dtype)
    ends, empty = cu_seqlens[1:].long(), (cu_seqlens[1:] == cu_seqlens[:-1])[:, None, None]
    if not v.shape[1]:
        return v.new_zeros(len(ends), *v.shape[2:]) if first is None else first.to(v.dtype)
    last = v[0, (ends - 1).clamp(min=0)]
    return torch.where(empty, v.new_zeros(()) if first is None else first.to(v.dtype), last)


class _Inputs(NamedTuple):
    """The tensors of a call, as `mamba3` takes them."""

    q: Tensor
    k: Tensor
    v: Tensor
    adt: Tensor
    dt: Tensor
    trap: Tensor
    q_bias: Tensor
    k_bias: Tensor
    angles: Tensor
    D: Tensor | None
    z: Tensor | None
    mimo_v: Tensor | None
    mimo_z: Tensor | None
    mimo_out: Tensor | None
    first_angle: Tensor | None
    first_state: Tensor | None
    first_k: Tensor | None
    first_v: Tensor | None
    cu_seqlens: Tensor | None


class _Shape(NamedTuple):
    """The sizes of a call."""

    batch: int
    seqlen: int
    rank: int
    groups: int
    dstate: int
    heads: int
    head_dim: int
    angles: int
    sequences: int


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    adt: Tensor,
    dt: Tensor,
    trap: Tensor,
    q_bias: Tensor,
    k_bias: Tensor,
    angles: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    mimo_v: Tensor | None,
    mimo_z: Tensor | None,
    mimo_out: Tensor | None,
    first_angle: Tensor | None,
    first_state: Tensor | None,
    first_k: Tensor | None,
    first_v: Tensor | None,
    cu_seqlens: Tensor | None,
    neighbours: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = _Inputs(
        q, k, v, adt, dt, trap, q_bias, k_bias, angles, D, z, mimo_v, mimo_z, mimo_out,
        first_angle, first_state, first_k, first_v, cu_seqlens,
    )  # fmt: skip
    fields = _fields(_check(inputs), inputs, neighbours)
    out, last_angle, last_state, last_k = _results(q, v, angles, mimo_v, mimo_out, cu_seqlens)
    out = _library.on_large_pages(out)
    rows = (0, 1, 2) if out.dim() == 4 else (0, 2, 3)
    _lib.mamba3_scan_forward(
        **fields.views, out=view(out, *rows), last_angle=view(last_angle), last_state=view(last_state),
        last_k=view(last_k),
    )  # fmt: skip
    return out, last_angle, last_state, last_k


class _Fields(NamedTuple):
    """The fields of the kernels' common argument, and the tensors whose memory they name."""

    views: dict[str, Any]
    tensors: tuple[Tensor | None, ...]


def _fields(shape: _Shape, inputs: _Inputs, neighbours: bool) -> _Fields:
    q, k = (t if _in_rows(t) else t.contiguous() for t in (inputs.q, inputs.k))
    v, angles, q_bias, k_bias = (_dense(t) for t in (inputs.v, inputs.angles, inputs.q_bias, inputs.k_bias))
    z, mimo_v, mimo_z, mimo_out = (_dense(t) for t in (inputs.z, inputs.mimo_v, inputs.mimo_z, inputs.mimo_out))
    first_angle, first_state, first_k, first_v = (_dense(t) for t in inputs[14:18])
    rows = 2 if shape.rank > 1 else 1  # the axis whose stride leads from row to row
    views = {
        "sequences": shape.sequences,
        "seqlen": shape.seqlen,
        "heads": shape.heads,
        "groups": shape.groups,
        "rank": shape.rank,
        "head_dim": shape.head_dim,
        "dstate": shape.dstate,
        "angles": shape.angles,
        "neighbours": neighbours,
        "threads": torch.get_num_threads(),
        "q": view(q, 0, rows, 3),
        "k": view(k, 0, rows, 3),
        "v": view(v, 0, 1, 2),
        "z": view(z, 0, 1, 2),
        "adt": view(inputs.adt),
        "dt": view(inputs.dt),
        "trap": view(inputs.trap),
        "rates": view(angles, 0, 1, 2),
        "q_bias": view(q_bias, 0, 1),
        "k_bias": view(k_bias, 0, 1),
        "D": view(inputs.D),
        "mimo_v": view(mimo_v, 0, 1),
        "mimo_z": view(mimo_z, 0, 1),
        "mimo_out": view(mimo_out, 0, 1),
        "first_angle": view(first_angle, 0, 1),
        "first_v": view(first_v, 0, 1),
        "first_state": view(first_state, 0, 1, 2),
        "first_k": view(first_k, 0, 1, 2),
        "bounds": 0 if inputs.cu_seqlens is None else _library.address(inputs.cu_seqlens),
    }
    kept = (q, k, v, angles, q_bias, k_bias, z, mimo_v, mimo_z, mimo_out, first_angle, first_state, first_k, first_v)
    return _Fields(views, kept)


def _in_rows(t: Tensor) -> bool:
    """Whether the steps and ranks of q or k are rows at one distance, and the elements of a row adjacent."""
    return t.stride(4) == 1 and (t.shape[2] == 1 or t.stride(1) == t.shape[2] * t.stride(2))


def _dense(t: Any) -> Any:
    return t if t is None or t.stride(-1) == 1 else t.contiguous()


def _results(
    q: Tensor, v: Tensor, angles: Tensor, mimo_v: Tensor | None, mimo_out: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, seqlen, rank, _, dstate = q.shape
    heads, head_dim = v.shape[2:]
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    whole = mimo_v is not None and mimo_out is None
    return (
        v.new_empty((batch, seqlen, rank, heads, head_dim) if whole else v.shape),
        v.new_empty((sequences, heads, angles.shape[-1]), dtype=torch.float32),
        v.new_empty((sequences, heads, head_dim, dstate), dtype=torch.float32),
        v.new_empty((sequences, rank, heads, dstate), dtype=torch.float32),
    )


def _check(inputs: _Inputs) -> _Shape:
    q, k, v, adt, dt, trap, q_bias, k_bias, angles, D, z, mimo_v, mimo_z, mimo_out, *first, cu_seqlens = inputs
    batch, seqlen, rank, groups, dstate = q.shape
    heads, head_dim = v.shape[2:]
    count = angles.shape[3]
    if groups == 0 or heads % groups:
        raise ValueError(f"{heads} heads are not a multiple of {groups} groups")
    if rank == 0 or (mimo_v is None and (rank > 1 or mimo_z is not None or mimo_out is not None)):
        raise ValueError("mimo_v is needed for a rank above 1, and for mimo_z and mimo_out")
    if (mimo_z is None) != (z is None or mimo_v is None):
        raise ValueError("mimo_z is needed where z and mimo_v are given, and only there")
    if 2 * count > dstate:
        raise ValueError(f"{count} angles rotate {2 * count} elements, and q and k have {dstate}")
    if any(t is None for t in first) and any(t is not None for t in first):
        raise ValueError("the states are given together or not at all")
    if cu_seqlens is not None and batch != 1:
        raise ValueError(f"cu_seqlens needs a batch of 1, and the batch is {batch}")
    sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    projection, weight = (batch, heads, seqlen), (heads, rank, head_dim)
    for name, tensor, expected in (
        ("k", k, tuple(q.shape)),
        ("v", v, (batch, seqlen, heads, head_dim)),
        ("z", z, (batch, seqlen, heads, head_dim)),
        ("adt", adt, projection),
        ("dt", dt, projection),
        ("trap", trap, projection),
        ("q_bias", q_bias, (heads, rank, dstate)),
        ("k_bias", k_bias, (heads, rank, dstate)),
        ("angles", angles, (batch, seqlen, heads, count)),
        ("D", D, (heads,)),
        ("mimo_v", mimo_v, weight),
        ("mimo_z", mimo_z, weight),
        ("mimo_out", mimo_out, weight),
        ("the angle of the states", first[0], (sequences, heads, count)),
        ("the state", first[1], (sequences, heads, head_dim, dstate)),
        ("k of the states", first[2], (sequences, rank, heads, dstate)),
        ("v of the states", first[3], (sequences, heads, head_dim)),
        ("cu_seqlens", cu_seqlens, (sequences + 1,)),
    ):
        if tensor is not None and tensor.shape != expected:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {expected}")
    if cu_seqlens is not None:
        bounds = cu_seqlens.tolist()
        if not bounds or bounds[0] != 0 or bounds[-1] != seqlen or sorted(bounds) != bounds:
            raise IndexError(f"cu_seqlens must rise from 0 to {seqlen}")
    return _Shape(batch, seqlen, rank, groups, dstate, heads, head_dim, count, sequences)


def _backward(
    grad_out: Tensor,
    grad_last_angle: Tensor | None,
    grad_last_state: Tensor | None,
    grad_last_k: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    adt: Tensor,
    dt: Tensor,
    trap: Tensor,
    q_bias: Tensor,
    k_bias: Tensor,
    angles: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    mimo_v: Tensor | None,
    mimo_z: Tensor | None,
    mimo_out: Tensor | None,
    first_angle: Tensor | None,
    first_state: Tensor | None,
    first_k: Tensor | None,
    first_v: Tensor | None,
    cu_seqlens: Tensor | None,
    neighbours: bool,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
    Tensor,
]:  # fmt: skip
    first = (first_angle, first_state, first_k, first_v)
    inputs = _Inputs(q, k, v, adt, dt, trap, q_bias, k_bias, angles, D, z, mimo_v, mimo_z, mimo_out, *first, cu_seqlens)
    shape = _check(inputs)
    fields = _fields(shape, inputs, neighbours)
    batch, seqlen, _, groups, dstate = q.shape
    heads, head_dim, sequences = shape.heads, shape.head_dim, shape.sequences
    # The threads share the sequences and groups first: only parts of a group's heads need copies of grad_q.
    parts = max(1, min(heads // groups, -(-torch.get_num_threads() // max(1, sequences * groups))))

    def sums(*sizes: int) -> Tensor:  # not of torch's default dtype or device
        return v.new_zeros(sizes, dtype=torch.float32)

    def of_first(*sizes: int) -> Tensor:
        return sums(0) if first_state is None else sums(*sizes)

    grad_q, grad_k = (sums(parts, batch, seqlen, groups, dstate) for _ in range(2))
    grad_adt, grad_dt, grad_trap = (sums(batch, heads, seqlen) for _ in range(3))
    grad_rates = sums(batch, seqlen, heads, shape.angles)
    grad_q_bias, grad_k_bias = (sums(sequences, heads, dstate) for _ in range(2))
    grad_D = sums(0) if D is None else sums(sequences, heads)
    grad_v, grad_z = (None if t is None else t.new_zeros(t.shape) for t in (v, z))
    grad_first = [
        of_first(sequences, heads, shape.angles), of_first(sequences, heads, head_dim, dstate),
        of_first(sequences, 1, heads, dstate), of_first(sequences, heads, head_dim),
    ]  # fmt: skip
    grad_out = _dense(grad_out)
    last = [_dense(grad) for grad in (grad_last_angle, grad_last_state, grad_last_k)]
    _lib.mamba3_scan_backward(
        **fields.views, grad_out=view(grad_out, 0, 1, 2), grad_v=view(grad_v, 0, 1, 2), grad_z=view(grad_z, 0, 1, 2),
        grad_last_angle=view(last[0], 0, 1), grad_last_state=view(last[1], 0, 1, 2), grad_last_k=view(last[2], 0, 1, 2),
        grad_q=grad_q.data_ptr(), grad_k=grad_k.data_ptr(), grad_adt=grad_adt.data_ptr(), grad_dt=grad_dt.data_ptr(),
        grad_trap=grad_trap.data_ptr(), grad_rates=grad_rates.data_ptr(), grad_q_bias=grad_q_bias.data_ptr(),
        grad_k_bias=grad_k_bias.data_ptr(), grad_D=grad_D.data_ptr(), grad_first_angle=grad_first[0].data_ptr(),
        grad_first_state=grad_first[1].data_ptr(), grad_first_k=grad_first[2].data_ptr(),
        grad_first_v=grad_first[3].data_ptr(), batch=batch, parts=parts,
    )  # fmt: skip
    like = [grad if tensor is None else grad.to(tensor.dtype) for grad, tensor in zip(grad_first, first, strict=True)]
    return (
        grad_q.sum(0).unsqueeze(2).to(q.dtype), grad_k.sum(0).unsqueeze(2).to(k.dtype), grad_v, grad_adt.to(adt.dtype),
        grad_dt.to(dt.dtype), grad_trap.to(trap.dtype), grad_q_bias.sum(0).unsqueeze(1).to(q_bias.dtype),
        grad_k_bias.sum(0).unsqueeze(1).to(k_bias.dtype), grad_rates.to(angles.dtype),
        grad_D if D is None else grad_D.sum(0).to(D.dtype), sums(0) if grad_z is None else grad_z, *like,
    )  # fmt: skip


def _fake_backward(
    q: Tensor, k: Tensor, v: Tensor, adt: Tensor, dt: Tensor, trap: Tensor, q_bias: Tensor, k_bias: Tensor,
    angles: Tensor, D: Tensor | None, z: Tensor | None, first_angle: Tensor | None, first_state: Tensor | None,
    first_k: Tensor | None, first_v: Tensor | None,
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
    Tensor,
]:  # fmt: skip
    def like(t: Tensor | None) -> Tensor:
        if t is None:
            return v.new_empty(0, dtype=torch.float32)
        return torch.empty_like(t, memory_format=torch.contiguous_format)

    return (
        like(q), like(k), like(v), like(adt), like(dt), like(trap), like(q_bias), like(k_bias), like(angles), like(D),
        like(z), like(first_angle), like(first_state), like(first_k), like(first_v),
    )  # fmt: skip


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    *tensors, ctx.neighbours = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    if all(grad is None for grad in grads):
        return (None,) * (len(saved) + 1)
    grad_out = torch.zeros_like(saved[2]) if grads[0] is None else grads[0]
    result = torch.ops.selective_scan_cpu.mamba3_backward(grad_out, *grads[1:], *saved, ctx.neighbours)
    needed = [*saved[:11], *saved[14:18]]
    *of_inputs, angle, state, k, v = (
        None if tensor is None else grad for tensor, grad in zip(needed, result, strict=True)
    )
    return (*of_inputs, None, None, None, angle, state, k, v, None, None)


_library.register(_ops, "mamba3", _forward, _results)
_library.register(_ops, "mamba3_backward", _backward, _fake_backward)
_library.differentiable(_ops, "mamba3", _autograd, _setup_context, "SELECTIVE_SCAN_FORCE_FALLBACK")
