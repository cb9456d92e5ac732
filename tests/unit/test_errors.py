"""Errors: one class and one exit code per kind, and plain data with --json."""

from __future__ import annotations

import ast
import json
from pathlib import Path

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


ERRORS = {
    name for name, item in vars(errors).items() if isinstance(item, type) and issubclass(item, Exception)
}


def test_every_error_says_what_to_do() -> None:
    """A patch author's quote the hunk, and a build's the log: these may stand without."""
    package = Path(errors.__file__).parent
    lacking = []
    for path in package.rglob("*.py"):
        if path.relative_to(package).parts[0] in ("building", "patching", "patchset.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
                continue
            named = {keyword.arg for keyword in node.keywords}
            if (
                node.func.id in {*ERRORS, "Refusal"}
                and not named & {"hint", None}
                and node.func.id != "Exception"
            ):
                lacking.append(f"{path.relative_to(package)}:{node.lineno}")
    assert not [item for item in lacking if not item.startswith("cli/__init__.py")]  # click's own messages
