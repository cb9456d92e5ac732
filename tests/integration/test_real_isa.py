"""The instruction words that the audit is tested with are what an assembler makes of their source."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "unit" / "data"


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-as") is None, reason="no aarch64-linux-gnu-as here")
@pytest.mark.parametrize("name", ["above-armv8.0", "armv8.0"])
def test_the_words_are_what_the_assembler_makes(tmp_path: Path, name: str) -> None:
    subprocess.run(["aarch64-linux-gnu-as", DATA / f"{name}.s", "-o", tmp_path / "o"], check=True)
    copy = ["aarch64-linux-gnu-objcopy", "-O", "binary", "-j", ".text", tmp_path / "o", tmp_path / "text"]
    subprocess.run(copy, check=True)
    code = (tmp_path / "text").read_bytes()
    words = [f"{int.from_bytes(code[at : at + 4], 'little'):08x}" for at in range(0, len(code), 4)]
    assert words == [line[:8] for line in (DATA / f"{name}.words").read_text().splitlines()]
