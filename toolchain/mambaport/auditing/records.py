"""A wheel's records: RECORD, METADATA, WHEEL, and what the file's name says."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from email.message import Message
from email.parser import Parser

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mambaport.auditing.findings import Finding, judge
from mambaport.auditing.packing import contents_finding
from mambaport.wheels import Wheel

_UNHASHED = (".dist-info/RECORD", ".dist-info/RECORD.jws", ".dist-info/RECORD.p7s")


def record_findings(wheel: Wheel, archive: zipfile.ZipFile) -> list[Finding]:
    """Findings on contents, RECORD, METADATA, tags and provenance."""
    names = [item.filename for item in archive.infolist() if not item.is_dir()]
    info = sorted({top for name in names if (top := name.split("/")[0]).casefold().endswith(".dist-info")})
    wanted = "-".join(wheel.path.stem.split("-")[:2]) + ".dist-info"
    if info != [wanted]:
        return [Finding("records", "fail", ", ".join(info) or "no .dist-info folder", f"{wanted} alone")]
    return [
        contents_finding(wheel, names, wanted),
        _record(archive, names, wanted),
        _metadata(wheel, archive, wanted),
        _tags(wheel, archive, wanted),
        _provenance(archive, names, wanted),
    ]


def _record(archive: zipfile.ZipFile, names: list[str], info: str) -> Finding:
    try:
        text = archive.read(f"{info}/RECORD").decode()
    except KeyError:
        return Finding("RECORD", "fail", "no RECORD", "a RECORD of every file")
    lines = [row for row in csv.reader(io.StringIO(text)) if row]
    rows = {row[0]: row for row in lines}
    faults = [f"{name} is not in RECORD" for name in names if name not in rows]
    faults += [f"{name} is in RECORD but not in the wheel" for name in rows if name not in set(names)]
    twice = [name for name, times in Counter(row[0] for row in lines).items() if times > 1]
    faults += [f"{name} stands twice in RECORD" for name in twice]
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
    faults = _repeated(message, "Metadata-Version", "Name", "Version")
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
    faults += _repeated(message, "Wheel-Version", "Root-Is-Purelib")
    if not re.fullmatch(r"1\.[0-9]+", version := message.get("Wheel-Version", "")):
        faults.append(f"Wheel-Version is {version!r}, not 1.x")
    pure = message.get("Root-Is-Purelib", "").lower() == "true"
    if pure != wheel.tag.endswith("-any"):
        faults.append(f"Root-Is-Purelib is {pure}")
    return judge("tag", faults, wheel.tag, f"{wheel.tag}, as the file's name says")


def _repeated(message: Message, *headers: str) -> list[str]:
    return [f"{name} stands twice" for name in headers if len(message.get_all(name) or []) > 1]


def _provenance(archive: zipfile.ZipFile, names: list[str], info: str) -> Finding:
    wanted = f"{info}/provenance.json"
    if wanted in names:
        try:
            readable = isinstance(json.loads(archive.read(wanted)), dict)
        except (ValueError, RecursionError):
            readable = False
        if not readable:
            return Finding("origin", "fail", "provenance.json cannot be read", "a JSON object")
    boms = [name for name in names if name.startswith(f"{info}/sboms/")]
    if wanted in names and boms:
        return Finding("origin", "pass", "provenance and SBOM inside")
    return Finding("origin", "skip", "no provenance of mambaport's: built elsewhere")
