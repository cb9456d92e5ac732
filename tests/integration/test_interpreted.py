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
# The newest triton whose interpreter was seen to run on a CPU's torch, and the numpy that it needs.
INTERPRETER = ("triton==3.5.0", "numpy<2.2")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with triton, and with torch from the environment that MAMBAPORT_TEST_TORCH names."""
    named = os.environ.get("MAMBAPORT_TEST_TORCH", "")
    if not Path(named).is_file():
        pytest.skip("MAMBAPORT_TEST_TORCH names no interpreter with torch")
    folder = tmp_path_factory.mktemp("triton")
    python = folder / "bin" / "python"
    subprocess.run([named, "-m", "venv", "--without-pip", folder], check=True)
    pip = [named, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, *INTERPRETER], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no triton for this machine: {done.stderr.strip().splitlines()[-1]}")
    paths = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own, torch = (subprocess.check_output([p, "-c", paths], text=True).strip() for p in (python, named))
    (Path(own) / "torch.pth").write_text(f"{torch}\n")
    return str(python)


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
