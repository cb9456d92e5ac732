"""Floating-point operations of one forward pass, from a model's shape. docs/flops.md derives each formula.

A multiplication, an addition, a division, an exponential and a logarithm count as one each, and a
multiply-add counts as two, as in torch.utils.flop_counter. Norms and residual sums are left out, as in
torch's counter.
"""

from __future__ import annotations

from models import Language, Vision

STATES = {"Mamba1": 16, "Mamba2": 128}
EXPAND = 2
WIDTH = 4
HEAD = 64


def scan(channels: int, states: int) -> int:
    """One step of Mamba's selective scan, with bias, softplus, D and the gate."""
    return channels * (7 * states + 9)


def scan_2(heads: int, head: int, states: int) -> int:
    """One step of Mamba-2's scan, with one decay for each head; with bias, softplus, D and the gate."""
    return heads * (head * (5 * states + 6) + 5)


def convolution(channels: int) -> int:
    """One step of the causal convolution, with bias and SiLU."""
    return channels * (2 * WIDTH + 3)


def vision(shape: Vision) -> dict[str, int]:
    """The operations of one image."""
    rows = shape.grid**2 + (shape.position is not None)
    inner, states, rank = EXPAND * shape.width, STATES["Mamba1"], -(-shape.width // 16)
    direction = 2 * inner * (rank + 2 * states) + 2 * rank * inner
    output_projection = 2 * inner * shape.width
    block = rows * (2 * shape.width * 2 * inner + 2 * direction + output_projection)
    # The last block projects the class token's row alone.
    skipped = 0 if shape.position is None else (rows - 1) * output_projection
    patches = 2 * shape.grid**2 * 3 * shape.patch**2 * shape.width
    return _shares(
        patches + shape.depth * block - skipped + 2 * shape.width * shape.classes,
        shape.depth * rows * 2 * convolution(inner),
        shape.depth * rows * 2 * scan(inner, states),
    )


def language(shape: Language, tokens: int) -> dict[str, int]:
    """``tokens`` tokens at once, with logits for the last token."""
    inner, states = EXPAND * shape.width, STATES[shape.layer]
    rows = -(-shape.vocabulary // shape.pad_to) * shape.pad_to
    if shape.layer == "Mamba1":
        rank = -(-shape.width // 16)
        mixer = 2 * shape.width * 2 * inner + 2 * inner * (rank + 2 * states) + 2 * rank * inner
        convolved, scanned = inner, scan(inner, states)
    else:
        heads = inner // HEAD
        mixer = 2 * shape.width * (2 * inner + 2 * states + heads)
        convolved, scanned = inner + 2 * states, scan_2(heads, HEAD, states)
    mixer += 2 * inner * shape.width
    steps = shape.depth * tokens
    return _shares(steps * mixer + 2 * shape.width * rows, steps * convolution(convolved), steps * scanned)


def _shares(projections: int, convolutions: int, scans: int) -> dict[str, int]:
    return {
        "total": projections + convolutions + scans,
        "projections": projections,
        "convolution": convolutions,
        "scan": scans,
    }
