"""Commands that are killed, and what they leave behind.

A victim is a fork of this process, which has imported mambaport already: hundreds of victims then cost what
their work costs. This process is the subreaper of everything that the victims start, so a program that
outlives its victim is a descendant of this process and is found.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mambaport.__main__ import _leave
from mambaport.cli import main
from mambaport.keeper import PR_SET_CHILD_SUBREAPER, _descendants

ENDED_WITHIN = 5.0
"""Seconds in which the programs of a killed victim must end."""
SOFT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def be_subreaper() -> None:
    """Orphans become children of this process."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def command(*words: str | Path) -> Callable[[], int]:
    """mambaport's command line, in a victim."""

    def action() -> int:
        sys.argv = ["mambaport", *map(str, words)]
        main()

    return action


@dataclass
class Victim:
    """A running fork, and its output."""

    pid: int
    output: Path
    started: float
    code: int | None = None
    """The exit code; negative for a signal."""

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def ended(self, seconds: float) -> bool:
        """Whether the victim ends within ``seconds``."""
        deadline = time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                return False
            else:
                time.sleep(0.002)
        return True

    def send(self, number: signal.Signals) -> None:
        if self.code is None:
            os.kill(self.pid, number)


def start(action: Callable[[], int | None], output: Path, variables: Mapping[str, str]) -> Victim:
    """Runs ``action`` in a fork, with exactly these environment variables."""
    begun = time.monotonic()
    signal.pthread_sigmask(signal.SIG_BLOCK, SOFT)  # until the victim has its handlers
    pid = os.fork()
    if pid == 0:
        _be_victim(action, output, variables)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SOFT)
    return Victim(pid, output, begun)


def _be_victim(action: Callable[[], int | None], output: Path, variables: Mapping[str, str]) -> None:
    code: object = 99
    try:
        os.setsid()
        for number in SOFT:
            signal.signal(number, _leave)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SOFT)
        sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for number in (1, 2):
            os.dup2(sink, number)
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.environ.clear()
        os.environ.update(variables)
        tempfile.tempdir = None
        code = action()
    except SystemExit as leave:
        code = leave.code
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


def still_running() -> list[str]:
    """The command lines of programs that outlived their victim; they are ended then."""
    deadline = time.monotonic() + ENDED_WITHIN
    while (found := _descendants()) and time.monotonic() < deadline:
        _reap()
        time.sleep(0.01)
    names = []
    for pid in found:
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
            names.append(line.decode(errors="replace"))
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    _reap()
    return names


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def digests(root: Path, *, modes: bool = True) -> dict[str, str]:
    """Every path below ``root``: a file's digest and mode, a link's target, a folder's mode."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if path.is_symlink():
                text = f"-> {path.readlink()}"
            elif path.is_dir():
                text = f"folder {mode if modes else 0:o}"
            else:
                text = f"{mode if modes else 0:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
            found[str(path.relative_to(root))] = text
    return found


def difference(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """The paths in which two trees differ; empty where they are equal."""
    rows = [f"+{name}" for name in found.keys() - expected.keys()]
    rows += [f"-{name}" for name in expected.keys() - found.keys()]
    rows += [f"~{name}" for name in found.keys() & expected.keys() if found[name] != expected[name]]
    return " ".join(sorted(rows)[:8])
