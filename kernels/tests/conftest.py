"""These tests run against the two kernel packages alone: torch, and libraries built in place, on PYTHONPATH."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The references in float64 are those of the wheels' tests.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "numeric"))

# For the loop of changing C and testing it; `--hypothesis-profile thorough` is what a release and CI run.
for name, examples in (("quick", 8), ("thorough", 60)):
    settings.register_profile(
        name, max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )
settings.load_profile("quick")


def pytest_report_header():
    import causal_conv1d_cpu
    import selective_scan_cpu

    packages = (causal_conv1d_cpu, selective_scan_cpu)
    return [f"{p.__name__}: {p.instruction_set()}, from {Path(p.__file__).parent}" for p in packages]


@pytest.fixture(autouse=True)
def seed():
    import torch

    torch.manual_seed(0)
