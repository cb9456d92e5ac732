"""Language models with random weights, as the decoder takes them."""

from __future__ import annotations

import dataclasses
from typing import Any

import selective_scan_cpu as kernels
import torch
from selective_scan_cpu._quantized import packed_shapes


class Model:
    """Makes layers for `features` features. bits: of the projections' weights, 32, 8 or 4"""

    def __init__(self, features: int, bits: int = 32, seed: int = 0) -> None:
        self.features, self.bits, self.random = features, bits, torch.Generator().manual_seed(seed)

    def randn(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=self.random)

    def weights(self, rows: int, columns: int, bias: bool = True, bits: int | None = None) -> kernels.Weights:
        scale, extra = columns**-0.5, self.randn(rows) if bias else None
        if (bits or self.bits) == 32:
            return kernels.Weights(rows, columns, self.randn(rows, columns, scale=scale), None, extra)
        of_packed, of_scales = packed_shapes(rows, columns, self.bits)
        kind, dtype = (torch.int8, torch.float32) if self.bits == 8 else (torch.uint8, torch.bfloat16)
        packed = torch.randint(-127, 128, of_packed, generator=self.random).to(torch.int8).view(kind)
        scales = self.randn(*of_scales).abs() * scale / (60 if self.bits == 8 else 4)
        return kernels.Weights(rows, columns, scales.to(dtype), packed, extra)

    def norm(self, size: int, rms: bool = True, bias: bool = False) -> kernels.Norm:
        return kernels.Norm(1 + self.randn(size, scale=0.1), self.randn(size) if bias else None, 1e-5, rms)

    def mamba(self, inner: int = 24, dstate: int = 10, rank: int = 3, width: int = 4) -> kernels.MambaMixer:
        return kernels.MambaMixer(
            self.weights(2 * inner, self.features), self.randn(inner, 1, width), self.randn(inner),
            self.weights(rank + 2 * dstate, inner, False), self.weights(inner, rank, bits=32),
            self.randn(inner, dstate), self.randn(inner), self.weights(self.features, inner, False),
            self.randn(1, inner, width), self.randn(1, inner, dstate),
        )  # fmt: skip

    def mamba2(
        self, heads: int = 6, head_dim: int = 5, dstate: int = 10, groups: int = 2, mlp: int = 7, width: int = 4,
        norm: bool = True, norm_groups: int = 1, gate: Any = "before", biases: bool = True, by_feature: bool = False,
        dt_limit: tuple[float, float] = (0.0, float("inf")), adjacent: int = 1,
    ) -> kernels.Mamba2Mixer:  # fmt: skip
        """adjacent: the axis of conv_state whose elements are next to each other"""
        inner, channels = heads * head_dim, heads * head_dim + 2 * groups * dstate
        conv_state = self.randn(1, channels, width)
        return kernels.Mamba2Mixer(
            self.weights(2 * mlp + inner + channels + heads, self.features, biases), self.randn(channels, 1, width),
            self.randn(channels) if biases else None, self.randn(heads), self.randn(heads),
            self.randn(inner if by_feature else heads), self.norm(inner, bias=biases) if norm else None,
            inner // norm_groups, gate, dt_limit, self.weights(self.features, mlp + inner, biases),
            conv_state if adjacent == 2 else conv_state.mT.contiguous().mT, self.randn(1, heads, head_dim, dstate),
        )  # fmt: skip

    def mamba3(self, rank: int = 1, norm: bool = True) -> kernels.Mamba3Mixer:
        heads, head_dim, dstate, groups, angles = 4, 6, 12, 2, 5
        inner, rows = heads * head_dim, 2 * heads * head_dim + 2 * rank * groups * dstate + 3 * heads + angles
        mimo = tuple(self.randn(heads, rank, head_dim) for _ in range(3)) if rank > 1 else None
        return kernels.Mamba3Mixer(
            self.weights(rows, self.features, False), self.weights(self.features, inner, False), self.randn(heads),
            self.randn(heads), self.norm(dstate), self.norm(dstate), self.randn(heads, rank, dstate),
            self.randn(heads, rank, dstate), mimo, self.norm(inner) if norm else None, groups, 1e-4,
            self.randn(1, heads, angles).abs(), self.randn(1, heads, head_dim, dstate),
            self.randn(1, rank, heads, dstate), self.randn(1, heads, head_dim),
        )  # fmt: skip

    def mlp(self, hidden: int = 37) -> kernels.GatedMLP:
        return kernels.GatedMLP(self.weights(2 * hidden, self.features), self.weights(self.features, hidden, False))


def results(bits: int, features: int = 40) -> list[torch.Tensor]:
    """The logits of three tokens, and the states, of a model with every kind of layer."""
    model = Model(features, bits)
    mixers = [model.mamba(), model.mamba2(), model.mlp(), model.mamba3(), model.mamba3(3, False)]
    mixers.append(model.mamba2(norm=False, mlp=0, dt_limit=(0.1, 0.5), width=3, adjacent=2))
    mixers.append(model.mamba2(heads=2, head_dim=18, dstate=32, groups=1))  # whole vectors of states
    blocks = [kernels.Block(model.norm(features, rms=i % 2 == 0, bias=i % 2 == 1), m) for i, m in enumerate(mixers)]
    embedding = model.weights(33, features, False)
    decoder = kernels.MambaDecoder(embedding, blocks, model.norm(features), model.weights(50, features))
    found = [decoder(token) for token in (32, 0, 17)]
    return found + [state for mixer in mixers for state in mixer.states()]


def matrix(weights: kernels.Weights) -> torch.Tensor:
    """(rows, columns) in float32, by the description in csrc/selective_scan_cpu/quantized.h."""
    packed, scales = weights.packed, weights.values
    if packed is None:
        return scales
    tiles, most = packed.shape[0], packed.shape[0] * packed.shape[2]
    if packed.dtype is torch.int8:
        whole = packed.permute(0, 2, 1, 3).reshape(most, -1) * scales[:, None]
    else:
        halves = torch.stack([packed & 15, packed >> 4], dim=3).permute(0, 2, 1, 3, 4)
        values = halves.reshape(tiles, packed.shape[2], -1, 32).float() - 8
        whole = (values * scales.float().mT[..., None]).reshape(most, -1)
    return whole[: weights.rows, : weights.columns]


def in_float64(layer: Any) -> Any:
    """A copy of a layer, and of the layers in it, with tensors of float64."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if isinstance(value, torch.Tensor):
            changed[field.name] = value.double()
        elif dataclasses.is_dataclass(value):
            changed[field.name] = in_float64(value)
    return dataclasses.replace(layer, **changed)
