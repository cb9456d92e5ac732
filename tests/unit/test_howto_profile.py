"""docs/how-to/add-a-profile.md works line by line, with boards that are not in the tree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mambaport.profile import builtin_profiles, read_profile

PAGE = Path(__file__).parents[2] / "docs/how-to/add-a-profile.md"
BLOCKS = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.M | re.S)


def run(script: str, folder: Path, code: int = 0) -> str:
    """Runs shell lines with this Python's mambaport; the output of all of them.

    Args:
        code: the exit code to expect.
    """
    tool = folder / "bin/mambaport"
    if not tool.exists():
        tool.parent.mkdir()
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mambaport "$@"\n')
        tool.chmod(0o755)
    finished = subprocess.run(
        ["sh", "-e", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert finished.returncode == code, finished.stdout
    return finished.stdout


def without_builds(script: str) -> str:
    return "".join(line for line in script.splitlines(keepends=True) if "mambaport build" not in line)


def test_the_page_has_its_two_boards() -> None:
    assert len(BLOCKS) == 2
    known = {name for profile in builtin_profiles() for name in (profile.name, *profile.aliases)}
    assert not {"orange-pi-5", "dgx-spark"} & known


def test_a_board_without_a_gpu(tmp_path: Path) -> None:
    said = run(without_builds(BLOCKS[0]), tmp_path)
    assert "target     aarch64, cortex-a55, glibc 2.35" in said
    assert "causal-conv1d 1.6.0+orange.pi.5." in said
    assert read_profile(tmp_path / "orange-pi-5.toml").emulate == ("bookworm", "trixie")


def test_a_board_with_a_gpu(tmp_path: Path) -> None:
    assert "target     aarch64, cortex-a725, glibc 2.39" in run(BLOCKS[1], tmp_path)
    cuda = read_profile(tmp_path / "dgx-spark.toml").cuda
    assert cuda is not None
    assert (cuda.version, cuda.sm, cuda.torch) == ("13.0", ("121",), "2.11")


def test_the_error_that_the_page_shows(tmp_path: Path) -> None:
    said = run(without_builds(BLOCKS[0]).replace("cortex-a55", "cortex-a56"), tmp_path, code=2)
    shown = re.search(r"```text\nerror.*?\n  found +(.*?)\n", PAGE.read_text(), re.S)
    assert shown is not None
    assert shown[1] in said


@pytest.mark.parametrize("block", BLOCKS)
def test_no_line_of_the_page_needs_a_checkout(block: str) -> None:
    assert "profiles/" not in block
