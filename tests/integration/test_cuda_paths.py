"""mamba_ssm's functions for CUDA tensors, as the jetson profile patches them, without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from real import environment_with_torch

pytestmark = pytest.mark.network
SCRIPT = Path(__file__).parent / "cuda_paths.py"


def test_last_states_and_gradients_are_right(jetson_trees: Path, tmp_path: Path) -> None:
    python = environment_with_torch(tmp_path)
    done = subprocess.run(
        [python, SCRIPT],
        env={
            **os.environ,
            "PYTHONPATH": f"{jetson_trees}/mamba-ssm:{jetson_trees}/causal-conv1d",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    assert len(errors) == 16
    assert max(errors.values()) < 2e-5, errors
