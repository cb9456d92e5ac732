"""Runs one program, and ends the program with all its descendants when mambaport ends. Run as a script.

Usage: ``python -I -S keeper.py FD PROGRAM...``. Standard input is a pipe from mambaport. The pipe's end means
that mambaport has ended, SIGKILL included, or wants all to end. Descendants are found even where they have
left the process group or the session: the keeper is their subreaper. ``FD`` takes the number of the error
where the program cannot be started, and is closed where the program has started.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ENDING_SECONDS = 10.0
"""How long the keeper waits for descendants that have received SIGKILL."""
_FOR_THE_PROGRAM = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def main() -> None:
    """Runs the program of the command line, and exits as the program does."""
    error, program = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in _FOR_THE_PROGRAM:
        signal.signal(number, signal.SIG_IGN)
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # a byte in ``wake``
    os.set_inheritable(error, False)
    environment = _environment()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _become(libc, parent, error, program, environment)
    os.close(error)
    state = _wait(child, wake)
    _end_descendants()
    if state is None:
        os._exit(128 + signal.SIGKILL)
    if os.WIFSIGNALED(state):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(os.WTERMSIG(state), signal.SIG_DFL)
        os.kill(parent, os.WTERMSIG(state))
    os._exit(os.WEXITSTATUS(state))


def _become(
    libc: ctypes.CDLL, parent: int, error: int, program: list[str], environment: dict[bytes, bytes]
) -> None:
    """Replaces the forked process by the program."""
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # where the keeper itself is killed
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        for number in (*_FOR_THE_PROGRAM, *_IGNORED_BY_PYTHON, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvpe(program[0], program, environment)  # noqa: S606 - there is no shell
    except OSError as fault:
        os.write(error, str(fault.errno).encode())
    finally:
        os._exit(127)


def _environment() -> dict[bytes, bytes]:
    """The variables that the keeper was started with. Python itself may have added LC_CTYPE to its own."""
    try:
        with open("/proc/self/environ", "rb") as stream:  # noqa: PTH123 - importing pathlib takes 10 ms
            rows = stream.read().split(b"\0")
    except OSError:
        return dict(os.environb)
    return dict(row.split(b"=", 1) for row in rows if b"=" in row)


def _wait(child: int, wake: int) -> int | None:
    """Waits for the program's end, and returns its wait status; None where mambaport ended first."""
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 512)
            if (state := _reap(child)) is not None:
                return state
        if 0 in ready and not os.read(0, 512):
            return None


def _reap(child: int = -1) -> int | None:
    """Takes the wait status of every ended process. Returns that of ``child`` where it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                found = ended[1]
    return found


def _end_descendants() -> None:
    """Kills every descendant, and those that they start meanwhile."""
    if not _sees_itself():
        os.killpg(0, signal.SIGTERM)  # the keeper ignores SIGTERM
        return
    deadline = time.monotonic() + ENDING_SECONDS
    while (found := _descendants()) and time.monotonic() < deadline:
        refused = 0
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            except PermissionError:  # a program with the rights of another user
                refused += 1
        if refused == len(found):
            return
        _reap()
        time.sleep(0.002)


def _sees_itself() -> bool:
    """Whether /proc has this namespace's numbers; another namespace's belong to other processes."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())  # noqa: PTH115
    except OSError:
        return False


def _descendants() -> list[int]:
    """The running processes whose chain of parents leads to this one."""
    children: dict[int, list[int]] = {}
    states: dict[int, str] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stream:  # noqa: PTH123
                state, parent = stream.read().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        children.setdefault(int(parent), []).append(int(name))
        states[int(name)] = state
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        more = children.get(waiting.pop(), [])
        found += more
        waiting += more
    return [pid for pid in found if states[pid] not in "ZX"]


if __name__ == "__main__":
    main()
