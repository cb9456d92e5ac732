"""How times are taken: in turns, so that whatever else the machine does meets all alike; the median counts.

With one thread it is that thread's own time that is taken, which a busy machine hardly stretches.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch


@dataclass(frozen=True)
class Row:
    """One piece of work, and the milliseconds that each candidate took for it."""

    work: str
    threads: int
    times: dict[str, float]
    ours: str = "kernel"
    goals: dict[str, float] = field(default_factory=dict)
    """How many times faster than a candidate ours should be."""

    def ratio(self, candidate: str) -> float:
        return self.times[candidate] / self.times[self.ours]

    def as_json(self) -> dict[str, object]:
        ratios = {name: round(self.ratio(name), 3) for name in self.times if name != self.ours}
        return {**asdict(self), "ratios": ratios}


def measure(
    candidates: dict[str, Callable[[], object]], seconds: float = 1.0, most: int = 100
) -> dict[str, float]:
    """Milliseconds per call, the median of up to `most` rounds; a candidate costs 2 x `seconds` or less.

    Every timed call follows one that is not, so that it finds the caches and the memory as it left them.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter

    def timed(function: Callable[[], object]) -> float:
        function()
        start = clock()
        function()
        return clock() - start

    spent = {name: [timed(function)] for name, function in candidates.items()}
    rounds = {name: max(2, min(most, int(seconds / max(first[0], 1e-6)))) for name, first in spent.items()}
    for turn in range(max(rounds.values())):
        for name, function in candidates.items():
            # A slow candidate takes part in evenly spread rounds only.
            if turn * rounds[name] // max(rounds.values()) >= len(spent[name]) - 1:
                spent[name].append(timed(function))
    return {name: statistics.median(times[1:]) * 1e3 for name, times in spent.items()}
