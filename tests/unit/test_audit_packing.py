"""The audit of a wheel as an archive, and of what it would install."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest
from helpers import write_wheel

from mambaport.auditing import Finding, audit_wheel
from mambaport.contents import contents, owned_modules
from mambaport.wheels import read_wheel

ANY = "py3-none-any"
INFO = "mamba_ssm-2.2.4+cpu.1.dist-info"


def findings(path: Path) -> dict[str, Finding]:
    return {finding.rule: finding for finding in audit_wheel(read_wheel(path), None).findings}


def ours(folder: Path, files: dict[str, bytes], **fields: str) -> Path:
    return write_wheel(folder, files, name="mamba_ssm", version="2.2.4+cpu.1", tag=ANY, **fields)  # type: ignore[arg-type]


def test_a_wheel_of_ours_owns_its_packages_and_modules(tmp_path: Path) -> None:
    files = {
        "mamba_ssm/__init__.py": b"",
        "selective_scan_cpu/data.bin": b"x",
        "selective_scan_cuda.py": b"",
        f"{INFO}/licenses/LICENSE": b"x",
        f"{INFO}/sboms/mamba-ssm.cdx.json": b"{}",
        f"{INFO}/top_level.txt": b"mamba_ssm\n",
    }
    found = findings(ours(tmp_path, files))
    assert [rule for rule, finding in found.items() if finding.verdict == "fail"] == []
    assert found["contents"].found == f"mamba_ssm, selective_scan_cpu, selective_scan_cuda, {INFO}"


@pytest.mark.parametrize(
    "name",
    [
        "torch/__init__.py",
        "numpy/__init__.py",
        "pip/__init__.py",
        "causal_conv1d/__init__.py",
        "sitecustomize.py",
        "usercustomize.py",
        "evil.pth",
        "mamba_ssm.pth",
        "mamba_ssm-2.2.4+cpu.1.data/scripts/python",
        "mamba_ssm-2.2.4+cpu.1.data/data/etc/evil",
        "mamba_ssm-2.2.4+cpu.1.data/purelib/torch/__init__.py",
        "my_config.py",
        ".mambaport-backup/journal.json",
        "~orch/x.py",
        "mamba_ssm/__pycache__/__init__.cpython-311.pyc",
        f"{INFO}/entry_points.txt",
        f"{INFO}/direct_url.json",
        f"{INFO}/INSTALLER",
    ],
)
def test_what_is_not_the_wheels_is_refused_although_recorded(tmp_path: Path, name: str) -> None:
    found = findings(ours(tmp_path, {"mamba_ssm/__init__.py": b"", name: b"x"}))
    assert [rule for rule, finding in found.items() if finding.verdict == "fail"] == ["contents"]
    assert name in found["contents"].found


@pytest.mark.parametrize(
    "folder", ["torch-2.9.1.dist-info", "other-1.0.dist-info", "mamba_ssm-2.2.4.dist-info"]
)
def test_a_foreign_dist_info_is_refused(tmp_path: Path, folder: str) -> None:
    found = findings(ours(tmp_path, {f"{folder}/METADATA": b"Name: torch\nVersion: 2.9.1\n"}))
    assert found["records"].verdict == "fail"
    assert folder in found["records"].found


def test_headers_that_stand_twice_are_refused(tmp_path: Path) -> None:
    twice = "Metadata-Version: 2.1\nName: mamba_ssm\nVersion: 2.2.4+cpu.1\nName: torch\nVersion: 9\n"
    found = findings(ours(tmp_path, {}, metadata=twice))["METADATA"]
    assert (found.verdict, found.found) == ("fail", "Name stands twice; Version stands twice")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (b"Wheel-Version: 9.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n", "Wheel-Version is '9.0'"),
        (b"Root-Is-Purelib: true\nTag: py3-none-any\n", "Wheel-Version is ''"),
        (
            b"Wheel-Version: 1.0\nWheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "stands twice",
        ),
    ],
)
def test_another_wheel_format_is_refused(tmp_path: Path, changed: bytes, reason: str) -> None:
    path = ours(tmp_path, {})
    entries = contents_of(path)
    entries[f"{INFO}/WHEEL"] = changed
    write_raw(path, [(zipfile.ZipInfo(name), data) for name, data in entries.items()])
    assert reason in findings(path)["tag"].found


def test_a_row_that_stands_twice_in_record_is_refused(tmp_path: Path) -> None:
    path = ours(tmp_path, {"mamba_ssm/__init__.py": b""})
    entries = contents_of(path)
    record = entries[f"{INFO}/RECORD"]
    entries[f"{INFO}/RECORD"] = record + record.splitlines(keepends=True)[0]
    write_raw(path, [(zipfile.ZipInfo(name), data) for name, data in entries.items()])
    assert "mamba_ssm/__init__.py stands twice in RECORD" in findings(path)["RECORD"].found


def contents_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {item.filename: archive.read(item) for item in archive.infolist()}


def write_raw(path: Path, entries: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in entries:
            archive.writestr(info, data)


def entry(name: str, **fields: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (entry("../evil.py"), "leaves the wheel's folder"),
        (entry("/etc/evil"), "leaves the wheel's folder"),
        (entry("mamba_ssm/./x.py"), "leaves the wheel's folder"),
        (entry("mamba_ssm//x.py"), "leaves the wheel's folder"),
        (entry("mamba_ssm\\x.py"), "has letters"),
        (entry("mamba_ssm/\u0430.py"), "has letters"),
        (entry("mamba_ssm/x\n.py"), "has letters"),
        (entry("C:evil.py"), "has letters"),
        (entry("MAMBA_SSM/__init__.py"), "only by case"),
        (entry("mamba_ssm"), "is a file and a folder"),
        (entry("mamba_ssm/link", external_attr=(stat.S_IFLNK | 0o777) << 16), "is no plain file"),
        (entry("mamba_ssm/pipe", external_attr=(stat.S_IFIFO | 0o644) << 16), "is no plain file"),
        (entry("mamba_ssm/root", external_attr=(stat.S_IFREG | 0o4755) << 16), "is no plain file"),
        (entry("mamba_ssm/x.py", compress_type=zipfile.ZIP_LZMA), "is compressed by method 14"),
        (entry("mamba_ssm/x.py", compress_type=zipfile.ZIP_BZIP2), "is compressed by method 12"),
    ],
    ids=lambda value: value.filename if isinstance(value, zipfile.ZipInfo) else None,
)
def test_an_entry_that_tools_read_differently_is_refused(
    tmp_path: Path, info: zipfile.ZipInfo, reason: str
) -> None:
    path = ours(tmp_path, {"mamba_ssm/__init__.py": b""})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, b"x")
    found = findings(path)
    assert list(found) == ["archive"]
    assert reason in found["archive"].found


def test_an_archive_in_another_file_is_refused(tmp_path: Path) -> None:
    path = ours(tmp_path, {})
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    assert findings(path)["archive"].verdict == "fail"


def test_every_package_of_ours_has_a_list(tmp_path: Path) -> None:
    assert {item.package for item in contents().wheel} == {"causal-conv1d", "mamba-ssm"}
    assert "selective_scan_cpu" in owned_modules("mamba-ssm")
    assert owned_modules("some-thing") == ("some_thing",)
