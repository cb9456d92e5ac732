"""`make test-pythons`: which interpreters the arguments may name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "pythons.py"
_spec = importlib.util.spec_from_file_location("pythons", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
pythons = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pythons)


def program(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_a_path_and_a_name_on_path_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    python = Path(sys.executable)
    monkeypatch.setenv("PATH", str(python.parent))
    assert pythons.named([str(python), python.name]) == [python, python]
    assert pythons.named([]) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "is no program"),
        ("no text of a program", "no answer of a Python"),
        ("#!/bin/sh\necho hello", "is no CPython from 3.10 on: hello"),
        ("#!/bin/sh\necho cpython 3 9", "is no CPython from 3.10 on: cpython 3 9"),
        ("#!/bin/sh\necho pypy 3 11", "is no CPython from 3.10 on: pypy 3 11"),
        ("#!/bin/sh\nprintf '\\377'", "no answer of a Python"),
        ("#!/bin/sh\necho cpython x y", "is no CPython from 3.10 on: cpython x y"),
        ("#!/bin/sh\nexit 3", "no answer of a Python"),
    ],
)
def test_another_program_is_named_and_the_exit_code_is_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, reason: str
) -> None:
    path = str(tmp_path / "python") if text is None else program(tmp_path / "python", text)
    with pytest.raises(SystemExit) as caught:
        pythons.named([path])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error    {path} ")
    assert reason in message


def test_the_script_refuses_names_before_it_builds_anything() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "python3.99"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error    python3.99 is no program: name interpreters on PATH, or their paths\n"
