"""A patch held against a file: every hunk at its line or its only place, or an error that names the hunk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mambaport.errors import PatchError
from mambaport.patching.diff import FileDiff
from mambaport.patching.hunks import Place, place_all, show_drift

_HEAD = re.compile(r"@@ -\d+(,\d+)? \+\d+(,\d+)? @@")


def match(
    lines: list[str], diff: FileDiff, patch: str, recorded: Mapping[int, int] | None
) -> tuple[list[Place], list[str]]:
    """Holds every hunk of ``diff`` against a file's lines.

    Args:
        recorded: number of a hunk -> the line, from 1, where it stands; hunks that are not named stand at
            their own line. None: a hunk may stand at any line, where its lines have one place in the file.

    Returns:
        The places, and the lines that the hunks make.

    Raises:
        PatchError: with file, hunk, expected and found lines.
    """
    places, result = place_all(lines, diff)
    if all(place.state == "applied" for place in places):
        raise PatchError(
            f"{patch} is already applied",
            found=f"{diff.name} already has the lines that it adds",
            expected="the source before the patch",
            hint="start from a pristine tree: `mambaport patch -p PROFILE -o DIR` makes one",
        )
    for place in places:
        if place.state not in ("exact", "moved"):
            raise _drift(lines, diff, place, patch)
        if recorded is not None:
            _check_line(diff, place, patch, recorded.get(place.hunk.number))
    return places, result


def renumbered(path: Path, places: Mapping[str, Sequence[Place]]) -> str:
    """A patch's text with each hunk's header at the line where the hunk stands."""
    heads: list[tuple[int, int, int, int]] = []  # line and count before, line and count after
    for found in places.values():
        grown = 0
        for place in found:
            before, after = len(place.hunk.before), len(place.hunk.after)
            heads.append((place.line, before, place.line + grown, after))
            grown += after - before
    text: list[str] = []
    left = 0  # lines of the current hunk that are still to come, counted as before + after
    for line in path.read_text(encoding="utf-8").split("\n"):
        if left == 0 and line.startswith("@@ "):
            start, before, new, after = heads.pop(0)
            text.append(_HEAD.sub(f"@@ -{start},{before} +{new},{after} @@", line, count=1))
            left = before + after
            continue
        if left:
            left -= 2 if line.startswith(" ") else 1
        text.append(line)
    return "\n".join(text)


def _check_line(diff: FileDiff, place: Place, patch: str, recorded: int | None) -> None:
    if recorded == place.line or (recorded is None and place.state == "exact"):
        return
    hunk = place.hunk
    raise PatchError(
        f"{patch} stands elsewhere than recorded: {diff.name}, hunk {hunk.number} at line {hunk.start}",
        found=f"the hunk's lines at line {place.line}",
        expected=f"at line {recorded} (lock.json)" if recorded else f"at line {hunk.start}, its own",
        hint="read the place; if it is the right one, `mambaport patches refresh` records it",
    )


def _drift(lines: list[str], diff: FileDiff, place: Place, patch: str) -> PatchError:
    hunk = place.hunk
    if place.state == "applied":
        found = "the lines that this hunk adds, but not those of the patch's other hunks"
    else:
        found = "other lines (+ below)"
    return PatchError(
        f"{patch} does not match: {diff.name}, hunk {hunk.number} at line {hunk.start}",
        found=found,
        expected="the lines that the patch was made for (- below)",
        hint="the source is not the pinned one, or the patch must be made anew for it; nothing was changed",
        detail=show_drift(lines, hunk, place.line),
    )
