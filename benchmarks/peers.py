"""The same work by others: upstream's reference, the packages' pure PyTorch, and whoever is installed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch.nn import functional

SWITCHES = ("CAUSAL_CONV1D_FORCE_FALLBACK", "SELECTIVE_SCAN_FORCE_FALLBACK")


@contextmanager
def pure_pytorch():
    """Within it the patched packages leave their kernels alone."""
    os.environ.update(dict.fromkeys(SWITCHES, "TRUE"))
    try:
        yield
    finally:
        for switch in SWITCHES:
            del os.environ[switch]


@contextmanager
def reference_scan():
    """Within it the packages run as without kernels, and the scan is upstream's reference."""
    from mamba_ssm.ops import fallback
    from mamba_ssm.ops.selective_scan_interface import selective_scan_ref

    ours, fallback.selective_scan = fallback.selective_scan, selective_scan_ref
    try:
        with pure_pytorch():
            yield
    finally:
        fallback.selective_scan = ours


def forced(function: Callable[..., object], within=pure_pytorch) -> Callable[..., object]:
    def run(*args, **kwargs):
        with within():
            return function(*args, **kwargs)

    return run


def scans() -> dict[str, Callable[..., torch.Tensor]]:
    """Selective scans that take (u, delta, A, B, C, D, z, delta_bias, delta_softplus)."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn, selective_scan_ref

    found = {
        "kernel": selective_scan_fn,
        "pure PyTorch": forced(selective_scan_fn),
        "reference": selective_scan_ref,
    }
    if importlib.util.find_spec("mambapy"):
        found["mambapy"] = _mambapy
    found["transformers"] = _discretized
    return found


def _mambapy(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """mambapy's parallel scan with what its block does around it, laid out as (batch, seqlen, dim, state)."""
    from mambapy.pscan import pscan

    u, delta, z = u.mT, functional.softplus(delta.mT + delta_bias), z.mT
    decay = torch.exp(delta.unsqueeze(-1) * A)
    h = pscan(decay, (delta * u).unsqueeze(-1) * B.mT.unsqueeze(2))
    return ((h @ C.mT.unsqueeze(-1)).squeeze(-1) + D * u) * functional.silu(z)


def _discretized(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """The operations of transformers' slow path: all steps discretized at once, then a loop over time."""
    delta = functional.softplus(delta + delta_bias[:, None])
    decay = torch.exp(A[None, :, None, :] * delta[:, :, :, None])
    pushed = delta[:, :, :, None] * B.mT[:, None] * u[:, :, :, None].float()
    h = u.new_zeros(u.shape[0], u.shape[1], A.shape[1])
    steps = []
    for t in range(u.shape[2]):
        h = decay[:, :, t] * h + pushed[:, :, t]
        steps.append(torch.matmul(h, C.mT[:, t].unsqueeze(-1))[..., 0])
    return (torch.stack(steps, dim=-1) + u * D[None, :, None]) * functional.silu(z)
