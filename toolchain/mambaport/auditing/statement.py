"""The statement beside a wheel: whether it speaks of this wheel, and of the inputs that the wheel names."""

from __future__ import annotations

import json
import re
import zipfile
from typing import Any

from mambaport.auditing.findings import Finding, judge
from mambaport.wheels import PREDICATE_TYPE, STATEMENT, STATEMENT_TYPE, Wheel

BUILDER = "mambaport"
"""The one material that no list in the wheel has: the wheel's bytes do not depend on mambaport's version."""
_SBOM = re.compile(r"\.dist-info/sboms/[^/]+\.cdx\.json$")
LARGEST = 16 << 20
"""Bytes of the longest statement that is read."""


def statement_finding(wheel: Wheel, archive: zipfile.ZipFile) -> Finding | None:
    """The finding on ``<wheel>.intoto.json``; None where there is no such file.

    A statement is compared and not believed: the tool that CI signs with also checks its signature, where CI
    has signed it.
    """
    path = wheel.path.with_name(wheel.path.name + STATEMENT)
    if not path.is_file():
        return None
    expected = f"a statement of {wheel.path.name} with sha256 {wheel.sha256}, and of its sources and patches"
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        faults = _faults(json.loads(path.read_text(encoding="utf-8")), wheel, archive)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as fault:
        reason = f"{type(fault).__name__}: {fault}"
        return Finding("statement", "fail", f"{path.name} cannot be read: {reason}", expected)
    return judge("statement", [f"{path.name}: {fault}" for fault in faults], path.name, expected)


def _faults(statement: Any, wheel: Wheel, archive: zipfile.ZipFile) -> list[str]:
    for name, expected in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if statement[name] != expected:
            return [f"{name} is {str(statement[name])[:200]}, expected {expected}"]
    subjects, faults = _digests(statement["subject"])
    if wheel.path.name not in subjects:
        return [f"the subject is {', '.join(subjects)[:200] or 'nothing'}"]
    if subjects[wheel.path.name] != wheel.sha256:
        faults.append(f"the subject's sha256 is {subjects[wheel.path.name]}")
    stated, more = _digests(statement["predicate"]["buildDefinition"]["resolvedDependencies"])
    faults += more
    inputs = _inputs(wheel, archive)
    for name, digest in inputs.items():
        if stated.get(name) != digest:
            faults.append(f"{name} is stated with sha256 {stated.get(name)}, and the wheel names {digest}")
    listed = _components(archive)
    for name, said in stated.items():
        if name != BUILDER and name not in inputs and (name not in listed or listed[name] != said):
            expected = f"has sha256 {listed[name]}" if name in listed else "lists no such material"
            faults.append(f"{name[:200]} is stated with sha256 {said}, and the wheel's SBOM {expected}")
    faults += [f"{name} is not stated, and in the wheel's SBOM" for name in listed if name not in stated]
    return faults[:10]


def _digests(items: list[dict[str, Any]]) -> tuple[dict[str, str | None], list[str]]:
    """The sha256 of each named file, and the names that stand twice: a reader may take either digest."""
    found: dict[str, str | None] = {}
    faults = []
    for item in items:
        name = str(item.get("name"))
        if name in found:
            faults.append(f"{name[:200]} stands there twice")
        found[name] = item.get("digest", {}).get("sha256")
    return found, faults


def _components(archive: zipfile.ZipFile) -> dict[str, str | None]:
    """The materials in the wheel's own SBOM: name -> sha256, None for a material that is no single file."""
    names = [name for name in archive.namelist() if _SBOM.search(name)]
    found = json.loads(archive.read(names[0])).get("components", []) if names else []
    hashes = {item["name"]: {one["alg"]: one["content"] for one in item.get("hashes", [])} for item in found}
    return {name: digests.get("SHA-256") for name, digests in hashes.items()}


def _inputs(wheel: Wheel, archive: zipfile.ZipFile) -> dict[str, str]:
    """The sources and patches that the wheel's own provenance names: name in a statement -> sha256."""
    names = [name for name in archive.namelist() if name.endswith(".dist-info/provenance.json")]
    record = json.loads(archive.read(names[0])) if names else {}
    found = {item["filename"]: item["sha256"] for item in record.get("sources", ())}
    for item in record.get("patch_sets", ()):
        found |= {
            f"{wheel.name}/{item['name']}/{patch['file']}": patch["sha256"] for patch in item["patches"]
        }
    return found
