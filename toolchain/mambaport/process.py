"""Running other programs: logged, each in its own process group, and ended when mambaport ends."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from mambaport.redaction import redact

TAIL_LINES = 30
GRACE_SECONDS = 3.0


@dataclass(frozen=True)
class Finished:
    """How a program ended. ``tail`` holds the last lines it printed, stdout and stderr together."""

    argv: tuple[str, ...]
    returncode: int
    output: str

    @property
    def ok(self) -> bool:
        return self.returncode == 0

    @property
    def tail(self) -> str:
        return "\n".join(self.output.splitlines()[-TAIL_LINES:])


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    keep_lines: int | None = None,
    tied: bool = True,
) -> Finished:
    """Runs ``argv`` to its end and returns what it printed.

    ``env`` replaces the environment when given. With ``log``, the command and its output are appended to
    that file. On ctrl-C the whole process group gets SIGINT, then SIGTERM, then SIGKILL. A ``tied`` program
    is killed by the kernel when mambaport dies.

    Raises:
        FileNotFoundError: there is no such program.
        OSError: (when not ``tied``) this machine cannot run the program.
    """
    command = tuple(str(part) for part in argv)
    lines: deque[str] = deque(maxlen=keep_lines)
    with contextlib.ExitStack() as stack:
        sink: IO[str] | None = None
        if log is not None:
            sink = stack.enter_context(log.open("a", encoding="utf-8"))
            sink.write(redact(f"$ {shlex.join(command)}\n"))
            sink.flush()
        child = subprocess.Popen(
            _tie(command, env) if tied else command,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            assert child.stdout is not None
            for line in child.stdout:
                lines.append(line)
                if sink is not None:
                    sink.write(redact(line))
                    sink.flush()
                if on_line is not None:
                    on_line(line)
            child.wait()
        except BaseException:
            _stop_group(child)
            raise
    return Finished(command, child.returncode, "".join(lines))


def _tie(command: tuple[str, ...], env: Mapping[str, str] | None) -> tuple[str, ...]:
    """The command behind util-linux's setpriv, which asks the kernel for a SIGKILL when mambaport dies.

    A ``preexec_fn`` could do the same, but makes Python run its at-fork hooks, and a ctrl-C during such a
    hook is lost.
    """
    if shutil.which(command[0], path=(env or os.environ).get("PATH")) is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
    setpriv = _setpriv()
    return (setpriv, "--pdeathsig", "KILL", "--", *command) if setpriv else command


@cache
def _setpriv() -> str | None:
    return shutil.which("setpriv")


def _stop_group(
    child: subprocess.Popen[Any],
    signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL),
) -> None:
    for number in signals:
        _signal_group(child, number)
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            if child.poll() is not None:
                # The child's own children may ignore the signal: a shell starts background jobs that way.
                _signal_group(child, signal.SIGKILL)
                return
            time.sleep(0.05)


def _signal_group(child: subprocess.Popen[Any], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


@contextlib.contextmanager
def background(
    argv: Sequence[str | Path], *, env: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs ``argv`` while the block runs, with its output in ``log``; ends it with the block.

    Raises:
        FileNotFoundError: there is no such program.
    """
    command = tuple(str(part) for part in argv)
    with log.open("ab") as sink:
        child = subprocess.Popen(
            _tie(command, env),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        _stop_group(child, (signal.SIGTERM, signal.SIGKILL))
