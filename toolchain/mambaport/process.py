"""Running other programs: logged, each in its own session, and ended when mambaport ends.

A program's keeper (``keeper.py``) is the process between mambaport and the program. The keeper ends all
descendants of the program, also where mambaport is killed.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mambaport.activity import activity
from mambaport.redaction import redact

TAIL_LINES = 30
GRACE_SECONDS = 3.0
"""How long a program may take to end after each signal."""
KEEPER_SECONDS = 15.0
CHECKS = 20
"""How many measurements in a row without activity make a standstill."""
IDLE_SHARE = 0.002
"""Of the time: the processor time of programs that wait is less."""
_KEEPER = Path(__file__).with_name("keeper.py")


@dataclass(frozen=True)
class Finished:
    """How a program ended. ``tail`` holds the last lines it printed, stdout and stderr together."""

    argv: tuple[str, ...]
    returncode: int
    output: str
    stalled: bool = False
    """Whether the program was ended because it stood still."""

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
    stalled_after: float | None = None,
) -> Finished:
    """Runs ``argv`` to its end and returns what it printed.

    ``env`` replaces the environment when given. With ``log``, the command and its output are appended to
    that file. On ctrl-C the program's process group gets SIGINT, then SIGTERM; then, and also when mambaport
    itself is killed, the program and all its descendants are killed. Descendants that the program leaves
    behind are killed too.

    Args:
        stalled_after: in seconds; the program is ended where for so long no program under this process has
            used the processor, or waited for the processor or a disk.

    Raises:
        FileNotFoundError: there is no such program.
        OSError: this machine cannot run the program.
    """
    command = tuple(str(part) for part in argv)
    lines: deque[str] = deque(maxlen=keep_lines)
    watch = _Watch()
    with contextlib.ExitStack() as stack:
        sink: IO[str] | None = None
        if log is not None:
            sink = stack.enter_context(log.open("a", encoding="utf-8", errors="backslashreplace"))
            sink.write(redact(f"$ {shlex.join(command)}\n"))
            sink.flush()
        keeper = stack.enter_context(_kept(command, env, cwd, subprocess.PIPE))
        assert keeper.stdout is not None
        output = io.TextIOWrapper(keeper.stdout, encoding="utf-8", errors="replace")
        stack.callback(output.detach)  # the keeper closes the pipe, when the program has ended
        if stalled_after is not None:
            stack.enter_context(watch.over(keeper, stalled_after))
        for line in output:
            watch.reading = False
            lines.append(line)
            if sink is not None:
                sink.write(redact(line))
                sink.flush()
            if on_line is not None:
                on_line(line)
            watch.reading = True
        keeper.wait()
    return Finished(command, keeper.returncode, "".join(lines), watch.stalled)


class _Watch:
    """Ends a program that stands still."""

    def __init__(self) -> None:
        self.stalled = False
        self.reading = True
        """False while mambaport prints a line: a terminal that ctrl-S has stopped stops the program too."""

    @contextlib.contextmanager
    def over(self, keeper: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
        """Watches while the block runs."""
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(keeper, seconds, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _watch(self, keeper: subprocess.Popen[bytes], seconds: float, ended: threading.Event) -> None:
        idle, before = 0, activity()
        # Measurements are counted, not seconds: this process may itself have been stopped for hours.
        while idle < CHECKS:
            if ended.wait(seconds / CHECKS):
                return
            now = activity()
            if now is None or before is None:
                return
            if now.busy or not self.reading or abs(now.seconds - before.seconds) > IDLE_SHARE * seconds:
                idle, before = 0, now
            else:
                idle += 1
        self.stalled = True
        assert keeper.stdin is not None
        keeper.stdin.close()  # then the keeper kills the program and its descendants
        _signal_group(keeper, signal.SIGCONT)  # a keeper that was stopped cannot


@contextlib.contextmanager
def _kept(
    command: Sequence[str], env: Mapping[str, str] | None, cwd: Path | None, stdout: int | IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs ``command`` under a keeper. When the block ends, the program and its descendants are ended.

    Raises:
        OSError: the program cannot be started.
    """
    error, other_end = os.pipe()
    try:
        try:
            keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_KEEPER), str(other_end), *command],
                env=dict(env) if env is not None else None,
                cwd=cwd,
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=subprocess.STDOUT,
                pass_fds=[other_end],
                start_new_session=True,
            )
        finally:
            os.close(other_end)
        try:
            number = os.read(error, 16)
            if number:
                raise OSError(int(number), os.strerror(int(number)), command[0])
            yield keeper
        finally:
            _end(keeper)
    finally:
        os.close(error)


def _end(keeper: subprocess.Popen[bytes]) -> None:
    """Ends a program: by SIGINT, by SIGTERM, and at last by the keeper, who kills all descendants."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if keeper.poll() is None:
                _signal_group(keeper, number)
                _wait(keeper, GRACE_SECONDS)
    finally:
        for stream in (keeper.stdin, keeper.stdout):
            if stream is not None:
                stream.close()
        if not _wait(keeper, KEEPER_SECONDS):
            _signal_group(keeper, signal.SIGKILL)
            keeper.wait()


def _wait(keeper: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the keeper ended within ``seconds``."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        keeper.wait(seconds)
    return keeper.poll() is not None


def _signal_group(keeper: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(keeper.pid, number)


@contextlib.contextmanager
def background(
    argv: Sequence[str | Path], *, env: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs ``argv`` while the block runs, with its output in ``log``; ends it with the block.

    Raises:
        FileNotFoundError: there is no such program.
    """
    command = tuple(str(part) for part in argv)
    with log.open("ab") as sink, _kept(command, env, None, sink) as keeper:
        yield keeper
