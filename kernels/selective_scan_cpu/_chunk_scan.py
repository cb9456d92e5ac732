"""Mamba-2's scan. On a CPU there is nothing to gain from chunks: the state of a tile stays in the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _lib, _library
from ._library import view

_ops = torch.library.Library("selective_scan_cpu", "FRAGMENT")


def supports_chunk_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> bool:
    """Whether `chunk_scan` takes these tensors: on the CPU, float32, bfloat16 or float16, and no gradient wanted."""
    tensors = (x, dt, A, B, C, D, z, dt_bias, initial_states)
    return (
        _library.readable(*tensors)
        and x.dim() == B.dim() == C.dim() == 4
        and A.dim() == 1
        and _library.countable(seq_idx)
        and not _library.wants_grad(*tensors)
    )


def chunk_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba-2's scan over whole sequences, computed in float32. Not differentiable.

    Args:
        x, z: (batch, seqlen, heads, head_dim)
        dt: (batch, seqlen, heads)
        A, dt_bias: (heads,)
        B, C: (batch, seqlen, groups, dstate); heads // groups neighbouring heads share a group
        D: (heads, head_dim) or (heads,)
        initial_states: (batch, heads, head_dim, dstate), of the sequence numbered 0
        seq_idx: (batch, seqlen), integer: the state starts anew where it changes
        dt_softplus: whether softplus is applied to dt after its bias
        dt_limit: the least and the largest that dt may then be
        return_final_states: whether to return the state after the last step as well

    Returns:
        out of x's shape and dtype; with `return_final_states` the pair (out, final_states), the latter
        (batch, heads, head_dim, dstate) in float32.

    Raises:
        IndexError: seq_idx holds a number that int32 does not hold.
        ValueError: shapes that do not fit each other.
    """
    indices = _library.indices("seq_idx", seq_idx)
    low, high = (float(limit) for limit in dt_limit)
    args = (x, dt, A, B, C, D, z, dt_bias, initial_states, indices, bool(dt_softplus), low, high, return_final_states)
    if _library.is_plain_call(*args[:10]):
        out, final_states = _forward(*args)
    else:
        with torch.no_grad():
            out, final_states = torch.ops.selective_scan_cpu.chunk_scan(*args)
    return (out, final_states) if return_final_states else out


def _forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_states: Tensor | None,
    seq_idx: Tensor | None,
    dt_softplus: bool,
    dt_min: float,
    dt_max: float,
    return_final_states: bool,
) -> tuple[Tensor, Tensor]:
    batch, seqlen, heads, head_dim = x.shape
    groups, dstate = B.shape[2], B.shape[3]
    _check(x, dt, A, B, C, D, z, dt_bias, initial_states, seq_idx)
    A = A.float()
    out, final_states = _library.output_like(x), _final_states(x, B, return_final_states)
    in_time, parameter = (0, 2, 3, 1), (0, -1)
    _lib.selective_scan_forward(
        batch=batch, heads=heads, head_dim=head_dim, seqlen=seqlen, dstate=dstate, groups=groups,
        delta_softplus=dt_softplus, tied_A=True, variable_B=True, variable_C=True, threads=torch.get_num_threads(),
        u=view(x, *in_time), delta=view(dt, 0, 2, -1, 1), z=view(z, *in_time), out=view(out, *in_time),
        A=view(A, 0, -1, -1), D=view(D, *((0, 1) if D is not None and D.dim() == 2 else parameter)),
        delta_bias=view(dt_bias, *parameter), B=view(B, 0, 2, 3, 1), C=view(C, 0, 2, 3, 1),
        first_state=view(initial_states), last_state=view(final_states if return_final_states else None),
        delta_min=dt_min, delta_max=dt_max, seq_idx=0 if seq_idx is None else _library.address(seq_idx),
    )  # fmt: skip
    return out, final_states


def _final_states(x: Tensor, B: Tensor, wanted: bool) -> Tensor:
    shape = (x.shape[0], x.shape[2], x.shape[3], B.shape[3]) if wanted else (0,)
    return x.new_empty(shape, dtype=torch.float32)


def _check(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_states: Tensor | None,
    seq_idx: Tensor | None,
) -> None:
    batch, seqlen, heads, head_dim = x.shape
    groups, dstate = B.shape[2:]
    if groups == 0 or heads % groups:
        raise ValueError(f"{heads} heads are not a multiple of {groups} groups")
    for name, tensor, shape in (
        ("dt", dt, (batch, seqlen, heads)),
        ("A", A, (heads,)),
        ("B", B, (batch, seqlen, groups, dstate)),
        ("C", C, (batch, seqlen, groups, dstate)),
        ("D", D, (heads, head_dim) if D is not None and D.dim() == 2 else (heads,)),
        ("z", z, x.shape),
        ("dt_bias", dt_bias, (heads,)),
        ("initial_states", initial_states, (batch, heads, head_dim, dstate)),
        ("seq_idx", seq_idx, (batch, seqlen)),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")


def _fake_forward(x: Tensor, B: Tensor, return_final_states: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), _final_states(x, B, return_final_states)


_library.register(_ops, "chunk_scan", _forward, _fake_forward)
