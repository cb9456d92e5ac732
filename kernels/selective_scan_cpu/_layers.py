"""The layers of a language model for a plan of decoding: their tensors, checked and packed for the kernels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from . import _lib
from ._interface import ABSENT, View
from ._library import view
from ._quantized import _BITS, _SCALES, packed_shapes


class Place(NamedTuple):
    """Where a layer reads its input and writes its output, and how."""

    features: int
    threads: int
    x: View
    out: View


class _Layer:
    """A dataclass whose fields are tensors, None, numbers, or other layers."""

    def tensors(self) -> list[Tensor | None]:
        found: list[Tensor | None] = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            found += value.tensors() if isinstance(value, _Layer) else [value] if isinstance(value, Tensor) else []
        return found

    def states(self) -> tuple[Tensor, ...]:
        """What a step writes to."""
        return ()


@dataclass(frozen=True)
class Weights(_Layer):
    """A projection's weights: a matrix, or packed weights and their scales, as `quantized_linear` takes them."""

    rows: int
    columns: int
    values: Tensor
    """(rows, columns), or the scales."""
    packed: Tensor | None = None
    bias: Tensor | None = None

    def check(self, name: str, rows: int, columns: int) -> None:
        """Raises ValueError or TypeError where the tensors are not those of a projection of this size."""
        if (self.rows, self.columns) != (rows, columns):
            raise ValueError(f"{name} is ({self.rows}, {self.columns}), expected ({rows}, {columns})")
        if self.packed is None:
            _expect(f"{name}.weight", self.values, (rows, columns))
        else:
            bits = _BITS[self.packed.dtype]
            of_packed, of_scales = packed_shapes(rows, columns, bits)
            _expect(f"{name}.packed", self.packed, of_packed, self.packed.dtype)
            _expect(f"{name}.scales", self.values, of_scales, _SCALES[bits])
        _expect_all(optional={f"{name}.bias": (self.bias, (rows,))})

    @property
    def address(self) -> int:
        return 0 if self.packed is None else self.packed.data_ptr()


@dataclass(frozen=True)
class Norm(_Layer):
    """A LayerNorm or RMSNorm: weight and bias are (features,)."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    rms: bool

    def check(self, features: int) -> None:
        """Raises ValueError or TypeError where the tensors are not those of a norm of this size."""
        _expect("norm.weight", self.weight, (features,))
        _expect_all(optional={"norm.bias": (self.bias, (features,))})


@dataclass(frozen=True)
class MambaMixer(_Layer):
    """A mixer of Mamba-1, and the states of the sequence."""

    in_proj: Weights
    conv_weight: Tensor
    """(inner, 1, width)"""
    conv_bias: Tensor | None
    x_proj: Weights
    dt_proj: Weights
    A_log: Tensor
    """(inner, dstate)"""
    D: Tensor | None
    out_proj: Weights
    conv_state: Tensor
    """(1, inner, width)"""
    state: Tensor
    """(1, inner, dstate)"""

    def states(self) -> tuple[Tensor, ...]:
        return self.conv_state, self.state

    def pack(self, place: Place) -> bytes:
        """The kernel's argument. Raises ValueError or TypeError for tensors that do not fit each other."""
        (inner, dstate), rank, width = self.A_log.shape, self.dt_proj.columns, self.conv_weight.shape[-1]
        self.in_proj.check("in_proj", 2 * inner, place.features)
        self.x_proj.check("x_proj", rank + 2 * dstate, inner)
        self.dt_proj.check("dt_proj", inner, rank)
        self.out_proj.check("out_proj", place.features, inner)
        if self.dt_proj.packed is not None:
            raise TypeError("dt_proj has packed weights, expected a matrix")
        if self.x_proj.bias is not None:
            raise TypeError("x_proj has a bias, which Mamba does not add")
        _expect_all(
            {
                "conv_weight": (self.conv_weight, (inner, 1, width)), "A_log": (self.A_log, (inner, dstate)),
                "conv_state": (self.conv_state, (1, inner, width)), "state": (self.state, (1, inner, dstate)),
            },
            {"conv_bias": (self.conv_bias, (inner,)), "D": (self.D, (inner,))},
        )  # fmt: skip
        return _lib.library.pack["mamba_mixer_step"](
            **place._asdict(), inner=inner, dstate=dstate, rank=rank, width=width, **_packed("in", self.in_proj),
            conv_weight=view(self.conv_weight, 0, 2), conv_bias=view(self.conv_bias),
            conv_state=view(self.conv_state, 1, 2), x_weight=view(self.x_proj.values), x_packed=self.x_proj.address,
            dt_weight=view(self.dt_proj.values), dt_bias=view(self.dt_proj.bias), A_log=view(self.A_log),
            D=view(self.D), state=view(self.state, 1, 2), **_packed("out", self.out_proj),
        )  # fmt: skip


@dataclass(frozen=True)
class Mamba2Mixer(_Layer):
    """A mixer of Mamba-2, and the states of the sequence. Channels of the convolution are v, B and C."""

    in_proj: Weights
    conv_weight: Tensor
    """(channels, 1, width)"""
    conv_bias: Tensor | None
    dt_bias: Tensor
    """(heads,)"""
    A_log: Tensor
    """(heads,)"""
    D: Tensor
    """(heads,), or (heads * head_dim,)"""
    norm: Norm | None
    """Of all heads' outputs, gated; None: a gate without a norm"""
    norm_group: int
    """How many features are normalised together."""
    gate: Literal["before", "after"]
    """Whether the gate multiplies the norm's input or its output."""
    dt_limit: tuple[float, float]
    out_proj: Weights
    conv_state: Tensor
    """(1, channels, width)"""
    state: Tensor
    """(1, heads, head_dim, dstate)"""

    def states(self) -> tuple[Tensor, ...]:
        return self.conv_state, self.state

    def pack(self, place: Place) -> bytes:
        """The kernel's argument. Raises ValueError or TypeError for tensors that do not fit each other."""
        if self.state is None or self.state.dim() != 4 or self.conv_weight.dim() != 3:
            raise ValueError("state or conv_weight has another number of axes than 4 and 3")
        _, heads, head_dim, dstate = self.state.shape
        inner, (channels, _, width) = heads * head_dim, self.conv_weight.shape
        groups, more = divmod(channels - inner, 2 * dstate) if dstate else (0, 1)
        mlp = self.out_proj.columns - inner
        if more or groups < 1 or heads % groups or mlp < 0:
            raise ValueError(f"{channels} channels, {heads} heads of {head_dim} and {dstate} states do not fit")
        self.in_proj.check("in_proj", 2 * mlp + inner + channels + heads, place.features)
        self.out_proj.check("out_proj", place.features, mlp + inner)
        if self.norm is not None:
            self.norm.check(inner)
            if not self.norm.rms or self.norm_group < 1 or inner % self.norm_group:
                raise ValueError(f"a norm of groups of {self.norm_group} does not fit {inner} features")
        by_feature = self.D.numel() != heads
        _expect_all(
            {
                "conv_weight": (self.conv_weight, (channels, 1, width)), "dt_bias": (self.dt_bias, (heads,)),
                "A_log": (self.A_log, (heads,)), "D": (self.D, (inner if by_feature else heads,)),
                "conv_state": (self.conv_state, (1, channels, width)),
                "state": (self.state, (1, heads, head_dim, dstate)),
            },
            {"conv_bias": (self.conv_bias, (channels,))},
        )  # fmt: skip
        return _lib.library.pack["mamba2_mixer_step"](
            **place._asdict(), heads=heads, head_dim=head_dim, dstate=dstate, groups=groups, mlp=mlp, width=width,
            dt_min=self.dt_limit[0], dt_max=self.dt_limit[1], **_packed("in", self.in_proj),
            conv_weight=view(self.conv_weight, 0, 2), conv_bias=view(self.conv_bias),
            conv_state=view(self.conv_state, 1, 2), dt_bias=view(self.dt_bias), A_log=view(self.A_log),
            D=view(self.D.view(heads, -1), 0, 1 if by_feature else -1), state=view(self.state, 1, 2, 3),
            norm_weight=view(self.norm.weight) if self.norm else ABSENT,
            norm_bias=view(self.norm.bias) if self.norm else ABSENT, norm_group=self.norm_group,
            norm_gate=2 if self.gate == "before" else 1, norm_eps=self.norm.eps if self.norm else 0.0,
            **_packed("out", self.out_proj),
        )  # fmt: skip


@dataclass(frozen=True)
class Mamba3Mixer(_Layer):
    """A mixer of Mamba-3, and the states of the sequence. `mamba3_step` says what each tensor is."""

    in_proj: Weights
    out_proj: Weights
    dt_bias: Tensor
    D: Tensor
    B_norm: Norm
    C_norm: Norm
    B_bias: Tensor
    C_bias: Tensor
    mimo: tuple[Tensor, Tensor, Tensor] | None
    """mimo_v, mimo_z, mimo_out"""
    norm: Norm | None
    groups: int
    A_floor: float
    angle_state: Tensor
    state: Tensor
    k_state: Tensor
    v_state: Tensor

    def states(self) -> tuple[Tensor, ...]:
        return self.angle_state, self.state, self.k_state, self.v_state

    def tensors(self) -> list[Tensor | None]:
        return [*super().tensors(), *(self.mimo or ())]

    def pack(self, place: Place) -> bytes:
        """The kernel's argument. Raises ValueError or TypeError for tensors that do not fit each other."""
        if self.B_bias.dim() != 3 or self.state.dim() != 4 or self.angle_state.dim() != 3:
            raise ValueError("B_bias, state or angle_state has another number of axes")
        (heads, rank, dstate), head_dim = self.B_bias.shape, self.state.shape[2]
        inner, angles = heads * head_dim, self.angle_state.shape[2]
        if self.groups < 1 or heads % self.groups or 2 * angles > dstate or (self.mimo is None and rank != 1):
            raise ValueError(f"{heads} heads, {self.groups} groups, {angles} angles and a rank of {rank} do not fit")
        rows = 2 * inner + 2 * rank * self.groups * dstate + 3 * heads + angles
        self.in_proj.check("in_proj", rows, place.features)
        self.out_proj.check("out_proj", place.features, inner)
        for norm, size in ((self.B_norm, dstate), (self.C_norm, dstate), (self.norm, inner)):
            if norm is not None:
                norm.check(size)
                if norm.bias is not None or not norm.rms:
                    raise TypeError("a norm has a bias or a mean, expected an RMSNorm without")
        mimo = self.mimo or (None, None, None)
        _expect_all(
            {
                "dt_bias": (self.dt_bias, (heads,)), "D": (self.D, (heads,)),
                "B_bias": (self.B_bias, (heads, rank, dstate)), "C_bias": (self.C_bias, (heads, rank, dstate)),
                "angle_state": (self.angle_state, (1, heads, angles)),
                "state": (self.state, (1, heads, head_dim, dstate)),
                "k_state": (self.k_state, (1, rank, heads, dstate)), "v_state": (self.v_state, (1, heads, head_dim)),
            },
            {f"mimo[{i}]": (tensor, (heads, rank, head_dim)) for i, tensor in enumerate(mimo)},
        )  # fmt: skip
        return _lib.library.pack["mamba3_mixer_step"](
            **place._asdict(), heads=heads, groups=self.groups, rank=rank, head_dim=head_dim, dstate=dstate,
            angles=angles, neighbours=self.mimo is None, A_floor=self.A_floor, B_eps=self.B_norm.eps,
            C_eps=self.C_norm.eps, norm_eps=self.norm.eps if self.norm else 0.0, **_packed("in", self.in_proj),
            dt_bias=view(self.dt_bias), D=view(self.D), B_weight=view(self.B_norm.weight),
            C_weight=view(self.C_norm.weight), B_bias=view(self.B_bias), C_bias=view(self.C_bias),
            mimo_v=view(mimo[0]), mimo_z=view(mimo[1]), mimo_out=view(mimo[2]),
            norm_weight=view(self.norm.weight) if self.norm else ABSENT, **_packed("out", self.out_proj),
            angle=view(self.angle_state, 1, 2), state=view(self.state, 1, 2, 3), k=view(self.k_state, 1, 2, 3),
            v=view(self.v_state, 1, 2),
        )  # fmt: skip


@dataclass(frozen=True)
class GatedMLP(_Layer):
    """A gated MLP: out_proj (a * silu(b)), where in_proj computes a, then b."""

    in_proj: Weights
    out_proj: Weights

    def pack(self, place: Place) -> bytes:
        """The kernel's argument. Raises ValueError or TypeError for tensors that do not fit each other."""
        hidden = self.out_proj.columns
        self.in_proj.check("in_proj", 2 * hidden, place.features)
        self.out_proj.check("out_proj", place.features, hidden)
        return _lib.library.pack["gated_mlp_step"](
            **place._asdict(), hidden=hidden, **_packed("in", self.in_proj), **_packed("out", self.out_proj)
        )


def _packed(name: str, weights: Weights) -> dict[str, View | int]:
    values, bias = view(weights.values), view(weights.bias)
    return {f"{name}_weight": values, f"{name}_bias": bias, f"{name}_packed": weights.address}


_Shapes = dict[str, tuple[Tensor | None, tuple[int, ...]]]


def _expect_all(needed: _Shapes | None = None, optional: _Shapes | None = None) -> None:
    for name, (tensor, shape) in (needed or {}).items():
        _expect(name, tensor, shape)
    for name, (tensor, shape) in (optional or {}).items():
        if tensor is not None:
            _expect(name, tensor, shape)


def _expect(name: str, tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
    if tensor is None:
        raise TypeError(f"{name} is None, expected a tensor of shape {shape}")
    if tensor.dtype is not dtype:
        raise TypeError(f"{name} has dtype {tensor.dtype}, expected {dtype}")
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
