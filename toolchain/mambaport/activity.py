"""Whether the programs under this process do anything, as /proc tells."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """A process or a thread: the fields of /proc/PID/stat (proc(5)) that tell of activity."""

    parent: int
    state: str
    """``R``: runs, or is ready to; ``D``: waits for a disk; ``S``: waits for anything else."""
    seconds: float
    """Processor time."""
    seconds_of_ended: float
    """Processor time of children that have ended."""


@dataclass(frozen=True)
class Activity:
    """What all descendants of this process do."""

    seconds: float
    """The processor time that they have used so far, the ended ones included."""
    busy: bool
    """Whether one of their threads runs, is ready to run, or waits for a disk."""


def activity() -> Activity | None:
    """A measurement; None where /proc cannot be read, or has the numbers of another namespace."""
    own, found = os.getpid(), processes()
    if own not in found:
        return None
    seconds, busy = found[own].seconds_of_ended, False
    for pid in descendants(own, found):
        seconds += found[pid].seconds + found[pid].seconds_of_ended
        busy = busy or any(thread.state in "RD" for thread in _read(_PROC / str(pid) / "task").values())
    return Activity(seconds, busy)


def processes() -> dict[int, Process]:
    """All processes by number; none where /proc cannot be read, or has the numbers of another namespace."""
    try:
        seen = (_PROC / "self").readlink()
    except OSError:
        return {}
    return _read(_PROC) if str(seen) == str(os.getpid()) else {}


def descendants(pid: int, found: Mapping[int, Process]) -> list[int]:
    """The processes whose chain of parents leads to `pid`."""
    children: dict[int, list[int]] = {}
    for number, process in found.items():
        children.setdefault(process.parent, []).append(number)
    chain = children.pop(pid, [])
    for one in chain:  # the list grows
        chain += children.pop(one, [])
    return chain


def _read(folder: Path) -> dict[int, Process]:
    found = {}
    for path in folder.glob("[0-9]*/stat"):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:  # ended meanwhile
            continue
        fields = text.rpartition(")")[2].split()  # those that follow the program's name
        user, system, of_ended_user, of_ended_system = (int(word) / _TICKS for word in fields[11:15])
        found[int(path.parent.name)] = Process(
            parent=int(fields[1]),
            state=fields[0],
            seconds=user + system,
            seconds_of_ended=of_ended_user + of_ended_system,
        )
    return found
