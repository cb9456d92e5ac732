"""ctrl-C, SIGTERM and SIGHUP: at every moment the message and exit code 130, and no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mambaport import __main__ as entry
from mambaport.errors import Interrupted

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
SEND = "import os, signal\nos.kill(os.getpid(), signal.{name})\n"


def script(text: str, *, before: str = "") -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", "from mambaport import interruption\nimport os, signal, time\n" + text]
    return subprocess.run(
        ["sh", "-c", f'{before} exec "$@"', "sh", *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_modules_are_imported(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "click.py").write_text(SEND.format(name=number.name) + "raise SystemExit(1)\n")
    ran = subprocess.run(
        [sys.executable, "-m", "mambaport", "profiles", "--json"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 130
    assert "Traceback" not in ran.stderr
    assert "Interrupted" in ran.stderr
    assert json.loads(ran.stdout)["error"]["exit_code"] == 130


def test_the_early_message_is_that_of_every_interruption() -> None:
    from mambaport.cli import _RUN_AGAIN

    error = Interrupted("Interrupted", hint=_RUN_AGAIN)
    assert json.loads(entry.JSON)["error"] == error.to_json()
    assert error.exit_code == entry.EXIT_CODE
    assert _RUN_AGAIN in entry.TEXT.decode()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_each_signal_raises_and_postponed_ones_wait(number: signal.Signals) -> None:
    ran = script(
        f"""
interruption.start()
try:
    with interruption.postponed():
        os.kill(os.getpid(), {int(number)})
        print("whole")
    print("not reached")
except KeyboardInterrupt:
    print("interrupted")
interruption.end()
os.kill(os.getpid(), {int(number)})
print("deaf")
"""
    )
    assert ran.stdout.split() == ["whole", "interrupted", "deaf"], ran.stderr


def test_a_signal_that_was_ignored_at_the_start_stays_ignored() -> None:
    ran = script(
        "interruption.start()\nos.kill(os.getpid(), signal.SIGHUP)\nprint('goes on')", before="trap '' HUP;"
    )
    assert ran.stdout == "goes on\n", ran.stderr


def test_the_exit_code_after_an_interruption_inside_exec(tmp_path: Path) -> None:
    """``python -m`` would kill itself by SIGINT."""
    (tmp_path / "interrupted.py").write_text(
        "import sys\nfrom mambaport import interruption\n"
        "try:\n    exec('raise KeyboardInterrupt')\n"
        "except KeyboardInterrupt:\n    interruption.end()\n    sys.exit(130)\n"
    )
    words = [sys.executable, "-m", "interrupted"]
    assert subprocess.run(words, cwd=tmp_path, check=False).returncode == 130


def test_an_interruption_that_python_drops_in_a_finalizer_comes_again() -> None:
    ran = script(
        """
class Thing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000): pass
interruption.start()
thing = Thing()
try:
    del thing
    time.sleep(1)
    print("lost")
except KeyboardInterrupt:
    print("interrupted")
"""
    )
    assert (ran.stdout, ran.stderr) == ("interrupted\n", "")
