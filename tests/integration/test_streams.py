"""The streams of a real process: full, closed, or left early by the reader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def mambaport(
    *words: str, env: dict[str, str] | None = None, **options: object
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mambaport", *words]
    environ = {**os.environ, **(env or {})}
    return subprocess.run(command, text=True, env=environ, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_a_reader_that_leaves_early_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "mambaport", "show", "rpi"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as ran:
        assert ran.stdout is not None
        ran.stdout.close()
        assert ran.stderr is not None
        assert ran.stderr.read() == b""
    assert ran.returncode == 141


@pytest.mark.skipif("COVERAGE_RUN" in os.environ, reason="coverage ends a process in its own way")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("words", "out", "err", "code"),
    [
        (("show", "rpi"), "/dev/full", "/dev/null", 12),
        (("show", "rpi", "--json"), "/dev/full", "/dev/null", 12),
        (("show", "rpi"), "/dev/null", "/dev/full", 0),
        (("show", "nothing"), "/dev/null", "/dev/full", 2),
        (("show", "nothing", "--json"), "/dev/full", "/dev/full", 2),
        (("no-such-command",), "/dev/null", "/dev/full", 2),
        (("show", "nothing", "--debug"), "/dev/null", "/dev/full", 2),
    ],
)
def test_a_full_device_gives_a_code(words: tuple[str, ...], out: str, err: str, code: int) -> None:
    with Path(out).open("w") as stdout, Path(err).open("w") as stderr:
        assert mambaport(*words, stdout=stdout, stderr=stderr).returncode == code


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("name", "code"), [("rpi", 0), ("nothing", 2)])
def test_closed_streams_change_no_exit_code(closed: str, name: str, code: int) -> None:
    line = f'"$0" -m mambaport show {name} {closed}'
    ran = subprocess.run(["sh", "-c", line, sys.executable], capture_output=True, text=True, check=False)
    assert ran.returncode == code, ran.stderr
    assert "Traceback" not in ran.stderr
