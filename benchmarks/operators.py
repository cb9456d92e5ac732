"""The operators alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.nn import functional

from benchmarks import peers
from benchmarks.native import Scan
from benchmarks.timing import Row, measure

DSTATE = 16
SCANS = ((384, 197), (1536, 512), (1536, 2048))
GOALS = {
    (384, 197): {"reference": 60.0, "roofline": 0.75},
    (1536, 2048): {"reference": 110.0, "roofline": 0.85},
}


def scan_inputs(dim: int, seqlen: int, requires_grad: bool = False) -> list[torch.Tensor]:
    """Random numbers of a trained model's size; A is not the evenly spaced one of a fresh model."""
    rng = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    u, delta, z = randn(1, dim, seqlen), randn(1, dim, seqlen) - 3, randn(1, dim, seqlen)
    A = -16 * torch.rand(dim, DSTATE, generator=rng)
    B, C = randn(1, DSTATE, seqlen), randn(1, DSTATE, seqlen)
    return [t.requires_grad_(requires_grad) for t in (u, delta, A, B, C, randn(dim), z, randn(dim))]


def scan_forward(threads: int, externals: dict[str, Scan]) -> Iterator[Row]:
    for dim, seqlen in SCANS:
        inputs = scan_inputs(dim, seqlen)
        candidates = {name: _call(scan, *inputs, True) for name, scan in peers.scans().items()}
        candidates |= {name: scan(dim, seqlen, threads).candidate() for name, scan in externals.items()}
        with torch.no_grad():
            times = measure(candidates, most=30)
        goals = {"ggml_ssm_scan": 25.0, **GOALS.get((dim, seqlen), {})}
        goals = {name: goal for name, goal in goals.items() if name in times and threads == 1}
        yield Row(f"selective scan, forward, d {dim}, L {seqlen}", threads, times, goals=goals)


def scan_backward(threads: int) -> Iterator[Row]:
    for dim, seqlen in SCANS[:2]:
        inputs = scan_inputs(dim, seqlen, requires_grad=True)
        grad = torch.randn(1, dim, seqlen)
        candidates = {}
        for name, scan in peers.scans().items():
            out = scan(*inputs, True)
            # mambapy's axes lie the other way round.
            weight = grad if out.shape == grad.shape else grad.mT
            candidates[name] = _call(torch.autograd.grad, out, inputs, weight, retain_graph=True)
        goals = {"reference": 40.0} if (dim, threads) == (1536, 1) else {}
        figures = measure(candidates, most=30)
        yield Row(f"selective scan, backward, d {dim}, L {seqlen}", threads, figures, goals=goals)


def convolution(threads: int) -> Iterator[Row]:
    from causal_conv1d import causal_conv1d_fn

    for dim, seqlen in SCANS:
        x, weight, bias = torch.randn(1, dim, seqlen), torch.randn(dim, 4), torch.randn(dim)

        def plain(x=x, weight=weight, bias=bias):
            return functional.silu(
                functional.conv1d(x, weight[:, None], bias, padding=3, groups=x.shape[1])[..., : x.shape[2]]
            )

        kernel = _call(causal_conv1d_fn, x, weight, bias, activation="silu")
        with torch.no_grad():
            times = measure(
                {"kernel": kernel, "F.conv1d + F.silu": plain, "pure PyTorch": peers.forced(kernel)}
            )
        goals = {"F.conv1d + F.silu": 3.0} if threads == 1 else {}
        yield Row(f"causal conv1d + silu, forward, d {dim}, L {seqlen}", threads, times, goals=goals)


def steps(threads: int) -> Iterator[Row]:
    from causal_conv1d import causal_conv1d_update
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    dim = 1536
    x, B, A = torch.randn(1, dim), torch.randn(1, DSTATE), -torch.rand(dim, DSTATE)
    D, state = torch.randn(dim), torch.randn(1, dim, DSTATE)
    update = _call(selective_state_update, state, x, x, A, B, B, D, x, D, True)
    conv = _call(causal_conv1d_update, x, torch.randn(1, dim, 4), torch.randn(dim, 4), D, "silu")
    with torch.no_grad():
        for work, step in (("selective state update", update), ("causal conv1d update", conv)):
            times = measure({"kernel": step, "pure PyTorch": peers.forced(step)}, 0.5, 500)
            yield Row(f"{work}, d {dim}", threads, times)


def _call(function: Callable[..., object], *args: object, **kwargs: object) -> Callable[[], object]:
    return lambda: function(*args, **kwargs)
