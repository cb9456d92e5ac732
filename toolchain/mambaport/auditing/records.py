"""A wheel's own records: RECORD, METADATA, WHEEL, and what the file's name says."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from email.parser import Parser
from pathlib import PurePosixPath

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mambaport.auditing.findings import Finding, judge
from mambaport.wheels import Wheel

_UNHASHED = (".dist-info/RECORD", ".dist-info/RECORD.jws", ".dist-info/RECORD.p7s")


def record_findings(wheel: Wheel, archive: zipfile.ZipFile) -> list[Finding]:
    """Findings on RECORD, METADATA, tags and provenance."""
    names = [item.filename for item in archive.infolist() if not item.is_dir()]
    info = sorted({name.split("/")[0] for name in names if ".dist-info/" in name})
    if len(info) != 1:
        found = f"{len(info)} .dist-info folders"
        return [Finding("records", "fail", found, "one .dist-info folder")]
    return [
        _record(archive, names, info[0]),
        _metadata(wheel, archive, info[0]),
        _tags(wheel, archive, info[0]),
        _provenance(names, info[0]),
    ]


def _record(archive: zipfile.ZipFile, names: list[str], info: str) -> Finding:
    try:
        text = archive.read(f"{info}/RECORD").decode()
    except KeyError:
        return Finding("RECORD", "fail", "no RECORD", "a RECORD of every file")
    rows = {row[0]: row for row in csv.reader(io.StringIO(text)) if row}
    faults = [f"{name} is not in RECORD" for name in names if name not in rows]
    faults += [f"{name} is in RECORD but not in the wheel" for name in rows if name not in set(names)]
    faults += [
        f"{name} leaves the wheel's folder"
        for name in names
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name
    ]
    if len(names) != len(set(names)):
        faults.append("a file stands twice in the wheel")
    for name in set(names) & set(rows):
        if name.endswith(_UNHASHED):
            continue
        _, digest, size = (*rows[name], "", "")[:3]
        content = archive.read(name)
        kind, _, value = digest.partition("=")
        if kind not in ("sha256", "sha384", "sha512"):
            faults.append(f"{name} has no strong digest in RECORD")
            continue
        actual = base64.urlsafe_b64encode(hashlib.new(kind, content).digest()).rstrip(b"=").decode()
        if actual != value or (size and size != str(len(content))):
            faults.append(f"{name} is not what RECORD says")
    return judge(
        "RECORD", faults, f"{len(names)} files, each with its digest", "every file once, with its digest"
    )


def _metadata(wheel: Wheel, archive: zipfile.ZipFile, info: str) -> Finding:
    try:
        message = Parser().parsestr(archive.read(f"{info}/METADATA").decode(), headersonly=True)
    except KeyError:
        return Finding("METADATA", "fail", "no METADATA", "METADATA")
    name, version = message.get("Name", ""), message.get("Version", "")
    faults = []
    if canonicalize_name(name) != wheel.name:
        faults.append(f"the name is {name!r}")
    try:
        if Version(version) != Version(wheel.version):
            faults.append(f"the version is {version!r}")
    except InvalidVersion:
        faults.append(f"the version {version!r} is not valid")
    expected = f"{wheel.name} {wheel.version}, as the file's name says"
    return judge("METADATA", faults, f"{name} {version}", expected)


def _tags(wheel: Wheel, archive: zipfile.ZipFile, info: str) -> Finding:
    try:
        message = Parser().parsestr(archive.read(f"{info}/WHEEL").decode(), headersonly=True)
    except KeyError:
        return Finding("tag", "fail", "no WHEEL file", "a WHEEL file")
    tags = message.get_all("Tag") or []
    faults = [] if tags == [wheel.tag] else [f"WHEEL says {', '.join(tags) or 'no tag'}"]
    pure = message.get("Root-Is-Purelib", "").lower() == "true"
    if pure != wheel.tag.endswith("-any"):
        faults.append(f"Root-Is-Purelib is {pure}")
    return judge("tag", faults, wheel.tag, f"{wheel.tag}, as the file's name says")


def _provenance(names: list[str], info: str) -> Finding:
    wanted = f"{info}/provenance.json"
    boms = [name for name in names if name.startswith(f"{info}/sboms/")]
    if wanted in names and boms:
        return Finding("origin", "pass", "provenance and SBOM inside")
    return Finding("origin", "skip", "no provenance of mambaport's: built elsewhere")
