"""What a user does with a model, as functions of a model that return tensors by name."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import inspect
from collections import Counter
from contextlib import contextmanager
from types import FunctionType

import torch
from models import MODELS

LENGTH = 37
PADDING = 5
CUT = 20
STEPS = 3
LENGTHS = (11, 7, 19)
"""Of the sequences in a packed row; their sum is LENGTH."""
NEW = 8
CACHES = ("cache", "past_key_values", "cache_params")
"""The names that releases of transformers have for a cache."""
KERNELS = ("causal_conv1d_cpu", "selective_scan_cpu")


def build(name):
    """The model of MODELS in evaluation. Its weights are the same in every process."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    built = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **MODELS[name].options)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter, weight in sorted(built.named_parameters()):
            if weight.dim() >= 2 and not parameter.endswith("A_log"):
                deviation = MODELS[name].scale * weight[0].numel() ** -0.5
                weight.normal_(0, deviation, generator=generator)
            elif parameter.endswith(".bias") and not parameter.endswith("dt_proj.bias"):
                weight.normal_(0, 0.2, generator=generator)
    return built


def digest(built):
    """One word for all weights."""
    found = hashlib.sha256()
    for name, weight in built.state_dict().items():
        found.update(name.encode())
        found.update(weight.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def tokens(batch=2):
    return torch.randint(3, 89, (batch, LENGTH), generator=torch.Generator().manual_seed(2))


def left_padded():
    """Two rows of tokens, of which the first begins with padding; and the mask."""
    rows, mask = tokens(), torch.ones(2, LENGTH, dtype=torch.long)
    rows[0, :PADDING] = 0
    mask[0, :PADDING] = 0
    return rows, mask


@torch.no_grad()
def forward(built):
    return {"logits": built(tokens()).logits}


@torch.no_grad()
def padding(built):
    rows, mask = left_padded()
    out = built(rows, attention_mask=mask).logits
    return {"logits": out[mask.bool()], "row": out[:1, PADDING:], "alone": built(rows[:1, PADDING:]).logits}


@torch.no_grad()
def chunks(built):
    """The prompt in two pieces and then token by token, with one cache; and the whole prompt at once."""
    rows = tokens()
    pieces = [rows[:, :CUT], rows[:, CUT:-STEPS], *rows[:, -STEPS:].split(1, dim=1)]
    return {"logits": _continued(built, pieces), "whole": built(rows).logits}


def _continued(built, pieces):
    """The logits of the pieces of a prompt.

    Positions are passed, because not every model derives them from the cache.
    """
    parameters = inspect.signature(built.forward).parameters
    cache_name = next(name for name in CACHES if name in parameters)
    cache, parts, start = None, [], 0
    for piece in pieces:
        positions = torch.arange(start, start + piece.shape[1])[None]
        options = {"position_ids": positions} if "position_ids" in parameters else {}
        out = built(piece, **{cache_name: cache}, **options, use_cache=True)
        cache, start = out[cache_name], start + piece.shape[1]
        parts.append(out.logits)
    return torch.cat(parts, dim=1)


@torch.no_grad()
def packed(built):
    """Three sequences in one row."""
    numbers = torch.cat([torch.full((1, n), i) for i, n in enumerate(LENGTHS)], dim=1).int()
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    options = {}
    if MODELS[built.config.model_type].packing == "mask":
        same = numbers[:, :, None] == numbers[:, None, :]
        mask = same.tril()[:, None]
        options["attention_mask"] = {
            "full_attention": mask,
            "attention": mask,
            "linear_attention": None,
            "mamba": None,
        }
    return {
        "logits": built(tokens(1), seq_idx=numbers, position_ids=positions, use_cache=False, **options).logits
    }


@torch.no_grad()
def apart(built):
    """The same three sequences, each in a call."""
    return {"logits": torch.cat([built(part).logits for part in tokens(1).split(LENGTHS, dim=1)], dim=1)}


def generation(batch, beams):
    @torch.no_grad()
    def generate(built):
        rows, mask = (tokens(1), torch.ones(1, LENGTH)) if batch == 1 else left_padded()
        lengths = {"max_new_tokens": NEW, "min_new_tokens": NEW}
        out = built.generate(rows, attention_mask=mask.long(), do_sample=False, num_beams=beams, **lengths)
        return {"tokens": out[:, LENGTH:]}

    return generate


@torch.no_grad()
def half(built):
    """The logits of a prompt and of three steps in bfloat16, and those of the same weights in float32."""
    rows = tokens()
    pieces = [rows[:, :-STEPS], *rows[:, -STEPS:].split(1, dim=1)]
    narrow = _continued(built.bfloat16(), pieces).float()
    return {"logits": narrow, "wide logits": _continued(built.float(), pieces)}


def autocast(built):
    """A training step under autocast to bfloat16, and the same in float32."""
    wide = _train(built)
    with torch.autocast("cpu", torch.bfloat16):
        return {**_train(built), **{f"wide {name}": value for name, value in wide.items()}}


def backward(built):
    return _train(built)


def backward_padded(built):
    """A training step with padding at the left, which the loss leaves out."""
    rows, mask = left_padded()
    return _train(built, rows, mask)


def checkpointing(built):
    plain = _train(built)
    built.gradient_checkpointing_enable({"use_reentrant": False})
    return {**_train(built), **{f"plain {name}": value for name, value in plain.items()}}


def _train(built, rows=None, mask=None):
    """Logits, and the gradient of each weight."""
    built.train().requires_grad_(True)
    built.zero_grad()
    rows = tokens() if rows is None else rows
    logits = built(rows, use_cache=False, **({} if mask is None else {"attention_mask": mask})).logits.float()
    loss = -logits.log_softmax(-1)[:, :-1].gather(-1, rows[:, 1:, None])[..., 0]
    used = slice(None) if mask is None else mask.bool()
    (loss if mask is None else loss[used[:, :-1]]).mean().backward()
    grads = {
        f"grad {name}": weight.grad for name, weight in built.named_parameters() if weight.grad is not None
    }
    return {"logits": logits[used].detach(), **{name: grad.clone() for name, grad in grads.items()}}


CASES = {
    "forward": forward,
    "padding": padding,
    "chunks": chunks,
    "packed": packed,
    "apart": apart,
    "greedy 1": generation(1, 1),
    "greedy 2": generation(2, 1),
    "beams 1": generation(1, 3),
    "beams 2": generation(2, 3),
    "bfloat16": half,
    "autocast": autocast,
    "backward": backward,
    "backward padded": backward_padded,
    "checkpointing": checkpointing,
}


def run(name):
    """Case -> tensors by name, or the text of a ValueError; and the weights, and the calls of kernels."""
    results = {}
    for case, function in CASES.items():
        built = build(name)
        results.setdefault("weights", digest(built))
        with counted() as calls:
            try:
                results[case] = function(built)
            except ValueError as fault:
                results[case] = str(fault)
        results[f"calls of {case}"] = dict(calls)
    return results


@contextmanager
def counted():
    """Counts the calls of the C functions of the wheels, by name, while the block runs."""
    counts = Counter()
    try:
        modules = [importlib.import_module(f"{name}._lib") for name in KERNELS]
    except ImportError:
        yield counts
        return
    # Each kernel is a Python function of its own that calls the C function of that name.
    kernels = [
        value.__globals__
        for module in modules
        for value in vars(module).values()
        if isinstance(value, FunctionType)
        and isinstance(value.__globals__.get("_function"), ctypes._CFuncPtr)
    ]
    before = [scope["_function"] for scope in kernels]
    for scope, function in zip(kernels, before, strict=True):
        scope["_function"] = _counting(function, counts)
    try:
        yield counts
    finally:
        for scope, function in zip(kernels, before, strict=True):
            scope["_function"] = function


def _counting(function, counts):
    def call(argument):
        counts[function.__name__] += 1
        return function(argument)

    return call
