"""How times are taken: in turns, so that whatever else the machine does meets all alike; the medians count.

With one thread it is that thread's own time that is taken, which a busy machine hardly stretches.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch

SLOW = 2.0
"""Seconds from which on a call is neither warmed up nor repeated more than once."""
NEIGHBOURS = 9
"""A candidate's time is divided by the median of this many of ours, the nearest by turn."""


@dataclass(frozen=True)
class Figure:
    """What one candidate took, in the row's unit."""

    median: float
    least: float
    ratio: float = 1.0
    """The median, over the turns, of how many times as much as ours took around the same turn."""


@dataclass(frozen=True)
class Row:
    """One piece of work, and what each candidate took for it."""

    work: str
    threads: int
    figures: dict[str, Figure]
    ours: str = "kernel"
    unit: str = "ms"
    goals: dict[str, float] = field(default_factory=dict)
    """How many times as much as ours a candidate should take."""

    def met(self, candidate: str) -> bool:
        return self.figures[candidate].ratio >= self.goals[candidate]

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "met": {name: self.met(name) for name in self.goals}}


class Clocked:
    """A candidate that takes its own time: called, it returns the milliseconds of one run."""

    def __init__(self, run: Callable[[], float]) -> None:
        self.run = run


Candidate = Callable[[], object] | Clocked


def measure(
    candidates: dict[str, Candidate], seconds: float = 1.0, most: int = 100, ours: str = "kernel"
) -> dict[str, Figure]:
    """Milliseconds of up to `most` calls each; a fast candidate costs 2 x `seconds` or less.

    Every timed call follows one that is not, so that it finds the caches and the memory as it left them.
    A slow candidate takes part in evenly spread turns only.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter

    def timed(candidate: Candidate, warm: bool = True) -> float:
        if isinstance(candidate, Clocked):
            return candidate.run()
        if warm:
            candidate()
        start = clock()
        candidate()
        return (clock() - start) * 1e3

    first = {name: timed(candidate, warm=False) / 1e3 for name, candidate in candidates.items()}
    rounds = {name: max(2, min(most, int(seconds / max(once, 1e-6)))) for name, once in first.items()}
    turns = max(rounds.values())
    spent: dict[str, dict[int, float]] = {name: {} for name in candidates}
    for turn in range(turns):
        for name, candidate in candidates.items():
            if turn * rounds[name] // turns >= len(spent[name]):
                spent[name][turn] = timed(candidate, warm=first[name] < SLOW)

    def around(turn: int) -> float:
        """Ours by the nearest turns: a slow candidate has few, and one of ours alone may be off."""
        nearest = sorted(spent[ours], key=lambda other: abs(other - turn))[:NEIGHBOURS]
        return statistics.median(spent[ours][other] for other in nearest)

    return {
        name: Figure(
            statistics.median(times.values()),
            min(times.values()),
            statistics.median(taken / around(turn) for turn, taken in times.items()),
        )
        for name, times in spent.items()
    }
