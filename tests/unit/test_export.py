"""Where `mambaport export` puts its file, and that a run that ends early leaves none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mambaport.cli import cli
from mambaport.cli.export import move_into_place
from mambaport.errors import HostError, UsageError


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    words = ["export", "-o", str(tmp_path / "none" / "vim.onnx")]
    result = CliRunner().invoke(cli, words)
    assert isinstance(result.exception, UsageError)
    assert "cannot be written to" in str(result.exception)


def test_a_run_that_ends_early_leaves_nothing(tmp_path: Path) -> None:
    """The interpreter of these tests has no torch."""
    words = ["export", "-o", str(tmp_path / "vim.onnx"), "--python", sys.executable]
    result = CliRunner().invoke(cli, words)
    assert isinstance(result.exception, HostError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("external", [False, True])
def test_a_file_takes_the_place_of_an_older_one_with_its_weights(tmp_path: Path, external: bool) -> None:
    path, scratch = tmp_path / "vim.onnx", tmp_path / "scratch"
    path.write_bytes(b"old")
    path.with_name("vim.onnx.data").write_bytes(b"old weights")
    scratch.mkdir()
    (scratch / "vim.onnx").write_bytes(b"new")
    if external:
        (scratch / "vim.onnx.data").write_bytes(b"new weights")
    move_into_place(scratch, path)
    assert path.read_bytes() == b"new"
    weights = path.with_name("vim.onnx.data")
    assert weights.exists() == external
    assert not external or weights.read_bytes() == b"new weights"
