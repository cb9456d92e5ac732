"""Mamba-130M's shape with weights of 8 and 4 bits, beside llama.cpp's Q8_0 and Q4_0 of the same weights.

And one token of each kind of Mamba in one call, beside the same model called module by module.
"""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch

from benchmarks.models import PROMPT, gguf_130m
from benchmarks.native import Program, reader
from benchmarks.timing import Row, measure

SCHEMES = {8: "q8_0", 4: "q4_0"}
GOALS = {"prefill": {8: 2.5}, "decode": {8: 1.25, 4: 1.25}}
READ = "plain read of the same bytes"
SHARE = 0.8
"""Of the memory's speed while decoding: the time of a plain read divided by that of a token."""


def quantized_130m(threads: int, llama: tuple[Path, Path] | None, folder: Path) -> Iterator[Row]:
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
    from mamba_ssm.utils.generation import InferenceParams
    from mamba_ssm.utils.quantize import quantize

    torch.manual_seed(0)
    model = MambaLMHeadModel(MambaConfig(d_model=768, n_layer=24, vocab_size=50280)).eval()
    prompt = ((torch.arange(PROMPT) * 7919 + 13) % 50000)[None]  # what llama.c takes
    path = gguf_130m(model, llama[1], folder) if llama else None
    with torch.no_grad():
        exact = model(prompt, num_last_tokens=1).logits.flatten()
    for bits, scheme in SCHEMES.items():
        small, states = quantize(copy.deepcopy(model), bits), InferenceParams(PROMPT + 1, 1)
        with torch.no_grad():
            logits = small(prompt, inference_params=states, num_last_tokens=1).logits.flatten()
        states.seqlen_offset = PROMPT
        tensors = {tensor.data_ptr(): tensor for tensor in small.state_dict().values()}
        size = sum(tensor.nbytes for tensor in tensors.values())

        def prefill(small=small):
            return small(prompt, num_last_tokens=1).logits

        def decode(small=small, states=states):
            return small(prompt[:, :1], inference_params=states, num_last_tokens=1).logits

        read = Program(reader(folder), size, threads)
        candidates = {"prefill": {"kernel": prefill}, "decode": {"kernel": decode, READ: read.candidate()}}
        goals = {"prefill": {}, "decode": {READ: SHARE} if threads == 1 else {}}
        if llama:
            name = f"llama.cpp {scheme.upper()}"
            other = _quantized_by_llama(llama[0], path, scheme)
            program = Program(llama[0], other, threads)
            shown = torch.tensor(program(str(PROMPT))[1:])
            largest = exact.abs().max()
            first = exact[: len(shown)]
            ours, theirs = ((of[: len(first)] - first).abs().max() / largest for of in (logits, shown))
            assert theirs < 0.3, f"llama.cpp computes another model: {theirs:.1%} of the largest logit"
            print(f"{scheme}: the first logits change by {ours:.2%}, in llama.cpp by {theirs:.2%}")
            for work, tokens in (("prefill", PROMPT), ("decode", 1)):
                candidates[work][name] = program.candidate(str(tokens))
                if threads == 1 and bits in GOALS[work]:
                    goals[work][name] = GOALS[work][bits]
        with torch.no_grad():
            for work, what, seconds, most in (
                ("prefill", f"prefill of {PROMPT}", 12.0, 8),
                ("decode", "decode of one token", 4.0, 80),
            ):
                figures = measure(candidates[work], seconds, most)
                yield Row(f"Mamba-130M, int{bits}, {what}", threads, figures, goals=goals[work])


def tokens_130m(threads: int, folder: Path) -> Iterator[Row]:
    """One token of language models of 24 layers of 768 features, for each kind of mixer of this release."""
    import mamba_ssm
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
    from mamba_ssm.modules import decoding
    from mamba_ssm.utils.generation import InferenceParams
    from mamba_ssm.utils.quantize import quantize

    prompt = torch.arange(8)[None]
    for layer in ("Mamba1", "Mamba2", *(["Mamba3"] if hasattr(mamba_ssm, "Mamba3") else [])):
        torch.manual_seed(0)
        config = MambaConfig(d_model=768, n_layer=24, vocab_size=50280, ssm_cfg={"layer": layer})
        model = MambaLMHeadModel(config).eval()
        for bits in (32, 8, 4):
            small = model if bits == 32 else quantize(copy.deepcopy(model), bits)
            tensors = {tensor.data_ptr(): tensor for tensor in small.state_dict().values()}
            size = sum(tensor.nbytes for tensor in tensors.values())
            states = [InferenceParams(max_seqlen=64, max_batch_size=1) for _ in range(2)]
            with torch.no_grad():
                for cache in states:
                    small(prompt, inference_params=cache)
                    cache.seqlen_offset = 8

                def decode(small=small, cache=states[0]):
                    return small(prompt[:, :1], inference_params=cache).logits

                def modules(small=small, cache=states[1]):
                    with mock.patch.object(decoding, "step", return_value=None):
                        return small(prompt[:, :1], inference_params=cache).logits

                read = Program(reader(folder), size, threads)
                candidates = {"kernel": decode, "module by module": modules, READ: read.candidate()}
                figures = measure(candidates, 4.0, 40)
            work = "float32" if bits == 32 else f"int{bits}"
            yield Row(f"{layer} of Mamba-130M's shape, {work}, one token", threads, figures)


def _quantized_by_llama(program: Path, path: Path, scheme: str) -> Path:
    to = path.with_name(f"{path.stem}-{scheme}.gguf")
    command = [program, path, "quantize", scheme, to]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"llama.cpp could not quantize: {done.stderr.strip()[-400:]}")
    return to
