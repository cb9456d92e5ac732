"""Patched triton kernels without a GPU: triton interprets them, and float64 says what is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from real import environment_with_torch

pytestmark = pytest.mark.network
# The newest triton whose interpreter was seen to run on a CPU's torch, and the numpy that it needs.
INTERPRETER = ("triton==3.5.0", "numpy<2.2")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with triton, and with torch from the environment that MAMBAPORT_TEST_TORCH names."""
    python = environment_with_torch(tmp_path_factory.mktemp("triton"), without=("triton", "numpy"))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    done = subprocess.run([*pip, *INTERPRETER], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no triton for this machine: {done.stderr.strip().splitlines()[-1]}")
    return str(python)


@pytest.fixture
def interpret(python: str, jetson_trees: Path) -> Callable[..., dict[str, float]]:
    """Runs a script of this folder with the patched trees; its errors by name."""

    def run(script: str, *words: str) -> dict[str, float]:
        done = subprocess.run(
            [python, Path(__file__).parent / script, *words],
            env={
                **os.environ,
                "TRITON_INTERPRET": "1",
                "PYTHONPATH": f"{jetson_trees}/mamba-ssm:{jetson_trees}/causal-conv1d",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "overflow" not in done.stderr
        errors: dict[str, float] = json.loads(done.stdout)
        return errors

    return run


# Tiles as wide as a head and narrower; dt in softplus's curve, and where it is straight and decay strong.
@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize(("scale", "bound"), [(1.0, 1e-5), (60.0, 1e-3)])
def test_ssd_forward_and_backward(
    interpret: Callable[..., dict[str, float]], width: int, scale: float, bound: float
) -> None:
    errors = interpret("interpreted_ssd.py", str(width), str(scale))
    assert len(errors) == 8
    assert max(errors.values()) < bound, errors


def test_the_state_update_of_chosen_states(interpret: Callable[..., dict[str, float]]) -> None:
    errors = interpret("interpreted_state_update.py")
    assert len(errors) == 8
    assert max(errors.values()) < 1e-5, errors
