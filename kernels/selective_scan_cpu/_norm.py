"""LayerNorm and RMSNorm, with a residual before them or a gate beside them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _lib, _library
from ._interface import DTYPES, View
from ._library import view

_ops = torch.library.Library("selective_scan_cpu", "FRAGMENT")
_NO_GATE, _GATE_AFTER, _GATE_BEFORE = range(3)


def supports_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    z: Tensor | None = None,
) -> bool:
    """Whether `layer_norm` and `gated_norm` take these tensors: on the CPU, of 16 or 32 bits, no gradient wanted.

    False for a norm without weight.
    """
    return (
        weight is not None
        and _library.readable(x, weight, bias, residual, z)
        and x.dim() >= 1
        and not _library.wants_grad(x, weight, bias, residual, z)
    )


def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    eps: float = 1e-06,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The norm of x + residual over the last axis, computed in float32. Not differentiable.

    Args:
        x, residual: (..., dim)
        weight, bias: (dim,)
        prenorm: whether to return the sum x + residual as well
        residual_in_fp32: whether that sum is float32 where there is no residual, which else gives its dtype
        is_rms_norm: RMSNorm, which subtracts no mean

    Returns:
        y of x's shape and dtype; with `prenorm` the pair (y, sum).

    Raises:
        TypeError: no weight.
        ValueError: shapes that do not fit each other.
    """
    total_dtype = residual.dtype if residual is not None else torch.float32 if residual_in_fp32 else x.dtype
    fresh = prenorm and (residual is not None or total_dtype != x.dtype)
    args = (x, weight, bias, residual, None, float(eps), x.shape[-1], _NO_GATE, bool(is_rms_norm))
    y, total = _run(*args, total_dtype if fresh else None)
    if not prenorm:
        return y
    return y, total if fresh else x


def gated_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    z: Tensor | None = None,
    eps: float = 1e-06,
    group_size: int | None = None,
    norm_before_gate: bool = True,
    is_rms_norm: bool = False,
) -> Tensor:
    """norm(x) silu(z), or norm(x silu(z)) without `norm_before_gate`, computed in float32. Not differentiable.

    Args:
        x, z: (..., dim)
        weight, bias: (dim,)
        group_size: how many neighbouring features are normalized together, a divisor of dim; None for all

    Returns:
        y of x's shape and dtype.

    Raises:
        TypeError: no weight.
        ValueError: shapes that do not fit each other.
    """
    gate = _NO_GATE if z is None else _GATE_AFTER if norm_before_gate else _GATE_BEFORE
    group = x.shape[-1] if group_size is None else group_size
    return _run(x, weight, bias, None, z, float(eps), group, gate, bool(is_rms_norm), None)[0]


def _run(*args: Any) -> tuple[Tensor, Tensor]:
    x, weight, bias, residual, z = args[:5]
    if _library.is_plain_call(x, weight, bias, residual, z):
        return _norm(*args)
    with torch.no_grad():
        return torch.ops.selective_scan_cpu.norm(*args)


def _norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    z: Tensor | None,
    eps: float,
    group: int,
    gate: int,
    rms: bool,
    total_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor]:
    dim = x.shape[-1]
    if weight is None:
        raise TypeError(f"weight is None, expected a tensor of shape {(dim,)}")
    for name, tensor, shape in (
        ("weight", weight, (dim,)),
        ("bias", bias, (dim,)),
        ("residual", residual, x.shape),
        ("z", z, x.shape),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
    if group <= 0 or dim % group:
        raise ValueError(f"dim {dim} is not a multiple of group_size {group}")
    out, total = map(_library.on_large_pages, _outputs(x, total_dtype))
    rows = x.numel() // dim
    # Under their names until the kernel has run: a copy that no name refers to is freed.
    x, residual, z = _dense(x), _dense(residual), _dense(z)
    _lib.layer_norm(
        rows=rows, dim=dim, group=group, rms=rms, gate=gate, threads=torch.get_num_threads(), eps=eps,
        x=_rows(x), residual=_rows(residual), z=_rows(z), out=_rows(out),
        total=_rows(None if total_dtype is None else total), weight=view(weight), bias=view(bias),
    )  # fmt: skip
    return out, total


def _outputs(x: Tensor, total_dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if total_dtype is None:
        return out, x.new_empty(0)
    return out, torch.empty(x.shape, dtype=total_dtype, device=x.device)


def _dense(tensor: Tensor | None) -> Tensor | None:
    """(..., dim) as (rows, dim) with features next to each other; a copy only where no view is."""
    if tensor is None:
        return None
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _rows(tensor: Tensor | None) -> View:
    if tensor is None:
        return view(None)
    row = tensor.stride(-2) if tensor.dim() > 1 else 0
    return (_library.address(tensor), DTYPES[tensor.dtype], row, 1, 0, 0)


def _fake_norm(x: Tensor, total_dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    return _outputs(x, total_dtype)


_library.register(_ops, "norm", _norm, _fake_norm)
