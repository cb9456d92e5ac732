"""The single step of decoding, for Mamba-1 and Mamba-2."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _lib, _library
from ._library import view

_ops = torch.library.Library("selective_scan_cpu", "FRAGMENT")


def supports_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> bool:
    """Whether `selective_state_update` takes these tensors: on the CPU, float32, bfloat16 or float16, and A real."""
    return (
        _library.readable(state, x, dt, A, B, C, D, z, dt_bias)
        and x.dim() in (2, 3)
        and state.dim() == x.dim() + 1
        and A.dim() == x.dim()
        and B.dim() == C.dim() == x.dim()
        and _library.countable(state_batch_indices)
    )


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """Moves each channel's state one step on, in place, and returns the step's output. Not differentiable.

    The axis of heads may be left out of all tensors, and that of groups with it.

    Args:
        state: (entries, heads, dim, dstate)
        x, dt, z: (batch, heads, dim)
        A: (heads, dim, dstate)
        B, C: (batch, groups, dstate); heads // groups neighbouring heads share a group
        D, dt_bias: (heads, dim)
        dt_softplus: whether softplus is applied to dt after its bias
        state_batch_indices: (batch,), integer: the entry of state that each row has; negative is padding, which
            gives zeros

    Returns:
        out of x's shape and dtype.

    Raises:
        IndexError: an entry past the end of state.
        RuntimeError: state has elements that share memory.
        ValueError: shapes that do not fit each other.
    """
    indices = _library.indices("state_batch_indices", state_batch_indices)
    args = (state, x, dt, A, B, C, D, z, dt_bias, bool(dt_softplus), indices)
    if _library.is_plain_call(state, x, dt, A, B, C, D, z, dt_bias, indices):
        return _update(*args)
    with torch.no_grad():
        return torch.ops.selective_scan_cpu.state_update(*args)


def _update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state_batch_indices: Tensor | None,
) -> Tensor:
    heads, dim = (x.shape[1], x.shape[2]) if x.dim() == 3 else (1, x.shape[1])
    groups = B.shape[1] if x.dim() == 3 else 1
    batch, dstate = x.shape[0], state.shape[-1]
    _check(state, x, dt, A, B, C, D, z, dt_bias, state_batch_indices, groups)
    x = _library.apart("state", state, x)
    out = torch.empty_like(x)
    # Without an axis of heads there is one head, and its axis does not move.
    row, parameter, states, rates = (
        ((0, 1, 2), (0, 1), (0, 1, 2, 3), (0, 1, 2)) if x.dim() == 3
        else ((0, -1, 1), (-1, 0), (0, -1, 1, 2), (-1, 0, 1))
    )  # fmt: skip
    _lib.selective_state_update(
        batch=batch, heads=heads, head_dim=dim, dstate=dstate, groups=groups, dt_softplus=dt_softplus, A_is_log=False,
        threads=torch.get_num_threads(), state=view(state, *states), x=view(x, *row), dt=view(dt, *row),
        z=view(z, *row), out=view(out, *row), A=view(A, *rates), B=view(B, *row), C=view(C, *row),
        D=view(D, *parameter), dt_bias=view(dt_bias, *parameter),
        state_indices=0 if state_batch_indices is None else _library.address(state_batch_indices),
    )  # fmt: skip
    _library.written(state)
    return out


def _check(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    indices: Tensor | None,
    groups: int,
) -> None:
    batch, dstate = x.shape[0], state.shape[-1]
    channels = x.shape[1:]
    projection = (batch, groups, dstate) if x.dim() == 3 else (batch, dstate)
    if x.dim() == 3 and (groups == 0 or x.shape[1] % groups):
        raise ValueError(f"{x.shape[1]} heads are not a multiple of {groups} groups")
    entries = batch if indices is None else state.shape[0]
    for name, tensor, shape in (
        ("state", state, (entries, *channels, dstate)),
        ("dt", dt, x.shape),
        ("z", z, x.shape),
        ("A", A, (*channels, dstate)),
        ("B", B, projection),
        ("C", C, projection),
        ("D", D, channels),
        ("dt_bias", dt_bias, channels),
        ("state_batch_indices", indices, (batch,)),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
    if indices is not None and batch and int(indices.max()) >= entries:
        raise IndexError(f"state_batch_indices names entry {int(indices.max())} of {entries}")


def _fake_update(x: Tensor) -> Tensor:
    return torch.empty_like(x)


_library.register(_ops, "state_update", _update, _fake_update, writes=(0,))
