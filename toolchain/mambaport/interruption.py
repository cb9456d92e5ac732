"""ctrl-C, SIGTERM and SIGHUP: each interrupts the work in the same way, and the work is undone.

A signal that was ignored when mambaport started stays ignored: ``nohup`` ignores SIGHUP.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Wait:
    """Whether interruptions wait, and whether one is waiting."""

    depth = 0
    waiting = False


def start() -> None:
    """From now on, each of :data:`SIGNALS` raises KeyboardInterrupt."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    signal.signal(signal.SIGALRM, _interrupt)
    # A parent process may have ignored or blocked these; then the ends of child processes are not seen.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    sys.unraisablehook = _unraisable


def end() -> None:
    """From now on, :data:`SIGNALS` have no effect: only the message and the exit code are left to do."""
    for number in (*SIGNALS, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    # After a KeyboardInterrupt inside exec() of a string, as when a dataclass is made, `python -m` kills
    # itself by SIGINT, whatever the exit code. Another exec() resets that.
    exec("")  # noqa: S102


@contextmanager
def postponed() -> Iterator[None]:
    """Interruptions wait until the block ends. For the short work that undoes other work."""
    _Wait.depth += 1
    try:
        yield
    finally:
        _Wait.depth -= 1
        if not _Wait.depth and _Wait.waiting:
            _Wait.waiting = False
            raise KeyboardInterrupt


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    if _Wait.depth:
        _Wait.waiting = True
    else:
        raise KeyboardInterrupt


def _unraisable(fault: sys.UnraisableHookArgs) -> None:
    """Raises an interruption again that came where Python drops exceptions, such as in a finalizer."""
    if fault.exc_type is KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, 0.001)  # a handler that runs now would raise in this function
    else:
        sys.__unraisablehook__(fault)
