"""These tests run on an NVIDIA GPU, against wheels with CUDA extensions (`make test-gpu`).

MAMBAPORT_TEST_DEVICE=cpu runs the same bodies on the CPU, which proves the tests themselves.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "numeric"))  # the references are shared
MISSING = [name for name in ("torch", "causal_conv1d", "mamba_ssm") if find_spec(name) is None]
if MISSING:
    collect_ignore_glob = ["test_*.py"]
ASKED = os.environ.get("MAMBAPORT_TEST_DEVICE", "cuda")


@pytest.fixture(scope="session")
def device() -> str:
    """Where the packages compute."""
    import torch

    if ASKED == "cuda" and not torch.cuda.is_available():
        why = "no NVIDIA GPU here" if torch.version.cuda else "this torch is built without CUDA"
        pytest.skip(f"{why}; MAMBAPORT_TEST_DEVICE=cpu runs these on the CPU")
    return ASKED


@pytest.fixture(autouse=True)
def seed(device: str) -> None:
    import torch

    torch.manual_seed(0)
