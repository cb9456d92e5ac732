"""Random arguments of Mamba-3's scan and step."""

from __future__ import annotations

import torch

NAMES = (
    "q", "k", "v", "adt", "dt", "trap", "q_bias", "k_bias", "angles", "D", "z", "mimo_v", "mimo_z", "mimo_out",
)  # fmt: skip


def arguments(batch, seqlen, rank, groups, heads, dstate, head_dim, angles, mimo=False, optional=True):
    shapes = {
        "q": (batch, seqlen, rank, groups, dstate),
        "k": (batch, seqlen, rank, groups, dstate),
        "v": (batch, seqlen, heads, head_dim),
        "adt": (batch, heads, seqlen),
        "dt": (batch, heads, seqlen),
        "trap": (batch, heads, seqlen),
        "q_bias": (heads, rank, dstate),
        "k_bias": (heads, rank, dstate),
        "angles": (batch, seqlen, heads, angles),
    }
    if optional:
        shapes |= {"D": (heads,), "z": (batch, seqlen, heads, head_dim)}
    if mimo:
        names = ("mimo_v", "mimo_z", "mimo_out") if optional else ("mimo_v",)
        shapes |= dict.fromkeys(names, (heads, rank, head_dim))
    x = {name: torch.randn(shape) for name, shape in shapes.items()}
    x["adt"], x["dt"] = -0.5 * x["adt"].abs(), 0.3 * x["dt"].abs()
    return {name: x.get(name) for name in NAMES}


def step_arguments(rank, groups, heads, dstate, head_dim, angles, features, norm, dtype):
    inner = heads * head_dim
    rows = 2 * inner + 2 * rank * groups * dstate + 3 * heads + angles
    mimo = [torch.randn(heads, rank, head_dim) if rank > 1 else None for _ in range(3)]
    before = (
        6 * torch.rand(1, heads, angles),
        torch.randn(1, heads, head_dim, dstate),
        torch.randn(1, rank, heads, dstate).to(dtype),
        torch.randn(1, heads, head_dim).to(dtype),
    )
    parameters = (
        (torch.randn(rows, features) / features**0.5).to(dtype), torch.randn(rows).to(dtype),
        (torch.randn(features, inner) / inner**0.5).to(dtype), torch.randn(features).to(dtype), torch.randn(heads),
        torch.randn(heads), torch.randn(dstate).to(dtype), torch.randn(dstate).to(dtype),
        *torch.randn(2, heads, rank, dstate), *mimo, torch.randn(inner).to(dtype) if norm else None,
    )  # fmt: skip
    return torch.randn(1, features).to(dtype), before, parameters
