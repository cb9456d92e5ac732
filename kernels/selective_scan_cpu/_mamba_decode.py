"""A Mamba-1 model's step of decoding as a plan: the arguments of all blocks, made once and used for every token."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _lib, _library
from ._library import view
from ._quantized import _BITS, _SCALES, packed_shapes


@dataclass(frozen=True)
class Weights:
    """A projection's weights: a matrix, or packed weights and their scales, as `quantized_linear` takes them."""

    rows: int
    columns: int
    values: Tensor
    """(rows, columns), or the scales."""
    packed: Tensor | None = None
    bias: Tensor | None = None

    def tensors(self) -> list[Tensor | None]:
        return [self.values, self.packed, self.bias]

    def check(self, name: str, rows: int, columns: int) -> None:
        """Raises ValueError or TypeError where the tensors are not those of a projection of this size."""
        if (self.rows, self.columns) != (rows, columns):
            raise ValueError(f"{name} is ({self.rows}, {self.columns}), expected ({rows}, {columns})")
        if self.packed is None:
            _expect(f"{name}.weight", self.values, (rows, columns), torch.float32)
        else:
            bits = _BITS[self.packed.dtype]
            of_packed, of_scales = packed_shapes(rows, columns, bits)
            _expect(f"{name}.packed", self.packed, of_packed, self.packed.dtype)
            _expect(f"{name}.scales", self.values, of_scales, _SCALES[bits])
        if self.bias is not None:
            _expect(f"{name}.bias", self.bias, (rows,), torch.float32)

    @property
    def address(self) -> int:
        return 0 if self.packed is None else self.packed.data_ptr()


@dataclass(frozen=True)
class Norm:
    """A LayerNorm or RMSNorm: weight and bias are (features,)."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    rms: bool


@dataclass(frozen=True)
class Block:
    """A block of Mamba-1: its norm, its mixer, and the states of the sequence."""

    norm: Norm
    in_proj: Weights
    conv_weight: Tensor
    """(inner, 1, width)"""
    conv_bias: Tensor | None
    x_proj: Weights
    dt_proj: Weights
    A: Tensor
    """(inner, dstate): -exp(A_log)"""
    D: Tensor
    out_proj: Weights
    conv_state: Tensor
    """(1, inner, width)"""
    state: Tensor
    """(1, inner, dstate)"""

    def tensors(self) -> list[Tensor | None]:
        found = [self.norm.weight, self.norm.bias, self.conv_weight, self.conv_bias, self.A, self.D]
        for weights in (self.in_proj, self.x_proj, self.dt_proj, self.out_proj):
            found += weights.tensors()
        return [*found, self.conv_state, self.state]


class MambaDecoder:
    """The step of a Mamba-1 model after its embedding, computed in float32 by one call. Not differentiable.

    All tensors are on the CPU, in float32 but for packed weights and their scales, and contiguous but for conv_state.
    The plan holds their addresses: make a new plan after a tensor is replaced. Each call advances the states in place.

    Raises:
        ValueError, TypeError: a tensor of another shape, dtype or layout.
    """

    def __init__(self, blocks: Sequence[Block], norm: Norm, head: Weights) -> None:
        features, self._threads = head.columns, torch.get_num_threads()
        self._hidden, self._residual = torch.empty(features), torch.empty(features)
        hidden, residual = view(self._hidden), view(self._residual)
        self._states = [state for block in blocks for state in (block.conv_state, block.state)]
        self.tensors = [t for block in blocks for t in block.tensors()] + [norm.weight, norm.bias, *head.tensors()]
        strided = {id(block.conv_state) for block in blocks}
        for tensor in self.tensors:
            if tensor is not None and not (tensor.is_cpu and not tensor.is_neg() and tensor.layout is torch.strided):
                raise ValueError("a tensor of the model is not a plain tensor on the CPU")
            if tensor is None or tensor.is_contiguous() or (id(tensor) in strided and not _library.has_overlap(tensor)):
                continue
            raise ValueError("a tensor of the model is not contiguous")
        head.check("lm_head", head.rows, features)
        _check_norm(norm, features)
        packed = []
        for index, block in enumerate(blocks):
            inner, dstate, rank, width = _check(block, features)
            packed.append(
                _lib.library.pack["mamba_mixer_step"](
                    inner=inner, dstate=dstate, rank=rank, width=width, features=features, threads=self._threads,
                    x=hidden, out=hidden, in_weight=view(block.in_proj.values), in_bias=view(block.in_proj.bias),
                    conv_weight=view(block.conv_weight, 0, 2), conv_bias=view(block.conv_bias),
                    conv_state=view(block.conv_state, 1, 2), x_weight=view(block.x_proj.values),
                    dt_weight=view(block.dt_proj.values), dt_bias=view(block.dt_proj.bias), A_log=view(block.A),
                    D=view(block.D), state=view(block.state, 1, 2), out_weight=view(block.out_proj.values),
                    out_bias=view(block.out_proj.bias), in_packed=block.in_proj.address,
                    x_packed=block.x_proj.address, out_packed=block.out_proj.address,
                    norm_weight=view(block.norm.weight), norm_bias=view(block.norm.bias), residual=residual,
                    first=index == 0, rms=block.norm.rms, eps=block.norm.eps, A_is_ready=True,
                )
            )  # fmt: skip
        self._blocks = ctypes.create_string_buffer(b"".join(packed))
        self._rows = head.rows
        self._fixed = {
            "count": len(blocks), "features": features, "vocabulary": head.rows, "threads": self._threads,
            "blocks": ctypes.addressof(self._blocks), "hidden": hidden, "residual": residual,
            "norm_weight": view(norm.weight), "norm_bias": view(norm.bias), "rms": norm.rms, "eps": norm.eps,
            "head_weight": view(head.values), "head_bias": view(head.bias), "head_packed": head.address,
        }  # fmt: skip

    @property
    def is_current(self) -> bool:
        """Whether torch still has the number of threads that the plan was made for."""
        return torch.get_num_threads() == self._threads

    def __call__(self, hidden: Tensor) -> Tensor:
        """The logits, (vocabulary,), for the embedding of one token: as many elements as the model has features."""
        self._hidden.copy_(hidden.reshape(self._hidden.shape))
        logits = torch.empty(self._rows)
        _lib.mamba_model_step(**self._fixed, logits=view(logits))
        _library.written(*self._states)
        return logits


def _check(block: Block, features: int) -> tuple[int, int, int, int]:
    """inner, dstate, rank and width of a block whose tensors fit each other."""
    (inner, dstate), rank, width = block.A.shape, block.dt_proj.columns, block.conv_weight.shape[-1]
    _check_norm(block.norm, features)
    block.in_proj.check("in_proj", 2 * inner, features)
    block.x_proj.check("x_proj", rank + 2 * dstate, inner)
    block.dt_proj.check("dt_proj", inner, rank)
    block.out_proj.check("out_proj", features, inner)
    if block.dt_proj.packed is not None:
        raise TypeError("dt_proj has packed weights, expected a matrix")
    for name, tensor, shape in (
        ("conv_weight", block.conv_weight, (inner, 1, width)),
        ("conv_bias", block.conv_bias, (inner,)),
        ("A", block.A, (inner, dstate)),
        ("D", block.D, (inner,)),
        ("conv_state", block.conv_state, (1, inner, width)),
        ("state", block.state, (1, inner, dstate)),
    ):
        if tensor is not None or name not in ("conv_bias", "D"):
            _expect(name, tensor, shape, torch.float32)
    return inner, dstate, rank, width


def _check_norm(norm: Norm, features: int) -> None:
    for name, tensor in (("norm.weight", norm.weight), ("norm.bias", norm.bias)):
        if tensor is not None or name == "norm.weight":
            _expect(name, tensor, (features,), torch.float32)


def _expect(name: str, tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tensor is None:
        raise TypeError(f"{name} is None, expected a tensor of shape {shape}")
    if tensor.dtype is not dtype:
        raise TypeError(f"{name} has dtype {tensor.dtype}, expected {dtype}")
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
