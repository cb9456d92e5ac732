"""Whole models with random weights: Vim-Tiny on an image, Mamba-130M on a prompt and on single tokens."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from benchmarks import peers
from benchmarks.native import Program
from benchmarks.timing import Row, measure

PROMPT = 512


class VimTiny(nn.Module):
    """Vim-Tiny's shape: 24 blocks of 192 features, 14 x 14 patches and a class token, scanned both ways."""

    def __init__(self) -> None:
        super().__init__()
        from mamba_ssm import Mamba
        from mamba_ssm.ops.triton.layer_norm import RMSNorm

        self.patches = nn.Conv2d(3, 192, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, 192))
        self.positions = nn.Parameter(torch.randn(1, 197, 192) * 0.02)
        mixers = [Mamba(192, bimamba_type="v2", if_divide_out=True, layer_idx=i) for i in range(24)]
        self.mixers = nn.ModuleList(mixers)
        self.norms = nn.ModuleList(RMSNorm(192, eps=1e-5) for _ in range(25))
        self.head = nn.Linear(192, 1000)

    def forward(self, image):
        from mamba_ssm.ops.triton.layer_norm import rms_norm_fn

        x = self.patches(image).flatten(2).mT
        x = torch.cat([x[:, :98], self.token.expand(len(x), -1, -1), x[:, 98:]], dim=1) + self.positions
        residual = None
        for norm, mixer in zip(self.norms[:-1], self.mixers, strict=True):
            x, residual = rms_norm_fn(
                x, norm.weight, norm.bias, residual, eps=norm.eps, prenorm=True, residual_in_fp32=True
            )
            x = mixer(x)
        last = self.norms[-1]
        x = rms_norm_fn(x, last.weight, last.bias, residual, eps=last.eps)
        return self.head(x[:, 98])


def vim(threads: int) -> Iterator[Row]:
    torch.manual_seed(0)
    model, image = VimTiny().eval(), torch.randn(1, 3, 224, 224)

    def run():
        return model(image)

    with torch.no_grad():
        candidates = {
            "kernel": run,
            "pure PyTorch": peers.forced(run),
            "reference scan": peers.forced(run, peers.reference_scan),
        }
        times = measure(candidates, seconds=4.0, most=40)
    goals = {"reference scan": 14.0} if threads == 1 else {}
    yield Row("Vim-Tiny 224, one image", threads, times, goals=goals)


def mamba_130m(threads: int, llama: tuple[Path, Path] | None, folder: Path) -> Iterator[Row]:
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
    from mamba_ssm.utils.generation import InferenceParams

    torch.manual_seed(0)
    config = MambaConfig(d_model=768, n_layer=24, vocab_size=50280)
    model = MambaLMHeadModel(config).eval()
    prompt = ((torch.arange(PROMPT) * 7919 + 13) % 50000)[None]  # what llama.c takes
    token = prompt[:, :1]

    def prefill():
        return model(prompt, num_last_tokens=1).logits

    states = InferenceParams(max_seqlen=PROMPT + 1, max_batch_size=1)
    with torch.no_grad():
        logits = model(prompt, inference_params=states, num_last_tokens=1).logits.flatten()
    states.seqlen_offset = PROMPT

    def decode():
        return model(token, inference_params=states, num_last_tokens=1).logits

    candidates = {"prefill": {"kernel": prefill}, "decode": {"kernel": decode}}
    for functions in candidates.values():
        functions["pure PyTorch"] = peers.forced(functions["kernel"])
    for name, function in transformers_130m(prompt, token).items():
        candidates[name]["transformers"] = function
    if llama:
        program = llama_130m(model, threads, *llama, folder)
        shown = torch.tensor(program(str(PROMPT))[1:])
        assert torch.allclose(shown, logits[: len(shown)], atol=1e-3), "llama.cpp computes another model"
        candidates["prefill"]["llama.cpp"] = program.candidate(str(PROMPT))
        candidates["decode"]["llama.cpp"] = program.candidate("1")
    goals = {"prefill": {"llama.cpp": 2.0}, "decode": {"llama.cpp": 1.1}} if llama and threads == 1 else {}
    with torch.no_grad():
        for name, work, seconds, most in (
            ("prefill", f"Mamba-130M, prefill of {PROMPT}", 12.0, 8),
            ("decode", "Mamba-130M, decode of one token", 4.0, 40),
        ):
            figures = measure(candidates[name], seconds, most)
            yield Row(work, threads, figures, goals=goals.get(name, {}))


def llama_130m(model, threads: int, program: Path, gguf_package: Path, folder: Path) -> Program:
    """llama.cpp with this very model."""
    return Program(program, gguf_130m(model, gguf_package, folder), threads)


def gguf_130m(model, gguf_package: Path, folder: Path) -> Path:
    """The model as a file that llama.cpp reads."""
    sys.path.insert(0, str(gguf_package))
    import gguf

    config, layers = model.config, len(model.backbone.layers)
    mixer = model.backbone.layers[0].mixer
    path = folder / "mamba-130m.gguf"
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(1 << 20)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(layers)
    writer.add_ssm_conv_kernel(mixer.d_conv)
    writer.add_ssm_inner_size(mixer.d_inner)
    writer.add_ssm_state_size(mixer.d_state)
    writer.add_ssm_time_step_rank(mixer.dt_rank)
    writer.add_layer_norm_rms_eps(model.backbone.norm_f.eps)
    writer.add_vocab_size(len(model.backbone.embedding.weight))
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MAMBA, layers)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":  # tied to the embedding
            values = -tensor.exp() if name.endswith("A_log") else tensor
            to = names.get_name(name, try_suffixes=(".weight", ".bias"))
            writer.add_tensor(to, values.squeeze().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def transformers_130m(prompt, token):
    """The same of transformers, where it is installed, on its own slow path."""
    try:
        from transformers import MambaConfig, MambaForCausalLM
        from transformers.models.mamba import modeling_mamba
    except ImportError:
        return {}
    for name, function in list(vars(modeling_mamba).items()):
        # Its own PyTorch is what it wraps for an installed mamba_ssm and causal_conv1d to take the place of.
        if name.startswith(("causal_conv1d", "mamba_selective")):
            setattr(modeling_mamba, name, inspect.unwrap(function))
    model = MambaForCausalLM(MambaConfig(hidden_size=768, num_hidden_layers=24)).eval()
    with torch.no_grad():
        cache = model(prompt, use_cache=True, logits_to_keep=1).cache_params
    return {
        "prefill": lambda: model(prompt, logits_to_keep=1).logits,
        "decode": lambda: (
            model(token, cache_params=cache, use_cache=True, cache_position=torch.tensor([PROMPT])).logits
        ),
    }
