"""The class of `generate`'s result: that of transformers where installed, else a class with the same fields."""

from dataclasses import dataclass

import torch


@dataclass
class GenerateDecoderOnlyOutput:
    """sequences: (batch, length); scores: for each new token (batch, vocab_size), or None"""

    sequences: torch.Tensor
    scores: tuple[torch.Tensor, ...] | None = None


def decoder_only_output(sequences, scores):
    """The output object. transformers is imported here, at first use: it takes seconds on a small board."""
    try:
        from transformers.generation import GenerateDecoderOnlyOutput as Output
    except (ImportError, RuntimeError):  # transformers is missing, lacks the class, or does not fit this torch
        Output = GenerateDecoderOnlyOutput
    return Output(sequences=sequences, scores=scores)
