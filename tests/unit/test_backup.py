"""The way back: every file of an environment before and after an installation that is undone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import write_tree, write_wheel

from mambaport.errors import InstallError
from mambaport.installing import previous
from mambaport.installing.backup import FOLDER, Backup
from mambaport.installing.footprint import footprint

SITE = "lib/python3.11/site-packages"
OLD = {
    f"{SITE}/demo/__init__.py": "old\n",
    f"{SITE}/demo/gone.py": "only in the old one\n",
    f"{SITE}/demo/__pycache__/__init__.cpython-311.pyc": "bytecode\n",
    f"{SITE}/demo/my_config.py": "the user's\n",
    f"{SITE}/single.py": "a module without a folder\n",
    f"{SITE}/__pycache__/single.cpython-311.pyc": "bytecode\n",
    f"{SITE}/demo-1.0.dist-info/METADATA": "Name: demo\nVersion: 1.0\n",
    f"{SITE}/demo-1.0.dist-info/RECORD": "demo/__init__.py,,\ndemo/gone.py,,\nsingle.py,,\n"
    "../../../bin/demo,,\n/etc/passwd,,\n../../../../outside,,\ndemo-1.0.dist-info/METADATA,,\ndemo-1.0.dist-info/RECORD,,\n",
    f"{SITE}/other/__init__.py": "not ours\n",
    f"{SITE}/light.py": "the user's own light.py\n",
    f"{SITE}/~emo/x.py": "the user's\n",
    f"{SITE}/~ther/x.py": "another pip's\n",
    f"{SITE}/easy-install.pth": "/somewhere\n",
    "bin/demo": "the old script\n",
    "bin/python": "python\n",
    "../outside": "not of the environment\n",
}
ENTRY_POINTS = (
    b"[console_scripts]\ndemo = demo:main\nDemoNew = demo:main\n[gui_scripts]\nwindow = demo:main\n"
)
NEW = {
    "demo/__init__.py": b"new\n",
    "demo/my_config.py": b"a wheel's\n",
    "demo/sub/deep.py": b"new\n",
    "fresh/__init__.py": b"new\n",
    "demo-2.0.data/scripts/tool": b"#!python\n",
    "demo-2.0.data/data/share/demo/x": b"x\n",
    "demo-2.0.dist-info/entry_points.txt": ENTRY_POINTS,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = write_tree(tmp_path / "env", OLD)
    (root / SITE / "demo/empty").mkdir()
    (root / SITE / "demo/link.py").symlink_to("gone.py")
    (root / SITE / "demo/folder").symlink_to("../other")
    (root / "bin/demo").chmod(0o755)
    return root


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    light = write_wheel(tmp_path / "wheels", {"light.py": b"a wheel's\n"}, name="light", tag="py3-none-any")
    return [write_wheel(tmp_path / "wheels", NEW, version="2.0", tag="py3-none-any"), light]


def everything(root: Path) -> dict[str, tuple[str, int, int] | str]:
    """Every path of the environment: content, mode and time of a file; target of a link; mode of a folder."""
    found: dict[str, tuple[str, int, int] | str] = {}
    for path in root.rglob("*"):
        stat = path.lstat()
        if path.is_symlink():
            found[str(path)] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[str(path)] = f"folder {stat.st_mode:o}"
        else:
            found[str(path)] = (path.read_bytes().decode("latin-1"), stat.st_mode, stat.st_mtime_ns)
    return found


def half_install(root: Path, until: int = 100) -> None:
    """What pip does until it is killed, in ``until`` steps of 9."""
    site = root / SITE
    steps: list[Callable[[], object]] = [
        lambda: (site / "demo").rename(site / "~-mo"),
        lambda: (site / "demo-1.0.dist-info").rename(site / "~emo-1.0.dist-info"),
        (root / "bin/demo").unlink,
        lambda: (site / "easy-install.pth").write_text("changed in place\n"),
        lambda: write_tree(site, {"demo/__init__.py": "new\n", "demo/my_config.py": "a wheel's\n"}),
        lambda: write_tree(site, {"fresh/__init__.py": "", "fresh/__pycache__/__init__.cpython-311.pyc": ""}),
        lambda: replace(site / "light.py", "a wheel's\n"),
        lambda: write_tree(
            root, {"bin/demo": "new\n", "bin/tool": "", "bin/DemoNew": "", "share/demo/x": ""}
        ),
        lambda: write_tree(
            site,
            {
                "demo-2.0.dist-info/direct_url.json": "",
                "light-1.0+cpu.1.dist-info/RECORD": "",
                "__pycache__/light.cpython-311.pyc": "",
            },
        ),
    ]
    for step in steps[:until]:
        step()


def replace(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
@pytest.mark.parametrize("until", range(10))
def test_every_file_is_put_back(
    root: Path, wheels: list[Path], monkeypatch: pytest.MonkeyPatch, until: int, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", lambda *_: os.link("missing", "missing"))
    before = everything(root)
    backup = Backup(root / SITE)
    backup.take(["demo"], footprint(root / SITE, wheels))
    assert backup.pending
    half_install(root, until)
    assert Backup(root / SITE).restore() == ["demo"]
    assert everything(root) == before
    assert (root.parent / "outside").read_text() == "not of the environment\n"


def test_a_restoration_that_was_killed_is_completed_by_the_next(root: Path, wheels: list[Path]) -> None:
    before = everything(root)
    count = len(footprint(root / SITE, wheels).kept)
    for moment in range(0, count + 1, 3):
        Backup(root / SITE).take(["demo"], footprint(root / SITE, wheels))
        half_install(root)
        words = [sys.executable, "-c", KILLED, str(root / SITE), str(moment)]
        assert subprocess.run(words, check=False).returncode in (0, -signal.SIGKILL)
        backup = Backup(root / SITE)
        if backup.pending:
            backup.restore()
        assert everything(root) == before


KILLED = """
import os, signal, sys
from pathlib import Path
import mambaport.installing.backup as module

put_back, left = module._put_back, [int(sys.argv[2])]

def kill(saved, path):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    put_back(saved, path)

module._put_back = kill
module.Backup(Path(sys.argv[1])).restore()
"""


def test_what_others_write_meanwhile_stays(root: Path, wheels: list[Path]) -> None:
    backup = Backup(root / SITE)
    backup.take(["demo"], footprint(root / SITE, wheels))
    others = {
        f"{SITE}/~other/x.py": "another pip's\n",
        f"{SITE}/another/x.py": "another package\n",
        f"{SITE}/~emo-3.txt": "the user's\n",
        "bin/another": "",
    }
    write_tree(root, others)
    backup.restore()
    assert all((root / name).read_text() == text for name, text in others.items())


def test_what_others_write_into_new_folders_after_a_kept_installation_stays(
    root: Path, wheels: list[Path]
) -> None:
    before = everything(root)
    backup = Backup(root / SITE)
    backup.take(["demo"], footprint(root / SITE, wheels))
    half_install(root)
    previous.keep(backup, ["demo"])
    others = {"share/jupyter/kernel.json": "another package\n", "share/demo/y": "another package\n"}
    write_tree(root, others)
    previous.go_back(root / SITE)
    assert {name: (root / name).read_text() for name in others} == others
    assert not (root / "share/demo/x").exists()
    shutil.rmtree(root / "share")
    assert everything(root) == before


def test_folders_that_a_kept_installation_has_made_are_removed_with_it(
    root: Path, wheels: list[Path]
) -> None:
    before = everything(root)
    backup = Backup(root / SITE)
    backup.take(["demo"], footprint(root / SITE, wheels))
    half_install(root)
    previous.keep(backup, ["demo"])
    write_tree(root / SITE, {"fresh/__pycache__/__init__.cpython-312.pyc": "of a later run\n"})
    previous.go_back(root / SITE)
    assert everything(root) == before


def test_a_dropped_backup_leaves_nothing_behind(root: Path, wheels: list[Path]) -> None:
    before = everything(root)
    backup = Backup(root / SITE)
    backup.take(["demo"], footprint(root / SITE, wheels))
    assert everything(root / SITE).keys() == {path for path in before if f"/{SITE}/" in path}
    backup.drop()
    assert everything(root) == before
    assert not backup.pending


def test_a_record_that_points_outside_is_not_followed(root: Path, wheels: list[Path]) -> None:
    found = footprint(root / SITE, wheels)
    assert all(path.is_relative_to(root) for path in (*found.kept, *found.new, *found.folders))


def test_a_backup_that_was_cut_off_before_its_journal_is_not_pending(root: Path, wheels: list[Path]) -> None:
    before = everything(root)
    write_tree(root / SITE / ".." / FOLDER / "files", {"0": "half"})
    backup = Backup(root / SITE)
    assert not backup.pending
    backup.take(["demo"], footprint(root / SITE, wheels))
    half_install(root)
    backup.restore()
    assert everything(root) == before


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 1}', '{"format": 2}', '{"format": 2, "names": 3}']
)
def test_a_damaged_journal_is_an_install_error(root: Path, wheels: list[Path], text: str) -> None:
    backup = Backup(root / SITE)
    backup.take(["demo"], footprint(root / SITE, wheels))
    backup.journal.write_text(text)
    with pytest.raises(InstallError, match="journal of an earlier installation cannot be read") as caught:
        backup.restore()
    assert str(backup.folder) in str(caught.value.hint)


def test_an_environment_that_was_moved_is_restored_where_it_is(root: Path, wheels: list[Path]) -> None:
    before = {path.removeprefix(str(root)) for path in everything(root)}
    Backup(root / SITE).take(["demo"], footprint(root / SITE, wheels))
    half_install(root)
    moved = root.rename(root.with_name("moved"))
    Backup(moved / SITE).restore()
    assert {path.removeprefix(str(moved)) for path in everything(moved)} == before
    assert not root.exists()


def test_a_full_disk_while_files_are_kept_changes_nothing(
    root: Path, wheels: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(root)

    def full(*_: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(OSError, match="No space"):
        Backup(root / SITE).take(["demo"], footprint(root / SITE, wheels))
    assert everything(root) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_environment_that_cannot_be_written_is_an_install_error(root: Path, wheels: list[Path]) -> None:
    (root / SITE).chmod(0o555)
    with pytest.raises(InstallError, match="cannot be written"):
        Backup(root / SITE).take(["demo"], footprint(root / SITE, wheels))
    shutil.rmtree(root, ignore_errors=True)
