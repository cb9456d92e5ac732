"""Where a hunk stands in a file: exactly at its place, somewhere else, already applied, or nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import unified_diff
from typing import Literal

from mambaport.patching.diff import FileDiff, Hunk

State = Literal["exact", "moved", "applied", "drifted"]


@dataclass(frozen=True)
class Place:
    """One hunk's place in one file."""

    hunk: Hunk
    state: State
    line: int
    """Where it stands in the file as it is, from 1: the hunk's own place unless it moved."""


def locate(lines: Sequence[str], hunk: Hunk, shift: int = 0) -> Place:
    """Finds a hunk in ``lines``. ``shift`` is what earlier hunks of the file added."""
    at = hunk.start - 1 + shift
    if _matches(lines, hunk.before, at):
        # A hunk at a file's end only appends, so it would match again after itself.
        appends = hunk.after[: len(hunk.before)] == hunk.before
        again = appends and _matches(lines, hunk.after, at)
        return Place(hunk, "applied" if again else "exact", at + 1)
    if _matches(lines, hunk.after, at):
        return Place(hunk, "applied", at + 1)
    moved = _only_place(lines, hunk.before)
    if moved is not None:
        return Place(hunk, "moved", moved + 1)
    applied = _only_place(lines, hunk.after)
    if applied is not None:
        return Place(hunk, "applied", applied + 1)
    return Place(hunk, "drifted", at + 1)


def place_all(lines: Sequence[str], diff: FileDiff) -> tuple[list[Place], list[str]]:
    """Every hunk's place, and the lines with all exact and moved hunks applied."""
    result = list(lines)
    places: list[Place] = []
    shift = grown = floor = 0
    for hunk in diff.hunks:
        place = locate(result, hunk, shift)
        if place.state == "moved" and place.line - 1 < floor:  # above an earlier hunk: another order
            place = Place(hunk, "drifted", hunk.start + shift)
        places.append(replace(place, line=place.line - grown))
        if place.state in ("exact", "moved"):
            at = place.line - 1
            result[at : at + len(hunk.before)] = hunk.after
            floor = at + len(hunk.after)
            shift += len(hunk.after) - len(hunk.before)
            grown += len(hunk.after) - len(hunk.before)
        elif place.state == "applied":
            shift += len(hunk.after) - len(hunk.before)
    return places, result


def reverse(diff: FileDiff) -> FileDiff:
    """The diff that takes ``diff`` back."""
    back = FileDiff(diff.name)
    shift = 0
    for hunk in diff.hunks:
        back.hunks.append(Hunk(hunk.number, hunk.start + shift, hunk.after, hunk.before))
        shift += len(hunk.after) - len(hunk.before)
    return back


def show_drift(lines: Sequence[str], hunk: Hunk, at: int) -> str:
    """What the hunk expects (-) against what stands there (+), as a small diff."""
    found = lines[at - 1 : at - 1 + len(hunk.before)]
    diff = unified_diff(hunk.before, found, "expected", "found", lineterm="", n=2)
    return "\n".join(line for line in diff if not line.startswith("@@"))


def _matches(lines: Sequence[str], block: Sequence[str], at: int) -> bool:
    # The last item is what follows the last newline: nothing, or a line without one, which no hunk names.
    inside = at >= 0 and at + len(block) < len(lines)
    return inside and list(lines[at : at + len(block)]) == list(block)


def _only_place(lines: Sequence[str], block: Sequence[str]) -> int | None:
    """The one place where the block stands; None when there is none, or more than one."""
    places = [at for at in range(len(lines) - len(block) + 1) if _matches(lines, block, at)]
    return places[0] if len(places) == 1 else None
