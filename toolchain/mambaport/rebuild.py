"""Rebuilding a wheel from its own provenance, to see whether the bytes agree."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from mambaport.building.provenance import record
from mambaport.errors import AuditError, HostError, MambaportError, PatchError
from mambaport.pipeline import Pipeline
from mambaport.wheels import UNREADABLE_ZIP, Wheel

PATCHES = ("sources", "patch_sets", "revision", "version")
MACHINE = ("toolchain", "cuda", "python", "build_requirements", "build_format", "target")


@dataclass(frozen=True)
class Rebuilt:
    """A wheel that was built again with equal bytes."""

    wheel: Wheel
    sha256: str


def rebuild(pipeline: Pipeline, wheel: Wheel, recorded: Mapping[str, Any]) -> Rebuilt:
    """Builds a wheel again from its sources, and compares every byte.

    Args:
        recorded: the provenance in the wheel.

    Raises:
        PatchError, HostError: this mambaport or this machine would not build from the recorded inputs; the
            error names each.
        AuditError: the new wheel has other bytes; the error names the files that differ.
        FetchError, BuildError: as for a build.
    """
    (package,) = [item for item in pipeline.plan.packages if item.name == wheel.name]
    now = json.loads(json.dumps(record(pipeline.plan, package)))
    require_equal(recorded, now, wheel.path.name)
    expected = wheel.sha256
    with pipeline.store.scratch() as scratch:
        folder = scratch / "again"
        folder.mkdir()
        again = pipeline.build_again(package, folder)
        if again.sha256 != expected:
            raise AuditError(
                f"{wheel.path.name} is not what its provenance gives",
                found=f"sha256 {expected}; differing: {_differing_files(wheel, again)}",
                expected=f"sha256 {again.sha256}, as built here",
                hint="do not use the wheel: it was changed after the build, or built with other tools",
            )
    return Rebuilt(wheel, expected)


def require_equal(recorded: Mapping[str, Any], now: Mapping[str, Any], name: str) -> None:
    """Refuses a provenance that names other inputs than this mambaport has on this machine.

    Raises:
        PatchError: sources or patch sets differ.
        HostError: the compiler, Python or another tool differs.
    """
    differences = {key: _differences(key, recorded.get(key), now.get(key)) for key in {*recorded, *now}}
    differing = {key: lines for key, lines in differences.items() if lines}
    if not differing:
        return
    if set(differing) == {"key"}:
        differing["key"].append(
            "an input that the provenance does not name differs: the profile, or a CPU's data"
        )
    of_machine = not any(key in PATCHES for key in differing) and any(key in MACHINE for key in differing)
    error: type[MambaportError] = HostError if of_machine else PatchError
    raise error(
        f"{name} was built from other inputs than this mambaport has"
        + (" on this machine" if of_machine else ""),
        found="\n".join(line for key in sorted(differing) for line in differing[key]),
        expected="the inputs that the wheel's provenance names",
        hint="use the compiler and the Python that the provenance names"
        if of_machine
        else "check out the commit that the wheel's statement or release names, and run this again there",
    )


def _differences(key: str, recorded: Any, now: Any) -> list[str]:
    """Sentences about one key of two provenances; for lists of named things, one sentence for each thing."""
    if recorded == now:
        return []
    if key in ("patch_sets", "sources", "build_requirements"):
        before, after = (_by_name(value) for value in (recorded, now))
        if before is not None and after is not None:
            kind = key.replace("_", " ")[:-1]
            lines = [
                line
                for name in sorted({*before, *after})
                for line in _difference(f"{kind} {name}", before.get(name), after.get(name))
            ]
            if lines:  # none where the order alone differs
                return lines
    return _difference(key, recorded, now)


def _difference(name: str, recorded: Any, now: Any) -> list[str]:
    """A sentence about two values; where their digests are equal, one for each key that differs."""
    if recorded == now:
        return []
    before, after = _short(recorded), _short(now)
    if before == after and isinstance(recorded, dict) and isinstance(now, dict):
        keys = sorted({*recorded, *now} - {"patches"})  # each patch has a sentence of its own
        return [
            line for key in keys for line in _difference(f"{name}, {key}", recorded.get(key), now.get(key))
        ]
    if before == after:
        before, after = _from_difference(*(json.dumps(value, sort_keys=True) for value in (recorded, now)))
    return [f"{name}: recorded {before}, here {after}"]


def _from_difference(recorded: str, now: str) -> tuple[str, str]:
    """Two long texts, shortened to the part from some characters before the first that differs."""
    unequal = (index for index, (one, two) in enumerate(zip_longest(recorded, now)) if one != two)
    start = max(0, next(unequal, 0) - 20)
    return _short(f"...{recorded[start:]}"), _short(f"...{now[start:]}")


def _by_name(rows: Any) -> dict[str, Any] | None:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    found = {str(row.get("name") or row.get("filename")): row for row in rows}
    for name, row in list(found.items()):
        if isinstance(patches := row.get("patches"), list):
            digests = {str(item.get("file")): item for item in patches if isinstance(item, dict)}
            found |= {f"{name}/{file}": item for file, item in digests.items()}
    return found


def _text(value: Any) -> str:
    if value is None:
        return "nothing"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _short(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("sha256"), str):
        return str(value["sha256"])[:16]
    text = _text(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _differing_files(one: Wheel, other: Wheel) -> str:
    """The names of the archives' members that differ, at most ten."""
    try:
        first, second = (_members(wheel) for wheel in (one, other))
    except UNREADABLE_ZIP as fault:
        return f"the archive cannot be read ({fault})"
    names = sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
    text = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return text or "no file, the archive alone"


def _members(wheel: Wheel) -> dict[str, tuple[int, int]]:
    with zipfile.ZipFile(wheel.path) as archive:
        return {item.filename: (item.CRC, item.file_size) for item in archive.infolist()}
