"""The selective scan as Mamba's block has it: with delta, B and C as its projection leaves them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _lib, _library
from ._scan import channels, parameter

_ops = torch.library.Library("selective_scan_cpu", "FRAGMENT")


def supports_projected_scan(
    u: Tensor,
    projected: Tensor,
    delta_weight: Tensor,
    A: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    onto: Tensor | None = None,
) -> bool:
    """Whether `projected_scan` takes these tensors: on the CPU, 16 or 32 bits, A float32, no gradient wanted."""
    tensors = (u, projected, delta_weight, A, D, z, delta_bias, onto)
    return (
        _library.readable(*tensors)
        and u.dim() == projected.dim() == 3
        and A.dtype == torch.float32
        and (onto is None or onto.dtype == u.dtype)
        and not _library.wants_grad(*tensors)
    )


def projected_scan(
    u: Tensor,
    projected: Tensor,
    delta_weight: Tensor,
    A: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    onto: Tensor | None = None,
    scale: float = 1.0,
    reverse: bool = False,
) -> Tensor:
    """`selective_scan` of delta, B and C that are still one tensor, the first of low rank. Not differentiable.

    delta = delta_weight @ (the first rank rows of projected) is made where it is used, in float32, and never stored.

    Args:
        u, z: (batch, dim, seqlen), float32, bfloat16 or float16
        projected: (batch, rank + 2 * dstate, seqlen): what delta is made of, then B, then C
        delta_weight: (dim, rank)
        A: (dim, dstate), float32
        D, delta_bias: (dim,)
        delta_softplus: whether softplus is applied to delta after its bias
        onto: another direction's result, of u's shape and dtype, to be added; the sum may take its memory
        scale: what the result, with `onto`, is multiplied by
        reverse: whether time runs from the last step to the first

    Returns:
        out of u's shape and dtype.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    args = (u, projected, delta_weight, A, D, z, delta_bias, bool(delta_softplus))
    rest = (float(scale), bool(reverse))
    if _library.is_plain_call(u, projected, delta_weight, A, D, z, delta_bias, onto):
        return _scan(*args, onto, *rest, out=_memory_of(onto, u, projected, z))
    with torch.no_grad():
        return torch.ops.selective_scan_cpu.projected_scan(*args, onto, *rest)


def _memory_of(onto: Tensor, *read: Any) -> Tensor | None:
    """onto itself, where a result may be written to its memory: elements apart, and no other input's."""
    if onto is None or _library.has_overlap(onto):
        return None
    if any(t is not None and torch._C._is_alias_of(onto, t) for t in read):
        return None
    return onto


def _scan(
    u: Tensor,
    projected: Tensor,
    delta_weight: Tensor,
    A: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    onto: Tensor | None,
    scale: float,
    reverse: bool,
    out: Tensor | None = None,
) -> Tensor:
    batch, dim, seqlen = u.shape
    rank, dstate = delta_weight.shape[1], A.shape[1]
    for name, tensor, shape in (
        ("projected", projected, (batch, rank + 2 * dstate, seqlen)),
        ("delta_weight", delta_weight, (dim, rank)),
        ("A", A, (dim, dstate)),
        ("D", D, (dim,)),
        ("z", z, u.shape),
        ("delta_bias", delta_bias, (dim,)),
        ("onto", onto, u.shape),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
    out = _library.output_like(u) if out is None else out
    # One head for all; delta's rows, B and C begin at their own rows of the one tensor.
    address, *fields = channels(projected, 1, reverse)
    row = projected.stride(1) * projected.element_size()
    _lib.selective_scan_forward(
        batch=batch, heads=1, head_dim=dim, seqlen=seqlen, dstate=dstate, groups=1, delta_softplus=delta_softplus,
        tied_A=False, variable_B=True, variable_C=True, threads=torch.get_num_threads(),
        u=channels(u, 1, reverse), delta=(address, *fields), z=channels(z, 1, reverse), out=channels(out, 1, reverse),
        A=parameter(A, 1), D=parameter(D, 1), delta_bias=parameter(delta_bias, 1),
        B=(address + rank * row, *fields), C=(address + (rank + dstate) * row, *fields),
        rank=rank, delta_weight=parameter(delta_weight, 1), onto=channels(onto, 1, reverse), scale=scale,
    )  # fmt: skip
    if out is onto and onto is not None:
        _library.written(onto)
    return out


def _fake_scan(u: Tensor) -> Tensor:
    return torch.empty_like(u)


_library.register(_ops, "projected_scan", _scan, _fake_scan)
