"""The way back after a proven installation: `--keep-previous`, `--undo`, `--unless-installed`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import write_tree
from test_install import TORCH, packages, venv, wheels

from mambaport.errors import InstallError
from mambaport.installing import install_wheels, installed_already, undo
from mambaport.installing.backup import FOLDER, Backup
from mambaport.installing.previous import KEPT
from mambaport.interpreter import read_interpreter
from mambaport.profile import Profile, find_profile
from mambaport.report import Report
from mambaport.wheels import Wheel


@pytest.fixture
def profile() -> Profile:
    return find_profile("cpu").model_copy(
        update={"install": find_profile("cpu").install.model_copy(update={"requires": ()})}
    )


@pytest.fixture
def python(tmp_path: Path) -> Path:
    python = venv(tmp_path / "venv")
    write_tree(packages(python), TORCH)
    return python


def install(python: Path, items: list[Wheel], profile: Profile, keep: bool = True) -> None:
    target = read_interpreter(python, ["demo"])
    install_wheels(target, items, profile, lambda: None, Report(quiet=True), keep_previous=keep)


def go_back(python: Path) -> None:
    undo(read_interpreter(python, ["demo"]), Report(quiet=True))


def files(python: Path) -> dict[str, bytes]:
    root = python.parent.parent
    found = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in found
        if KEPT not in path.parts and path.suffix != ".pyc"
    }


@pytest.fixture
def two(tmp_path: Path, python: Path, profile: Profile) -> tuple[dict[str, bytes], list[Wheel]]:
    """Version 1 installed, then version 2, which is kept; the files of version 1, and the wheels of 2."""
    install(python, wheels(tmp_path, b"old = 1\n"), profile, keep=False)
    before = files(python)
    new = wheels(tmp_path, b"new = 1\n", "2.0+cpu.1")
    install(python, new, profile)
    return before, new


def test_undo_restores_every_file_and_then_there_is_nothing_to_undo(
    python: Path, two: tuple[dict[str, bytes], list[Wheel]]
) -> None:
    assert files(python) != two[0]
    go_back(python)
    assert files(python) == two[0]
    assert not list(packages(python).parent.glob(".mambaport-*"))
    with pytest.raises(InstallError, match="no installation to undo"):
        go_back(python)


def test_undo_of_a_first_installation_leaves_the_environment_without_the_wheels(
    python: Path, tmp_path: Path, profile: Profile
) -> None:
    before = files(python)
    install(python, wheels(tmp_path), profile)
    go_back(python)
    assert files(python) == before


def test_a_file_that_was_changed_after_the_installation_is_named_and_nothing_is_undone(
    python: Path, two: tuple[dict[str, bytes], list[Wheel]]
) -> None:
    (packages(python) / "demo/__init__.py").write_text("edited = 1\n")
    now = files(python)
    with pytest.raises(InstallError, match="changed after the installation") as caught:
        go_back(python)
    assert "demo/__init__.py" in str(caught.value.found)
    assert files(python) == now


def test_a_later_installation_that_keeps_nothing_has_no_way_back(
    python: Path, two: tuple[dict[str, bytes], list[Wheel]], tmp_path: Path, profile: Profile
) -> None:
    install(python, wheels(tmp_path, b"newer = 1\n", "3.0+cpu.1"), profile, keep=False)
    assert not (packages(python).parent / KEPT).exists()
    with pytest.raises(InstallError, match="no installation to undo"):
        go_back(python)


def test_a_way_back_that_was_interrupted_is_completed_by_the_next_call(
    python: Path, two: tuple[dict[str, bytes], list[Wheel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_backup: Backup) -> list[str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Backup, "restore", killed)
        with pytest.raises(KeyboardInterrupt):
            go_back(python)
    assert (packages(python).parent / FOLDER).is_dir()
    go_back(python)
    assert files(python) == two[0]


def test_damaged_marks_are_an_error_that_changes_nothing(
    python: Path, two: tuple[dict[str, bytes], list[Wheel]]
) -> None:
    now = files(python)
    for text in ("", "[]", "{", '{"files": [], "names": []}', '{"files": {"a": 1}, "names": []}'):
        (packages(python).parent / KEPT / "marks.json").write_text(text)
        with pytest.raises(InstallError, match="cannot be read"):
            go_back(python)
        assert files(python) == now


@pytest.mark.parametrize(
    ("damage", "content"), [("journal.json", None), ("journal.json", "{"), ("files/0", None)]
)
def test_a_damaged_way_back_is_an_error_that_changes_nothing(
    python: Path, two: tuple[dict[str, bytes], list[Wheel]], damage: str, content: str | None
) -> None:
    path = packages(python).parent / KEPT / damage
    path.unlink()
    if content is not None:
        path.write_text(content)
    before = files(python)
    with pytest.raises(InstallError):
        go_back(python)
    assert files(python) == before
    assert path.parent.is_dir()


def test_installed_already_means_every_file_of_the_wheels(
    python: Path, two: tuple[dict[str, bytes], list[Wheel]], tmp_path: Path, profile: Profile
) -> None:
    def same(items: list[Wheel]) -> bool:
        return installed_already(read_interpreter(python, ["demo"]), items, profile)

    assert same(two[1])
    assert not same(wheels(tmp_path, b"other = 1\n", "2.0+cpu.1"))
    os.truncate(packages(python) / "demo/__init__.py", 0)
    assert not same(two[1])
