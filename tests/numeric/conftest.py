"""These tests run against the causal_conv1d and mamba_ssm of the environment; without them, none do."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

# What mambaport's commands run in this environment; its files import each other by their bare names.
RUNNER = Path(__file__).parents[2] / "toolchain" / "mambaport" / "running" / "runner"
sys.path.insert(0, str(RUNNER))

SWITCHES = ("CAUSAL_CONV1D_FORCE_FALLBACK", "SELECTIVE_SCAN_FORCE_FALLBACK")
MISSING = [name for name in ("torch", "causal_conv1d", "mamba_ssm") if importlib.util.find_spec(name) is None]
if MISSING:
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header():
    if MISSING:
        return f"numeric: not run, {' and '.join(MISSING)} not installed here"
    kernels = [n for n in ("causal_conv1d_cpu", "selective_scan_cpu") if importlib.util.find_spec(n)]
    return f"numeric: compiled kernels {', '.join(kernels) or 'none'}"


@pytest.fixture(params=["kernel", "pytorch"])
def path(request, monkeypatch):
    """Run a test with the compiled kernels where they are there, and again with plain PyTorch forced."""
    for switch in SWITCHES:
        monkeypatch.setenv(switch, "TRUE" if request.param == "pytorch" else "FALSE")
    if request.param == "kernel":
        pytest.importorskip("causal_conv1d_cpu")
        pytest.importorskip("selective_scan_cpu")
    return request.param


@pytest.fixture(autouse=True)
def seed():
    import torch

    torch.manual_seed(0)
