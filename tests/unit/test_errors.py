"""Errors: one class and one exit code per kind, and plain data with --json."""

from __future__ import annotations

import json

import pytest

from mambaport import errors
from mambaport.errors import MambaportError, PatchError


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("UsageError", 2),
        ("FetchError", 10),
        ("PatchError", 11),
        ("HostError", 12),
        ("BuildError", 13),
        ("AuditError", 14),
        ("InstallError", 15),
        ("VerifyError", 16),
        ("Interrupted", 130),
    ],
)
def test_each_kind_has_its_documented_exit_code(kind: str, code: int) -> None:
    error = getattr(errors, kind)("What went wrong")
    assert isinstance(error, MambaportError)
    assert error.exit_code == code
    assert error.to_json()["exit_code"] == code


def test_an_error_as_data_has_what_it_knows_and_nothing_empty() -> None:
    error = PatchError("x does not match", found="a", hint="c")
    expected = {"kind": "patch", "what": "x does not match", "found": "a", "hint": "c", "exit_code": 11}
    assert json.loads(json.dumps(error.to_json())) == expected
    assert str(error) == "x does not match"


def test_a_full_disk_is_the_machines_fault_and_says_how_to_go_on() -> None:
    error = errors.disk_full("the store")
    assert error.exit_code == 12
    assert "the store" in str(error.found)
    assert "MAMBAPORT_CACHE" in str(error.hint)
