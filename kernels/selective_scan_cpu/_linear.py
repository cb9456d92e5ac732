"""A linear layer on a single row, the bulk of a step of decoding: its weights are read once, at memory's speed."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _lib, _library
from ._library import view

_ops = torch.library.Library("selective_scan_cpu", "FRAGMENT")


def supports_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether `linear` takes these tensors: one row, on the CPU, of 16 or 32 bits, no gradient wanted."""
    return (
        _library.readable(x, weight, bias)
        and weight.dim() == 2
        and x.numel() == weight.shape[1] == x.shape[-1]
        and weight.stride(1) == 1
        and not _library.wants_grad(x, weight, bias)
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """weight x + bias for a single x, computed in float32. Not differentiable.

    Args:
        x: (..., in_features), all axes but the last of length 1
        weight: (out_features, in_features), copied where a row's elements are not next to each other
        bias: (out_features,)

    Returns:
        (..., out_features) in x's dtype.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    if _library.is_plain_call(x, weight, bias):
        return _linear(x, weight, bias)
    with torch.no_grad():
        return torch.ops.selective_scan_cpu.linear(x, weight, bias)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows, columns = weight.shape
    if x.numel() != columns or x.shape[-1] != columns:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected a single row of {columns}")
    if bias is not None and bias.shape != (rows,):
        raise ValueError(f"bias has shape {tuple(bias.shape)}, expected {(rows,)}")
    x = x.contiguous()
    weight = weight if weight.stride(1) == 1 else weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    out = x.new_empty(*x.shape[:-1], rows)
    _lib.linear_step(
        rows=rows, columns=columns, threads=torch.get_num_threads(), weight=view(weight), x=view(x, -1),
        bias=view(bias), out=view(out, -1),
    )  # fmt: skip
    return out


def _fake_linear(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


_library.register(_ops, "linear", _linear, _fake_linear)
