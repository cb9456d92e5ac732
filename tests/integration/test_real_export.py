"""export as a user runs it, in environments with and without what it needs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from real import environment_with_torch, mambaport, with_wheels

pytestmark = pytest.mark.network
DRAW = """
import sys
from PIL import Image
Image.radial_gradient("L").resize((90, 60)).convert("RGB").save(sys.argv[1])
"""


def test_a_model_becomes_a_file(cpu: Any, tmp_path: Path) -> None:
    python = with_wheels(tmp_path / "whole", cpu)
    small = ("--size", "64", "--depth", "1", "--threads", "1", "--python", python)
    answer = mambaport(tmp_path / "store", "export", "-o", tmp_path / "vim.onnx", *small).good()
    assert answer["path"] == str(tmp_path / "vim.onnx")
    assert answer["bytes"] == (tmp_path / "vim.onnx").stat().st_size
    assert answer["largest_difference"] < 1e-5
    assert answer["form"] == "standard"
    assert not list(tmp_path.glob(".mambaport-*"))

    (tmp_path / "bare").mkdir()
    without = environment_with_torch(tmp_path / "bare", without=("torch", "onnx-", "onnxscript"))
    subprocess.run([python, "-I", "-c", DRAW, tmp_path / "photo.png"], check=True)
    words = ("infer", "--image", tmp_path / "photo.png")
    file = ("--runtime", "onnx", "--checkpoint", tmp_path / "vim.onnx", "--python", without)
    in_torch = mambaport(tmp_path / "store", *words, *small).good()
    in_onnx = mambaport(tmp_path / "store", *words, *file).good()
    assert in_onnx["environment"]["torch"] is None
    assert in_onnx["environment"]["onnxruntime"]
    (one,), (other,) = in_torch["images"], in_onnx["images"]
    assert [item["label"] for item in one["classes"]] == [item["label"] for item in other["classes"]]
    for a, b in zip(one["classes"], other["classes"], strict=True):
        assert a["probability"] == pytest.approx(b["probability"], rel=1e-4)
    measured = mambaport(tmp_path / "store", "bench", *file, "--seconds", "0.1", "--threads", "1").good()
    assert measured["environment"]["torch"] is None
    assert (measured["model"], measured["size"], measured["depth"]) == ("vim-tiny", 64, 1)
    assert [item["measure"] for item in measured["measures"]] == ["image"]
    again = mambaport(tmp_path / "store", "bench", *small, "--seconds", "0.1").good()
    assert again["parameters"] == measured["parameters"]
    assert again["measures"][0]["flops"] == measured["measures"][0]["flops"]


def test_onnxruntime_is_named_where_it_is_missing(cpu: Any, tmp_path: Path) -> None:
    python = with_wheels(tmp_path / "bare", cpu, without=("onnxruntime",))
    ran = mambaport(tmp_path / "store", "export", "-o", tmp_path / "vim.onnx", "--python", python)
    assert ran.code == 12
    assert "There is no onnxruntime in this environment" in ran.err
    assert "pip install 'onnxruntime>=" in ran.err
    assert not list(tmp_path.glob("*.onnx"))
    assert not list(tmp_path.glob(".mambaport-*"))
