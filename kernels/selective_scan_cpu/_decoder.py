"""A language model's step of decoding as a plan: the arguments of all blocks, made once and used for every token."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _lib, _library
from ._layers import GatedMLP, Mamba2Mixer, Mamba3Mixer, MambaMixer, Norm, Place, Weights
from ._library import view

Mixer = MambaMixer | Mamba2Mixer | Mamba3Mixer | GatedMLP
_NUMBERS = {MambaMixer: 0, Mamba2Mixer: 1, Mamba3Mixer: 2, GatedMLP: 3}
"""C's ``enum mixer``."""


@dataclass(frozen=True)
class Block:
    """The residual's sum, its norm, and what is computed of the norm's output."""

    norm: Norm
    mixer: Mixer

    def tensors(self) -> list[Tensor | None]:
        return [*self.norm.tensors(), *self.mixer.tensors()]


class MambaDecoder:
    """The step of a language model, computed in float32 by one call. Not differentiable.

    All tensors are on the CPU, in float32 but for packed weights and their scales, and contiguous but for a
    convolution's state. The plan holds their addresses: make a new plan after a tensor is replaced. Each call advances
    the states in place.

    Args:
        embedding: (tokens, features), without a bias
        head: (vocabulary, features)

    Raises:
        ValueError, TypeError: a tensor of another shape, dtype or layout.
    """

    def __init__(self, embedding: Weights, blocks: Sequence[Block], norm: Norm, head: Weights) -> None:
        if not blocks:
            raise ValueError("a model without blocks")
        features, self._threads = head.columns, torch.get_num_threads()
        with torch.inference_mode(False):  # tensors made in inference mode could only be written to there
            self._hidden, self._residual, self._normed = (torch.empty(features, dtype=torch.float32) for _ in range(3))
        self._states = [state for block in blocks for state in block.mixer.states()]
        layers: list[Block | Norm | Weights] = [embedding, *blocks, norm, head]
        self.tensors = [tensor for layer in layers for tensor in layer.tensors()]
        mixers = [block.mixer for block in blocks]
        strided = {id(mixer.conv_state) for mixer in mixers if isinstance(mixer, MambaMixer | Mamba2Mixer)}
        for tensor in self.tensors:
            if tensor is not None and not (tensor.is_cpu and not tensor.is_neg() and tensor.layout is torch.strided):
                raise ValueError("a tensor of the model is not a plain tensor on the CPU")
            if tensor is None or tensor.is_contiguous() or (id(tensor) in strided and not _library.has_overlap(tensor)):
                continue
            raise ValueError("a tensor of the model is not contiguous")
        head.check("lm_head", head.rows, features)
        embedding.check("embedding", embedding.rows, features)
        if embedding.bias is not None:
            raise TypeError("the embedding has a bias")
        norm.check(features)
        self._mixers, packed = [], []
        common = {
            "features": features, "threads": self._threads, "hidden": view(self._hidden),
            "residual": view(self._residual),
        }  # fmt: skip
        place = Place(features, self._threads, view(self._normed), view(self._hidden))
        for index, block in enumerate(blocks):
            block.norm.check(features)
            arguments = ctypes.create_string_buffer(block.mixer.pack(place))
            self._mixers.append(arguments)
            packed.append(
                _lib.library.pack["model_block_step"](
                    **common, mixer=_NUMBERS[type(block.mixer)], arguments=ctypes.addressof(arguments),
                    normed=view(self._normed), norm_weight=view(block.norm.weight), norm_bias=view(block.norm.bias),
                    first=index == 0, rms=block.norm.rms, eps=block.norm.eps,
                )
            )  # fmt: skip
        self._blocks = ctypes.create_string_buffer(b"".join(packed))
        self._tokens, self._rows = embedding.rows, head.rows
        self._fixed = {
            **common, "count": len(blocks), "vocabulary": head.rows, "blocks": ctypes.addressof(self._blocks),
            "norm_weight": view(norm.weight), "norm_bias": view(norm.bias), "rms": norm.rms, "eps": norm.eps,
            "embedding": view(embedding.values), "embedding_packed": embedding.address,
            "head_weight": view(head.values), "head_bias": view(head.bias), "head_packed": head.address,
        }  # fmt: skip

    @property
    def is_current(self) -> bool:
        """Whether torch still has the number of threads that the plan was made for."""
        return torch.get_num_threads() == self._threads

    def __call__(self, token: int) -> Tensor:
        """The logits, (vocabulary,), after one token.

        Raises:
            IndexError: a token that is no row of the embedding.
        """
        if not 0 <= token < self._tokens:
            raise IndexError(f"token {token} is outside of the embedding, which has {self._tokens} rows")
        logits = torch.empty(self._rows, dtype=torch.float32)
        _lib.mamba_model_step(**self._fixed, token=token, logits=view(logits))
        _library.written(*self._states)
        return logits
