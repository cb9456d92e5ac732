"""Counts of attacks: how many were tried, and which ended wrong."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pytest

SEED = int(os.environ.get("MAMBAPORT_HOSTILE_SEED", "20261"))
LENGTH = os.environ.get("MAMBAPORT_HOSTILE", "")
"""``short``, empty, or ``night``."""


@dataclass
class Tally:
    """The attacks of one area."""

    area: str
    config: pytest.Config
    tried: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, name: str, *faults: str) -> None:
        """One attack; each fault says what ended wrong."""
        self.tried += 1
        if faults:
            self.wrong.append(f"{name}: {'; '.join(faults)}")
            self._print(f"wrong: {self.area}: {self.wrong[-1]}")

    def check(self) -> None:
        """Prints the counts as a row of docs/reliability.md; fails with every attack that ended wrong."""
        self._print(f"| {self.area} | {self.tried} | {len(self.wrong)} |")
        assert self.tried
        assert not self.wrong, f"{len(self.wrong)} of {self.tried} wrong:\n" + "\n".join(self.wrong)

    def _print(self, text: str) -> None:
        capture = self.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print(f"\n{text}", flush=True)
