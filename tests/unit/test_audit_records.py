"""The audit of a wheel's own records: RECORD, METADATA, tags, names."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import rewrite_wheel, write_wheel, write_zip

from mambaport.auditing import Finding, audit_wheel, require
from mambaport.errors import AuditError
from mambaport.wheels import read_wheel

ANY = "py3-none-any"
INFO = "demo-1.0+cpu.1.dist-info"


def findings(path: Path) -> dict[str, Finding]:
    return {finding.rule: finding for finding in audit_wheel(read_wheel(path), None).findings}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_wheel(tmp_path, {"demo.py": b"x = 1\n", "demo/data.txt": b"data"}, tag=ANY)


def test_a_right_wheel_passes(good: Path) -> None:
    audit = audit_wheel(read_wheel(good), None)
    assert audit.ok
    require(audit)
    assert {rule: finding.verdict for rule, finding in findings(good).items()} == {
        "archive": "pass",
        "contents": "pass",
        "RECORD": "pass",
        "METADATA": "pass",
        "tag": "pass",
        "origin": "skip",
        "arch": "pass",
        "loading": "pass",
        "glibc": "pass",
        "needed": "pass",
        "platform": "pass",
    }
    data = audit.to_json()
    assert data["ok"] is True
    assert data["size"] == good.stat().st_size


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"demo.py": b"x = 2\n"}, "demo.py is not what RECORD says"),
        ({"demo.py": b"x = 1\n\n"}, "demo.py is not what RECORD says"),
        ({"demo.py": None}, "demo.py is in RECORD but not in the wheel"),
        ({"evil.pth": b"import os\n"}, "evil.pth is not in RECORD"),
        ({f"{INFO}/RECORD": None}, "no RECORD"),
        ({f"{INFO}/RECORD": b"demo.py,md5=abc,6\n"}, "demo.py has no strong digest"),
        ({f"{INFO}/RECORD": b"demo.py,sha256=abc,many\n"}, "demo.py is not what RECORD says"),
        ({f"{INFO}/RECORD": b"demo.py\n"}, "demo.py has no strong digest"),
    ],
)
def test_a_tampered_wheel_fails_on_its_record(
    good: Path, changes: dict[str, bytes | None], found: str
) -> None:
    finding = findings(rewrite_wheel(good, changes))["RECORD"]
    assert finding.verdict == "fail"
    assert found in finding.found


def test_a_file_that_stands_twice_fails(tmp_path: Path, good: Path) -> None:
    import zipfile

    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(good, "a") as archive:
        archive.writestr("demo.py", b"x = 1\n")
    assert "stands twice" in findings(good)["archive"].found


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ("Name: other\nVersion: 1.0+cpu.1\n", "the name is 'other'"),
        ("Name: demo\nVersion: 1.0\n", "the version is '1.0'"),
        ("Name: demo\nVersion: newest\n", "'newest' is not valid"),
        ("Summary: nothing\n", "the name is ''"),
    ],
)
def test_metadata_that_differs_from_the_file_name_fails(tmp_path: Path, metadata: str, found: str) -> None:
    finding = findings(write_wheel(tmp_path, {}, tag=ANY, metadata=metadata))["METADATA"]
    assert finding.verdict == "fail"
    assert found in finding.found


def test_a_wheel_without_metadata_fails(good: Path) -> None:
    path = rewrite_wheel(good, {f"{INFO}/METADATA": None, f"{INFO}/WHEEL": None})
    assert findings(path)["METADATA"].verdict == "fail"
    assert findings(path)["tag"].verdict == "fail"


def test_a_wheel_renamed_to_another_tag_fails(good: Path) -> None:
    renamed = good.rename(good.with_name(good.name.replace(ANY, "py3-none-linux_aarch64")))
    finding = findings(renamed)["tag"]
    assert finding.verdict == "fail"
    assert f"WHEEL says {ANY}" in finding.found
    assert "py3-none-linux_aarch64" in finding.expected


def test_purity_that_contradicts_the_tag_fails(tmp_path: Path) -> None:
    assert (
        "Root-Is-Purelib is False" in findings(write_wheel(tmp_path, {}, tag=ANY, purelib=False))["tag"].found
    )


@pytest.mark.parametrize(
    "folders",
    [[], ["demo-1.0.dist-info", "torch-2.9.1.dist-info"], ["torch-2.9.1.dist-info"], ["demo-1.0.DIST-INFO"]],
)
def test_anything_but_one_dist_info_fails(tmp_path: Path, folders: list[str]) -> None:
    path = write_zip(tmp_path / f"demo-1.0-{ANY}.whl", [(f"{name}/METADATA", b"") for name in folders])
    finding = findings(path)["records"]
    assert (finding.verdict, finding.expected) == ("fail", "demo-1.0.dist-info alone")


@pytest.mark.parametrize("kept", [0, 10, 200])
def test_a_truncated_wheel_is_an_audit_error(good: Path, kept: int) -> None:
    good.write_bytes(good.read_bytes()[:kept])
    with pytest.raises(AuditError, match="cannot be read") as caught:
        audit_wheel(read_wheel(good), None)
    assert caught.value.exit_code == 14


def test_records_that_are_not_text_are_an_audit_error(good: Path) -> None:
    with pytest.raises(AuditError, match="cannot be read"):
        audit_wheel(read_wheel(rewrite_wheel(good, {f"{INFO}/METADATA": b"\xff\xfe"})), None)


def test_a_refusal_names_every_failed_rule_with_what_was_expected(good: Path) -> None:
    path = rewrite_wheel(good, {"evil.py": b"", f"{INFO}/METADATA": b"Name: other\nVersion: 2\n"})
    with pytest.raises(AuditError) as caught:
        require(audit_wheel(read_wheel(path), None))
    assert "RECORD: " in str(caught.value.found)
    assert "METADATA: " in str(caught.value.found)
    assert "METADATA: demo 1.0+cpu.1" in str(caught.value.expected)


def test_provenance_and_sbom_together_are_the_origin(tmp_path: Path) -> None:
    one = {f"{INFO}/provenance.json": b"{}"}
    both = {**one, f"{INFO}/sboms/demo.cdx.json": b"{}"}
    assert findings(write_wheel(tmp_path / "one", one, tag=ANY))["origin"].verdict == "skip"
    assert findings(write_wheel(tmp_path / "both", both, tag=ANY))["origin"].verdict == "pass"
