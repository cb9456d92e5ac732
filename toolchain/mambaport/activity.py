"""How much the programs under this process have used the processor, as the kernel counts it."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PARENT = 1
_TIMES = slice(11, 15)
"""utime, stime, cutime and cstime, among the fields of /proc/PID/stat after the program's name: proc(5)."""


def processor_seconds() -> float | None:
    """The time that all descendants of this process have used so far, in seconds, the ended ones included.

    This process's own time is not in it. None where /proc cannot be read.
    """
    own = os.getpid()
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        pid, times = int(path.parent.name), [int(word) for word in fields[_TIMES]]
        children.setdefault(int(fields[_PARENT]), []).append(pid)
        ticks[pid] = sum(times[2:] if pid == own else times)
    if own not in ticks:
        return None
    total, waiting = 0, [own]
    while waiting:
        pid = waiting.pop()
        total += ticks[pid]
        waiting += children.pop(pid, [])
    return total / _TICKS
