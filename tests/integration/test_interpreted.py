"""Mamba-2's patched triton kernels without a GPU: triton interprets them, and float64 says what is right."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from real import mambaport

pytestmark = pytest.mark.network
SCRIPT = Path(__file__).parent / "interpreted_ssd.py"
# Interprets one kernel; numpy releases that are newer than triton's interpreter fail here.
PROBE = """
import torch, triton, triton.language as tl
@triton.jit
def kernel(x, n: tl.constexpr):
    for i in range(tl.load(x).to(tl.int32), n):
        tl.atomic_add(x, 1)
x = torch.zeros(1)
kernel[(1,)](x, 3)
assert x.item() == 3
"""


@pytest.fixture(scope="module")
def python() -> str:
    named = os.environ.get("MAMBAPORT_TEST_TORCH", "")
    if not Path(named).is_file():
        pytest.skip("MAMBAPORT_TEST_TORCH names no interpreter with torch")
    if subprocess.run([named, "-c", "import triton"], capture_output=True, check=False).returncode:
        pytest.skip(f"no triton in {named}'s environment: pip install triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([named, "-c", PROBE], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"triton's interpreter does not run here: {done.stderr.strip().splitlines()[-1]}")
    return named


@pytest.fixture(scope="module")
def trees(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trees") / "patched"
    mambaport(shared, "patch", "--profile", "jetson", "-o", folder).good()
    return folder


# Tiles as wide as a head and narrower; dt in softplus's curve, and where it is straight and decay strong.
@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize(("scale", "bound"), [(1.0, 1e-5), (60.0, 1e-3)])
def test_ssd_forward_and_backward(python: str, trees: Path, width: int, scale: float, bound: float) -> None:
    done = subprocess.run(
        [python, SCRIPT, str(width), str(scale)],
        env={
            **os.environ,
            "TRITON_INTERPRET": "1",
            "PYTHONPATH": f"{trees / 'mamba-ssm'}:{trees / 'causal-conv1d'}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "overflow" not in done.stderr
    errors = json.loads(done.stdout)
    assert len(errors) == 8
    assert max(errors.values()) < bound, errors
