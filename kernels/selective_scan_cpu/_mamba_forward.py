"""A whole Mamba-1 mixer over a sequence, in one or both directions: one call instead of dozens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _lib, _library
from ._interface import DTYPES
from ._layers import Weights
from ._library import view
from ._quantized import _BITS, _SCALES, packed_shapes

_FLOATS = torch.float32
_Part = tuple[str, Tensor | None, tuple[int, ...], torch.dtype]


def most_elements(cpus: Path) -> int:
    """The most steps times channels of one call.

    In longer calls the time between the parts is small beside the products. On Intel's processors, torch's library for
    them, MKL, is a little faster than the kernel. On others MKL takes half of the processor's speed, so the kernel
    takes calls whose memory is about 1 GB at most. Where torch has no MKL, as on aarch64, this was not measured.

    cpus: /proc/cpuinfo
    """
    if not torch.backends.mkl.is_available():
        return 1 << 18
    try:
        vendors = cpus.read_text()
    except OSError:
        return 1 << 18
    return 1 << (18 if "GenuineIntel" in vendors else 25)


_MOST = most_elements(Path("/proc/cpuinfo"))


class Direction(NamedTuple):
    """The parameters of one direction."""

    conv_weight: Tensor
    """(dim, 1, width)"""
    conv_bias: Tensor | None
    """(dim,)"""
    x_proj: Weights
    """To (dt_rank + 2 * dstate) features, without a bias."""
    dt_weight: Tensor
    """(dim, dt_rank)"""
    dt_bias: Tensor | None
    """(dim,)"""
    A_log: Tensor
    """(dim, dstate), of which A is -exp(A_log)"""
    D: Tensor | None
    """(dim,)"""


def mamba_forward(
    x: Tensor,
    in_proj: Weights,
    out_proj: Weights,
    directions: Sequence[Direction],
    scale: float = 1.0,
    conv_state: Tensor | None = None,
    ssm_state: Tensor | None = None,
) -> Tensor | None:
    """Mamba's projections, convolution and scan, computed in float32; None for tensors that the kernel does not take.

    The kernel takes float32 tensors on the CPU, contiguous parameters, and at most `_MOST` steps times channels. It
    takes no call that is traced or whose gradient is wanted, no x_proj with a bias, and states of one direction alone.
    Nothing is written where the result is None.

    Args:
        x: (batch, seqlen, d_model)
        in_proj: to 2 * dim features
        out_proj: from dim features
        directions: one, from the first step to the last; or two, of which the second is from the last to the first
        scale: what the sum of the directions is multiplied by before the output projection
        conv_state: (batch, dim, width), float32, bfloat16 or float16: filled with the last inputs of the convolution
        ssm_state: (batch, dim, dstate), like conv_state: filled with the state after the last step

    Returns:
        (batch, seqlen, d_model), or None.
    """
    if not directions or x.dim() != 3 or directions[0].A_log.dim() != 2 or directions[0].dt_weight.dim() != 2:
        return None
    (inner, dstate), rank = directions[0].A_log.shape, directions[0].dt_weight.shape[1]
    (batch, seqlen, features), width = x.shape, directions[0].conv_weight.shape[-1]
    states = [
        (state, shape)
        for state, shape in ((conv_state, (batch, inner, width)), (ssm_state, (batch, inner, dstate)))
        if state is not None
    ]
    projections = [(in_proj, 2 * inner, features), (out_proj, features, inner)]
    projections += [(direction.x_proj, rank + 2 * dstate, inner) for direction in directions]
    if (
        not 2 <= width <= 4
        or rank < 1
        or not 1 <= batch * seqlen * inner <= _MOST
        or len(directions) > (1 if states else 2)
        or any((weights.rows, weights.columns) != (rows, columns) for weights, rows, columns in projections)
        or any(direction.x_proj.bias is not None for direction in directions)
        or any(
            not _library.readable(state) or state.shape != shape or _library.has_overlap(state)
            for state, shape in states
        )
    ):
        return None
    x = x.contiguous()
    parts: list[_Part] = [("x", x, (batch, seqlen, features), _FLOATS)]
    parts += _projection("in_", in_proj) + _projection("out_", out_proj)
    for of, direction in zip(("", "back_"), directions, strict=False):
        parts += _projection(f"{of}x_", direction.x_proj)
        parts += [
            (f"{of}conv_weight", direction.conv_weight, (inner, 1, width), _FLOATS),
            (f"{of}conv_bias", direction.conv_bias, (inner,), _FLOATS),
            (f"{of}dt_weight", direction.dt_weight, (inner, rank), _FLOATS),
            (f"{of}dt_bias", direction.dt_bias, (inner,), _FLOATS),
            (f"{of}A_log", direction.A_log, (inner, dstate), _FLOATS),
            (f"{of}D", direction.D, (inner,), _FLOATS),
        ]
    fields = _fields(parts)
    if fields is None or not _library.is_plain_call(*[state for state, _ in states]):
        return None
    out = _library.output_like(x)
    _lib.mamba_mixer_forward(
        batch=batch, seqlen=seqlen, inner=inner, dstate=dstate, rank=rank, width=width, features=features,
        threads=torch.get_num_threads(), out=(out.data_ptr(), 0, features, 1, 0, 0), scale=scale,
        conv_state=view(conv_state), state=view(ssm_state), **fields,
    )  # fmt: skip
    if states:
        _library.written(*[state for state, _ in states])
    return out


def _projection(of: str, projection: Weights) -> list[_Part]:
    rows, columns = projection.rows, projection.columns
    values, packed, bias = projection.values, projection.packed, projection.bias
    if packed is None:
        found: list[_Part] = [(f"{of}weight", values, (rows, columns), _FLOATS)]
    else:
        bits = _BITS.get(packed.dtype, 8)
        of_packed, of_scales = packed_shapes(rows, columns, bits)
        dtype = torch.int8 if bits == 8 else torch.uint8
        found = [(f"{of}weight", values, of_scales, _SCALES[bits]), (f"{of}packed", packed, of_packed, dtype)]
    if bias is not None:
        found.append((f"{of}bias", bias, (rows,), _FLOATS))
    return found


def _fields(parts: list[_Part]) -> dict[str, Any] | None:
    """The kernel's fields of these tensors; None where a tensor is not plain, or of another shape, dtype or layout."""
    if not _library.is_plain_call(*[part[1] for part in parts]):
        return None
    fields: dict[str, Any] = {}
    for name, tensor, shape, dtype in parts:
        if tensor is None:
            continue
        if tensor.dtype is not dtype or tensor.shape != shape or not tensor.is_cpu or not tensor.is_contiguous():
            return None
        start = tensor.data_ptr()
        if start < _library.LOW:
            start = _library.address(tensor)
        # A vector has the stride 1, and the other tensors are matrices for the kernel.
        if dtype in DTYPES:
            fields[name] = (start, DTYPES[dtype], 1 if len(shape) == 1 else shape[-1], int(len(shape) > 1), 0, 0)
        else:
            fields[name] = start
    return fields
