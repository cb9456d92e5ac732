"""mamba_ssm's functions for CUDA tensors, as the jetson profile patches them, without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from real import mambaport

pytestmark = pytest.mark.network
SCRIPT = Path(__file__).parent / "cuda_paths.py"


def test_last_states_and_gradients_are_right(shared: Path, tmp_path: Path) -> None:
    python = os.environ.get("MAMBAPORT_TEST_TORCH", "")
    if not Path(python).is_file():
        pytest.skip("MAMBAPORT_TEST_TORCH names no interpreter with torch")
    mambaport(shared, "patch", "--profile", "jetson", "-o", tmp_path / "trees").good()
    done = subprocess.run(
        [python, SCRIPT],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}/trees/mamba-ssm:{tmp_path}/trees/causal-conv1d"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    assert len(errors) == 16
    assert max(errors.values()) < 2e-5, errors
