"""How a series stands against another version: what applies, what has drifted, what upstream has taken in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from packaging.version import Version

from mambaport.patching.diff import read_patch
from mambaport.patching.hunks import Place, place_all
from mambaport.patchset import PatchSet

Verdict = Literal["applies", "moved", "already upstream", "drifted"]


@dataclass(frozen=True)
class PatchState:
    """One patch against one tree."""

    set: str
    patch: str
    verdict: Verdict
    where: str
    """The hunks that decide it: ``setup.py:61`` for each that moved or drifted."""


def check_against(tree: Path, sets: Sequence[PatchSet], version: str | None = None) -> list[PatchState]:
    """Holds every patch of ``sets`` against ``tree``. The tree is read, never written.

    A patch that fits is applied in memory, so that the next one sees its result; one that does not fit is
    left out. Given the tree's ``version``, a patch whose fix upstream has by then in other words counts as
    already upstream, as its ``upstream`` field says.
    """
    files: dict[str, list[str]] = {}
    states: list[PatchState] = []
    for item in sets:
        for patch in item.patches:
            state = _check(tree, files, item, patch.file)
            if state.verdict == "drifted" and _has_fix(version, patch.upstream):
                state = replace(
                    state, verdict="already upstream", where=f"since {patch.upstream}, differently"
                )
            states.append(state)
        for name, source in item.overlay_files().items():
            files[name] = source.read_text(encoding="utf-8", errors="replace").split("\n")
    return states


def _has_fix(version: str | None, upstream: str | None) -> bool:
    return version is not None and upstream is not None and Version(version) >= Version(upstream)


def _check(tree: Path, files: dict[str, list[str]], item: PatchSet, patch: str) -> PatchState:
    found: list[tuple[str, str]] = []  # state, and where in words
    results: dict[str, list[str]] = {}
    for diff in read_patch(item.folder / patch):
        if diff.name not in files:
            path = tree / diff.name
            if not path.is_file():
                found.append(("drifted", f"{diff.name}: no such file"))
                continue
            files[diff.name] = path.read_text(encoding="utf-8").split("\n")
        places, results[diff.name] = place_all(files[diff.name], diff)
        found += [(place.state, _where(diff.name, place)) for place in places]
    verdict = _verdict([state for state, _where in found])
    if verdict in ("applies", "moved"):
        files.update(results)
    where = [text for state, text in found if state == verdict]
    return PatchState(item.name, patch, verdict, "; ".join(where))


def _where(name: str, place: Place) -> str:
    """The place, as far as it helps the one who makes the patch anew."""
    at = f"{name}:{place.hunk.start}"
    return f"{at} moved to {place.line}" if place.state == "moved" else f"{at} {place.state}"


def _verdict(found: list[str]) -> Verdict:
    if "drifted" in found:
        return "drifted"
    if all(state == "applied" for state in found):
        return "already upstream"
    if all(state == "exact" for state in found):
        return "applies"
    return "moved"
