"""The wheels under test, and the emulated systems: real ones, or a reason to skip."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def mambaport() -> Run:
    """Runs a command with ``--json``: its object, with the exit code beside it."""
    program = Path(sys.executable).with_name("mambaport")

    def run(*arguments: str | Path) -> dict[str, Any]:
        done = subprocess.run([program, *arguments, "--json"], capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return {**answer, "exit": done.returncode}

    return run


@pytest.fixture(scope="session")
def emulator() -> None:
    """Skips where aarch64 programs cannot run."""
    for program in ("qemu-aarch64-static", "mmdebstrap"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}; sudo apt-get install qemu-user-static mmdebstrap")


@pytest.fixture(scope="session")
def wheelhouse(mambaport: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rpi-cpu's wheels, built for real."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    assert mambaport("build", "-p", "rpi", "-o", folder)["exit"] == 0
    return folder
