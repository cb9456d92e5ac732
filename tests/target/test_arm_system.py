"""The kernel's entries for aarch64 programs: each run has its own, and removes it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from arm_system import BINFMT, ENTRY, MAGIC, MASK, _group, aarch64_programs

pytestmark = [pytest.mark.emulated, pytest.mark.usefixtures("emulator")]
OTHER = """
import sys
from arm_system import aarch64_programs
with aarch64_programs(sys.argv[1]):
    print("registered", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def qemu() -> str:
    found = shutil.which("qemu-aarch64-static")
    assert found is not None
    try:
        with aarch64_programs(found):
            pass
    except (OSError, subprocess.CalledProcessError) as fault:
        pytest.skip(f"the kernel does not let us run aarch64 programs: {fault}")
    return found


def entries() -> set[str]:
    return {path.name for path in BINFMT.glob(f"{ENTRY}*")}


def test_two_runs_at_once_do_not_share_an_entry(qemu: str) -> None:
    before = entries()
    words = [sys.executable, "-c", OTHER, qemu]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "registered\n"
        with aarch64_programs(qemu):
            assert len(entries() - before) == 2
            other.stdin.close()
            assert other.wait() == 0
            assert entries() - before == {f"{_group()}-{os.getpid()}"}  # this run's stays
    assert entries() == before


def test_the_entry_of_a_killed_run_is_removed_by_the_next(qemu: str) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = f"{_group()}-{ended.pid}"
    with aarch64_programs(qemu):
        (BINFMT / "register").write_text(f":{left}:M::{MAGIC}:{MASK}:{qemu}:F")
        assert left in entries()
        with_left = entries()
    with aarch64_programs(qemu):
        assert left not in entries()
    assert entries() <= with_left - {left}
