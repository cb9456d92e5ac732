"""These tests run on an NVIDIA GPU, against wheels with CUDA extensions (`make test-gpu`).

MAMBAPORT_TEST_DEVICE=cpu runs the same bodies on the CPU, which proves the tests themselves.
MAMBAPORT_TEST_TILES=few compiles one tile shape of each triton kernel. Mamba-2 has 200 of them, and triton
compiles each for each dtype before it chooses one: minutes.
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


def keep_one_tile_shape() -> None:
    """Makes triton's autotuners take their smallest configuration: a large one may not fit float32."""
    import math

    from triton.runtime.autotuner import Autotuner

    whole = Autotuner.__init__

    def first(self, fn, arg_names, configs, *rest, **named):
        by_size = sorted(configs, key=lambda config: config.num_stages * math.prod(config.kwargs.values()))
        whole(self, fn, arg_names, by_size[:1], *rest, **named)

    Autotuner.__init__ = first


if os.environ.get("MAMBAPORT_TEST_TILES") == "few" and find_spec("triton") is not None:
    keep_one_tile_shape()


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
