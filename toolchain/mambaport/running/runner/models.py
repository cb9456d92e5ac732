"""The known models and their shapes. This file does not need torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Vision:
    """The shape of a Vision Mamba."""

    width: int
    depth: int = 24
    size: int = 224
    """Pixels along each side of the image."""
    patch: int = 16
    stride: int = 16
    classes: int = 1000
    pool: str = "middle"
    """The classifier's input: a token at the ``middle`` or ``head`` of the rows, or the rows' ``mean``."""
    rope: bool = False
    """Whether rotary position embeddings are applied to rows and residual before every block."""
    divide: bool = True
    """Whether the two directions are averaged; False means summed."""

    @property
    def grid(self) -> int:
        """Patches along each side."""
        return (self.size - self.patch) // self.stride + 1

    @property
    def position(self) -> int | None:
        """The class token's place among the rows; None without one."""
        return {"middle": self.grid**2 // 2, "head": 0}.get(self.pool)

    def takes(self, size: int) -> bool:
        """Whether an image of ``size`` pixels divides into whole patches."""
        return size >= self.patch and (size - self.patch) % self.stride == 0


@dataclass(frozen=True)
class Language:
    """The shape of a language model of the Mamba family."""

    layer: str
    """``Mamba1`` or ``Mamba2``."""
    width: int
    depth: int
    vocabulary: int
    pad_to: int
    """The embedding's number of rows is a multiple of this."""


VISION = {
    # The original's `..._midclstok_div2`, its models of finer stride ("+" in its table), its first release.
    "vim-tiny": Vision(192),
    "vim-small": Vision(384),
    "vim-base": Vision(768),
    "vim-tiny-stride8": Vision(192, stride=8),
    "vim-small-stride8": Vision(384, stride=8),
    "vim-tiny-rope": Vision(192, pool="head", rope=True, divide=False),
    "vim-tiny-rope-mean": Vision(192, pool="mean", rope=True, divide=False),
}
LANGUAGE = {
    "mamba-130m": Language("Mamba1", 768, 24, 50277, 8),
    "mamba2-130m": Language("Mamba2", 768, 24, 50277, 16),
}
