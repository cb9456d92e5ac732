"""A linear layer whose weights have 8 or 4 bits: less memory to read for each token, and integer products."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _lib, _library
from ._library import view

_ops = torch.library.Library("selective_scan_cpu", "FRAGMENT")
_TILE, _BLOCK = 16, 32
_BITS = {torch.int8: 8, torch.uint8: 4}
"""The dtype of packed weights -> the bits of a weight."""
_SCALES = {8: torch.float32, 4: torch.bfloat16}


def packed_shapes(rows: int, columns: int, bits: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of the packed weights and of the scales of a (rows, columns) matrix."""
    tiles, blocks = -(-rows // _TILE), -(-columns // _BLOCK)
    return (tiles, blocks * bits, _TILE, 4), (tiles * _TILE,) if bits == 8 else (tiles, blocks, _TILE)


def supports_quantized_linear(x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None = None) -> bool:
    """Whether `quantized_linear` takes these tensors: on the CPU, of 16 or 32 bits, no gradient wanted."""
    return (
        _library.readable(x, scales, bias)
        and _library.countable(packed)
        and packed.dtype in _BITS
        and x.dim() >= 1
        and not _library.wants_grad(x, bias)
    )


def quantized_linear(x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None, rows: int) -> Tensor:
    """weight x + bias, with x rounded to 8 bits and a scale for each 32 columns. Not differentiable.

    Args:
        x: (..., columns)
        packed: weights of 8 bits, (tiles, columns / 4, 16, 4) of int8, or of 4 bits, (tiles, columns / 8, 16, 4) of
            uint8, where tiles * 16 is at least `rows` and the columns are padded to a multiple of 32.
            csrc/selective_scan_cpu/quantized.h says what each byte holds.
        scales: (tiles * 16,) of float32 for 8 bits, (tiles, columns / 32, 16) of bfloat16 for 4 bits
        bias: (rows,)
        rows: the number of outputs

    Returns:
        (..., rows) in x's dtype.

    Raises:
        TypeError: packed weights or scales of another dtype.
        ValueError: shapes that do not fit each other.
    """
    if _library.is_plain_call(x, packed, scales, bias):
        return _quantized_linear(x, packed, scales, bias, rows)
    with torch.no_grad():
        return torch.ops.selective_scan_cpu.quantized_linear(x, packed, scales, bias, rows)


def _quantized_linear(x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None, rows: int) -> Tensor:
    bits = _BITS.get(packed.dtype)
    if bits is None:
        raise TypeError(f"packed has dtype {packed.dtype}, expected int8 for weights of 8 bits, uint8 for 4 bits")
    columns = x.shape[-1]
    of_packed, of_scales = packed_shapes(rows, columns, bits)
    if scales.dtype is not _SCALES[bits]:
        raise TypeError(f"scales have dtype {scales.dtype}, expected {_SCALES[bits]} for weights of {bits} bits")
    for name, tensor, shape in (
        ("packed", packed, of_packed),
        ("scales", scales, of_scales),
        ("bias", bias, (rows,)),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
    tokens = x.contiguous().view(-1, columns) if columns else x.new_empty(x.shape[:-1].numel(), 0)
    packed, scales, bias = packed.contiguous(), scales.contiguous(), _library.contiguous(bias)
    out = _library.on_large_pages(x.new_empty(*x.shape[:-1], rows))
    _lib.quantized_linear(
        rows=rows, columns=columns, tokens=tokens.shape[0], bits=bits, threads=torch.get_num_threads(),
        weight=_library.address(packed), scales=view(scales), x=view(tokens), bias=view(bias),
        out=view(out.view(tokens.shape[0], rows)),
    )  # fmt: skip
    return out


def _fake_quantized_linear(x: Tensor, rows: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], rows)


_library.register(_ops, "quantized_linear", _quantized_linear, _fake_quantized_linear)
