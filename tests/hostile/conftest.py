"""The areas of the attack, and their table at the end of the run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from inputs import Area

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # for helpers.py
AREAS: list[Area] = []


@pytest.fixture
def area(tmp_path: Path) -> Callable[[str, int], Area]:
    """Makes an area by name and number of inputs."""

    def make(name: str, per_run: int) -> Area:
        made = Area(name, tmp_path / "arena", per_run)
        AREAS.append(made)
        return made

    return make


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not AREAS:
        return
    terminalreporter.section("hostile inputs: tried, wrong, and how they ended")
    for item in AREAS:
        ends = ", ".join(f"{count} {end}" for end, count in item.ends.most_common())
        terminalreporter.write_line(f"{item.name:<44} {item.tried:>7} {len(item.wrong):>5}   {ends}")
    tried, wrong = sum(item.tried for item in AREAS), sum(len(item.wrong) for item in AREAS)
    terminalreporter.write_line(f"{'all':<44} {tried:>7} {wrong:>5}")
