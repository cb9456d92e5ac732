"""Mamba-3: its scan by the kernel and by PyTorch's chunks, and one token of a 130M-shaped model."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks import peers
from benchmarks.timing import Row, measure

LENGTHS = (512, 2048, 8192)
HEADS, HEAD_DIM, DSTATE, ANGLES = 24, 64, 128, 32  # those of d_model 768


def inputs(seqlen: int, rank: int = 1, requires_grad: bool = False) -> dict[str, torch.Tensor]:
    """What Mamba3(768) passes to its scan, batch 1."""
    rng = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    dt = 0.1 * torch.rand(1, HEADS, seqlen, generator=rng)
    tensors = {
        "q": randn(1, seqlen, rank, 1, DSTATE),
        "k": randn(1, seqlen, rank, 1, DSTATE),
        "v": randn(1, seqlen, HEADS, HEAD_DIM),
        "adt": -dt,
        "dt": dt,
        "trap": randn(1, HEADS, seqlen),
        "q_bias": randn(HEADS, rank, DSTATE),
        "k_bias": randn(HEADS, rank, DSTATE),
        "angles": randn(1, seqlen, 1, ANGLES).expand(-1, -1, HEADS, -1),
        "D": randn(HEADS),
        "z": randn(1, seqlen, HEADS, HEAD_DIM),
    }
    if rank > 1:
        tensors |= {name: randn(HEADS, rank, HEAD_DIM) for name in ("mimo_v", "mimo_z", "mimo_out")}
    return {name: t.detach().requires_grad_(requires_grad) for name, t in tensors.items()}


def forward(threads: int) -> Iterator[Row]:
    from mamba_ssm.ops.mamba3 import scan

    for rank, lengths in ((1, LENGTHS), (4, (2048,))):
        for seqlen in lengths:
            x = inputs(seqlen, rank)

            def run(x=x, rank=rank):
                return scan(**x, neighbours=rank == 1)

            with torch.no_grad():
                times = measure({"kernel": run, "pure PyTorch": peers.forced(run)}, most=12)
            goals = {"pure PyTorch": 4.0} if (rank, seqlen, threads) == (1, 2048, 1) else {}
            work = f"Mamba-3 scan, forward, rank {rank}, d_model 768, L {seqlen}"
            yield Row(work, threads, times, goals=goals)


def backward(threads: int) -> Iterator[Row]:
    from mamba_ssm.ops.mamba3 import scan

    x = inputs(2048, requires_grad=True)
    grad, candidates = torch.randn(1, 2048, HEADS, HEAD_DIM), {}
    for name, call in (("kernel", scan), ("pure PyTorch", peers.forced(scan))):
        out, _ = call(**x)

        def run(out=out):
            return torch.autograd.grad(out, list(x.values()), grad, retain_graph=True)

        candidates[name] = run if name == "kernel" else peers.forced(run)
    goals = {"pure PyTorch": 2.0} if threads == 1 else {}
    times = measure(candidates, most=8)
    yield Row("Mamba-3 scan, backward, d_model 768, L 2048", threads, times, goals=goals)


def token(threads: int) -> Iterator[Row]:
    """One token of language models of 24 layers of 768 features: Mamba-3's time against Mamba-1's."""
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
    from mamba_ssm.utils.generation import InferenceParams

    candidates = {}
    for layer in ("Mamba3", "Mamba1"):
        torch.manual_seed(0)
        config = MambaConfig(d_model=768, n_layer=24, vocab_size=50280, ssm_cfg={"layer": layer})
        model = MambaLMHeadModel(config).eval()
        cache = InferenceParams(max_seqlen=64, max_batch_size=1)
        prompt = torch.arange(8)[None]
        with torch.no_grad():
            model(prompt, inference_params=cache)
        cache.seqlen_offset = 8

        def run(model=model, cache=cache, prompt=prompt):
            return model(prompt[:, :1], inference_params=cache).logits

        candidates["kernel" if layer == "Mamba3" else layer] = run
    with torch.no_grad():
        times = measure(candidates, most=20)
    goals = {"Mamba1": 0.8} if threads == 1 else {}
    yield Row("Mamba-3 of Mamba-130M's shape, one token", threads, times, goals=goals)
