"""The way back: an environment's packages before and after an installation that is undone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import read_tree, write_tree

from mambaport.errors import InstallError
from mambaport.installing.backup import FOLDER, Backup

OLD = {
    "demo/__init__.py": "old\n",
    "demo/gone.py": "only in the old one\n",
    "demo-1.0.dist-info/METADATA": "Name: demo\n",
    "demo-1.0.dist-info/RECORD": "demo/__init__.py,,\ndemo/gone.py,,\n../../bin/demo,,\n/etc/passwd,,\n"
    "demo-1.0.dist-info/METADATA,,\ndemo-1.0.dist-info/RECORD,,\n",
    "other/__init__.py": "not ours\n",
}
NEW = {"demo/__init__.py": "new\n", "demo-2.0.dist-info/RECORD": "demo/__init__.py,,\n"}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    write_tree(tmp_path / "bin", {"demo": "script\n"})
    return write_tree(tmp_path / "lib/site-packages", OLD)


def replace(site: Path) -> None:
    """What pip does when it puts another version there."""
    remove(site)
    write_tree(site, NEW)


def remove(site: Path) -> None:
    for name in (*OLD, *NEW):
        if not name.startswith("other"):
            (site / name).unlink(missing_ok=True)
    for folder in ("demo", "demo-1.0.dist-info", "demo-2.0.dist-info"):
        if (site / folder).is_dir():
            (site / folder).rmdir()


def test_what_was_there_is_put_back_byte_for_byte(site: Path) -> None:
    backup = Backup(site)
    backup.take({"demo": site / "demo-1.0.dist-info", "absent": None})
    assert backup.pending
    assert read_tree(site) == OLD  # with no file of mambaport's in it
    replace(site)
    removed: list[str] = []

    def uninstall(names: list[str]) -> None:
        removed.extend(names)
        remove(site)

    assert backup.restore(uninstall) == ["demo", "absent"]
    assert removed == ["demo", "absent"]
    assert read_tree(site) == OLD
    assert not backup.pending


def test_a_record_that_points_outside_is_not_followed(site: Path) -> None:
    Backup(site).take({"demo": site / "demo-1.0.dist-info"})
    folder = site.parent / FOLDER
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert "journal.json" in kept
    assert not any("bin/demo" in name or "passwd" in name for name in kept)


def test_a_dropped_backup_leaves_nothing_behind(site: Path) -> None:
    backup = Backup(site)
    backup.take({"demo": site / "demo-1.0.dist-info"})
    backup.drop()
    assert read_tree(site) == OLD
    assert not backup.pending


def test_a_backup_that_was_cut_off_before_its_journal_is_not_pending(site: Path) -> None:
    write_tree(site.parent / FOLDER / "files", {"demo/__init__.py": "half"})
    backup = Backup(site)
    assert not backup.pending
    backup.take({"demo": site / "demo-1.0.dist-info"})
    assert (site.parent / FOLDER / "files/demo/__init__.py").read_text() == "old\n"


@pytest.mark.parametrize("record", [None, ""])
def test_metadata_that_a_cut_off_installation_left_is_swept_before_pip_stumbles_over_it(
    site: Path, record: str | None
) -> None:
    backup = Backup(site)
    backup.take({"demo": site / "demo-1.0.dist-info"})
    remove(site)
    write_tree(site, {"demo-2.0.dist-info/METADATA": "Name: demo\n"})
    if record is not None:
        write_tree(site, {"demo-2.0.dist-info/RECORD": record})

    def uninstall(_names: list[str]) -> None:
        assert not (site / "demo-2.0.dist-info").exists()

    backup.restore(uninstall)
    assert read_tree(site) == OLD


def test_what_pip_renamed_while_it_worked_is_swept(site: Path) -> None:
    backup = Backup(site)
    backup.take({"demo": site / "demo-1.0.dist-info"})
    write_tree(site / "~emo", {"__init__.py": "half removed\n"})
    backup.restore(lambda _names: remove(site))
    assert not (site / "~emo").exists()


def test_folders_that_pip_renamed_for_other_packages_stay(site: Path) -> None:
    others = {"~ther/x.py": "another pip's\n", "~demo/x.py": "the user's\n", "~/x.py": "a folder ~\n"}
    others |= {"~ther-1.0.dist-info/RECORD": "", "~emos/x.py": "", "~emo2-1.0.dist-info/RECORD": ""}
    backup = Backup(site)
    backup.take({"demo": site / "demo-1.0.dist-info"})
    write_tree(site, others)
    half_removed = {"~-mo/x.py": "", "~emo/x.py": "", "~emo-2.0.dist-info/RECORD": "fresh/x.py,,\n"}
    write_tree(site, {**half_removed, "~resh/x.py": "only in the new version\n"})
    backup.restore(lambda _names: remove(site))
    assert read_tree(site) == {**OLD, **others}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_environment_that_cannot_be_written_is_an_install_error(site: Path) -> None:
    site.chmod(0o555)
    with pytest.raises(InstallError, match="cannot be written"):
        Backup(site).take({"demo": None})
