"""A graph of one operator of ours, run by ONNX Runtime without torch on the emulated CPU."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mambaport.cli.options import open_session
from mambaport.verifying import prepare_emulation
from mambaport.verifying.emulation import unpack_wheels

pytestmark = [pytest.mark.emulated, pytest.mark.network, pytest.mark.usefixtures("emulator")]
RUNTIME = "onnxruntime==1.24.4"  # importing 1.32.0 ends in a segmentation fault on this emulated CPU
NAMES = ["u", "delta", "A", "B", "C", "", "z"]

# Compares with the recurrence, step by step in float64.
CODE = """
import sys
import mambaport_onnx
import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
mambaport_onnx.register(options)
session = onnxruntime.InferenceSession(sys.argv[1], options)
rng = np.random.default_rng(0)
for batch, dim, seqlen, dstate in ((1, 20, 1, 16), (2, 7, 50, 5), (1, 64, 2000, 4)):
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    u, delta, z = draw(batch, dim, seqlen), draw(batch, dim, seqlen), draw(batch, dim, seqlen)
    A, B, C = -np.exp(draw(dim, dstate)), draw(batch, dstate, seqlen), draw(batch, dstate, seqlen)
    out, last = session.run(None, {"u": u, "delta": delta, "A": A, "B": B, "C": C, "z": z})
    step = np.logaddexp(0.0, delta.astype(np.float64))
    state = np.zeros((batch, dim, dstate))
    for t in range(min(seqlen, 100)):  # numpy is slow here
        state = np.exp(step[:, :, t, None] * A) * state + (step * u)[:, :, t, None] * B[:, None, :, t]
        gate = z[:, :, t] / (1 + np.exp(-z[:, :, t].astype(np.float64)))
        want = (state * C[:, None, :, t]).sum(-1) * gate
        assert np.abs(out[:, :, t] - want).max() < 1e-5 * max(1.0, np.abs(want).max()), t
    assert seqlen > 100 or np.abs(last - state).max() < 1e-5
try:
    session.run(None, {"u": u, "delta": delta, "A": A, "B": B, "C": C[:, :, :-1], "z": z})
except Exception as error:
    assert "SelectiveScan: C has shape (1, 4, 1999), expected (batch=1, dstate=4, seqlen=2000)" in str(error)
print("right with onnxruntime", onnxruntime.__version__)
"""


def field(number: int, value: int | str | bytes) -> bytes:
    """A field of a protocol buffer: an integer, or a text or message with its length before it."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def model() -> bytes:
    """An ONNX file of one node; this environment has no package onnx."""
    any_floats = field(2, field(1, field(1, 1)))
    softplus = field(1, "delta_softplus") + field(3, 1) + field(20, 2)
    node = b"".join(field(1, name) for name in NAMES) + field(2, "out") + field(2, "last")
    node += field(4, "SelectiveScan") + field(5, softplus) + field(7, "ai.mambaport")
    graph = field(1, node) + field(2, "one node")
    graph += b"".join(field(11, field(1, name) + any_floats) for name in NAMES if name)
    graph += b"".join(field(12, field(1, name) + any_floats) for name in ("out", "last"))
    imports = field(8, field(1, "") + field(2, 18)) + field(8, field(1, "ai.mambaport") + field(2, 1))
    return field(1, 9) + field(7, graph) + imports


def test_a_model_runs_without_torch(wheelhouse: Path, tmp_path: Path) -> None:
    root = prepare_emulation("bookworm", "cortex-a72", open_session(as_json=True, quiet=True).shop)
    words = ["--no-deps", "--only-binary=:all:", "--python-version=3.11", "--dest", str(tmp_path)]
    words += ["--platform=manylinux_2_28_aarch64", "--platform=manylinux_2_27_aarch64", RUNTIME]
    done = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *words], check=False)
    assert done.returncode == 0
    site = unpack_wheels(
        [*tmp_path.glob("onnxruntime-*.whl"), *wheelhouse.glob("mamba_ssm-*.whl")], tmp_path / "site"
    )
    shutil.copytree(root.site / "numpy", site / "numpy")
    shutil.copytree(root.site / "numpy.libs", site / "numpy.libs")
    (tmp_path / "model.onnx").write_bytes(model())
    (tmp_path / "run.py").write_text(CODE)
    ran = root.run([str(tmp_path / "run.py"), str(tmp_path / "model.onnx")], env={"PYTHONPATH": str(site)})
    assert ran.ok, ran.tail
    assert "right with onnxruntime 1.24.4" in ran.tail
