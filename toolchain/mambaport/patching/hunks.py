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


def locate(
    lines: Sequence[str], hunk: Hunk, shift: int = 0, displacement: int | None = None, floor: int = 0
) -> Place:
    """Finds a hunk in ``lines``.

    Args:
        shift: the number of lines that earlier hunks of the file added.
        displacement: the distance of the hunk before from its own line; None when no hunk before has moved.
            After a moved hunk, the hunk's lines must have one place in the file.
        floor: the first index of ``lines`` below the hunk before; the hunk never stands above.
    """
    own = hunk.start - 1 + shift
    expected = own + (displacement or 0)
    only = _only_place(lines, hunk.before)
    drifted = Place(hunk, "drifted", max(expected, floor) + 1)
    if _matches(lines, hunk.before, expected) and (displacement is None or only == expected):
        at = expected
    elif _matches(lines, hunk.after, expected):
        return Place(hunk, "applied", expected + 1) if expected >= floor else drifted
    elif only is not None:
        at = only
    else:
        applied = _only_place(lines, hunk.after)
        return drifted if applied is None or applied < floor else Place(hunk, "applied", applied + 1)
    if at < floor:  # above the hunk before: another order
        return drifted
    # A hunk at a file's end only appends, so it would match again after itself.
    appends = hunk.after[: len(hunk.before)] == hunk.before
    if appends and _matches(lines, hunk.after, at):
        return Place(hunk, "applied", at + 1)
    return Place(hunk, "exact" if at == own else "moved", at + 1)


def place_all(lines: Sequence[str], diff: FileDiff) -> tuple[list[Place], list[str]]:
    """Every hunk's place, and the lines with all exact and moved hunks applied."""
    result = list(lines)
    places: list[Place] = []
    shift = grown = floor = 0
    displacement: int | None = None
    for hunk in diff.hunks:
        place = locate(result, hunk, shift, displacement, floor)
        places.append(replace(place, line=place.line - grown))
        if place.state == "drifted":
            continue
        at, growth = place.line - 1, len(hunk.after) - len(hunk.before)
        distance = place.line - hunk.start - shift
        if distance or displacement is not None:
            displacement = distance
        if place.state != "applied":
            result[at : at + len(hunk.before)] = hunk.after
            grown += growth
        shift += growth
        floor = at + len(hunk.after)
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
