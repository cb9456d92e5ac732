"""How a series stands against a release: what applies, what moved, what upstream has, what drifted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from packaging.version import Version

from mambaport.digests import file_sha256
from mambaport.patching.diff import read_patch
from mambaport.patching.hunks import State, place_all
from mambaport.patchset import Patch, PatchSet

Verdict = Literal["applies", "moved", "upstream", "drifted", "replaced-file-changed"]


@dataclass(frozen=True)
class HunkPlace:
    """Where one hunk of a patch stands in a release."""

    file: str
    hunk: int
    line: int
    """The hunk's own line, from 1."""
    state: State | Literal["no file"]
    at: int | None = None
    """The line where the hunk's lines stand, where that is another one."""

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        if self.state == "no file":
            return f"{self.file}: no such file"
        return f"{self.file}:{self.line} " + (f"moved to {self.at}" if self.at else self.state)


@dataclass(frozen=True)
class PatchState:
    """One patch, or one replaced file, against one tree."""

    set: str
    patch: str
    verdict: Verdict
    places: tuple[HunkPlace, ...] = ()
    """Of each hunk."""
    note: str = ""
    """What the places do not say."""

    @property
    def fits(self) -> bool:
        """Whether nothing is left to do for the release."""
        return self.verdict not in ("drifted", "replaced-file-changed")

    @property
    def where(self) -> str:
        """The hunks that decide the verdict, in words."""
        states = {"drifted": ("drifted", "no file", "applied"), "moved": ("moved",)}.get(self.verdict, ())
        found = [str(place) for place in self.places if place.state in states]
        return "; ".join([*([self.note] if self.note else []), *found])

    def to_json(self) -> dict[str, Any]:
        return {
            "set": self.set,
            "patch": self.patch,
            "verdict": self.verdict,
            "places": [place.to_json() for place in self.places],
            "note": self.note,
        }


def check_against(tree: Path, sets: Sequence[PatchSet], version: str | None = None) -> list[PatchState]:
    """Holds every patch of ``sets`` against ``tree``. The tree is read, never written.

    A patch that fits is applied in memory, so that the next one sees its result; one that does not fit is
    left out. Given the tree's ``version``, a patch whose fix upstream has by then in other words counts as
    upstream, as its ``upstream`` field says. A patch that is not for the release is read, never applied.
    """
    files: dict[str, list[str]] = {}
    states: list[PatchState] = []
    for item in sets:
        states += [_check_replaced(tree, item, name) for name in item.replaced]
        for patch in item.meta.patch:
            wanted, fixed = patch in item.patches, _has_fix(version, patch.upstream)
            if not wanted and not fixed:
                continue
            state = _check(tree, files if wanted else dict(files), item, patch)
            if fixed and state.verdict != "upstream" and not (wanted and state.fits):
                note = f"since {patch.upstream}, differently"
                state = replace(state, verdict="upstream", places=(), note=note)
            states.append(state)
        for name, source in item.overlay_files().items():
            files[name] = source.read_text(encoding="utf-8", errors="replace").split("\n")
    return states


def _has_fix(version: str | None, upstream: str | None) -> bool:
    return version is not None and upstream is not None and Version(version) >= Version(upstream)


def _check_replaced(tree: Path, item: PatchSet, name: str) -> PatchState:
    """Whether upstream's file is the one that the overlay replaces."""
    path = tree / name
    digest = file_sha256(path) if path.is_file() else None
    if digest in item.replaced[name]:
        return PatchState(item.name, name, "applies")
    note = (
        f"{name}: sha256 {digest[:16]}… is none that patchset.toml names"
        if digest
        else f"{name}: no such file"
    )
    return PatchState(item.name, name, "replaced-file-changed", note=note)


def _check(tree: Path, files: dict[str, list[str]], item: PatchSet, patch: Patch) -> PatchState:
    """The best that one of the patch's texts does: the release's own first."""
    own = item.path(patch)
    others = [item.folder / name for name in (patch.file, *patch.siblings) if item.folder / name != own]
    best: PatchState | None = None
    for path in (own, *others):
        state, results = _check_text(tree, files, item.name, path)
        if best is None or (state.fits and not best.fits):
            best = state
            if state.verdict in ("applies", "moved"):
                files.update(results)
        if best.fits:
            break
    assert best is not None
    return best


def _check_text(
    tree: Path, files: dict[str, list[str]], name: str, path: Path
) -> tuple[PatchState, dict[str, list[str]]]:
    found: list[HunkPlace] = []
    results: dict[str, list[str]] = {}
    for diff in read_patch(path):
        if diff.name not in files:
            target = tree / diff.name
            if not target.is_file():
                found.append(HunkPlace(diff.name, 0, 0, "no file"))
                continue
            files[diff.name] = target.read_text(encoding="utf-8").split("\n")
        places, results[diff.name] = place_all(files[diff.name], diff)
        found += [
            HunkPlace(
                diff.name,
                place.hunk.number,
                place.hunk.start,
                place.state,
                place.line if place.state == "moved" else None,
            )
            for place in places
        ]
    return PatchState(name, path.name, _verdict(found), tuple(found)), results


def _verdict(found: list[HunkPlace]) -> Verdict:
    states = {place.state for place in found}
    if states & {"drifted", "no file"}:
        return "drifted"
    if states == {"applied"}:
        return "upstream"
    if "applied" in states:  # half of the patch: another text is needed
        return "drifted"
    return "moved" if "moved" in states else "applies"
