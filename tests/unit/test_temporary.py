"""Temporary files and folders: a killed process's are removed by the next one, a living process's never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from helpers import read_tree, write_tree

from mambaport.locking import lock_file, remove_unlocked
from mambaport.temporary import MARK, own_temporary_folder, sweep, temporary_file, temporary_folder

HOLDER = """
import sys, time
from pathlib import Path
from mambaport.temporary import own_temporary_folder, temporary_file, temporary_folder
root = Path(sys.argv[1])
with temporary_folder(root) as folder, temporary_file(root / "wheel.whl") as file, own_temporary_folder():
    (folder / "half").write_text("half")
    (root / "ready").write_text("ready")
    time.sleep(300)
"""
RACER = """
import os, sys
from pathlib import Path
from mambaport.temporary import temporary_file, temporary_folder
root = Path(sys.argv[1])
for number in range(100):
    with temporary_folder(root) as folder, temporary_file(root / "x") as file:
        (folder / "a").write_text("a")
        assert (folder / "a").read_text() == "a"
        file.write_text("whole")
        file.replace(root / f"{os.getpid()}-{number}")
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """A process that holds a folder and a file in ``tmp_path``."""
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], env=environ, text=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (tmp_path / "ready").unlink()
    return process


def test_what_a_process_holds_stays_and_what_a_killed_one_left_is_removed(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    try:
        with temporary_folder(tmp_path):
            pass
        assert len(list(tmp_path.iterdir())) == 3
        assert len(list(tmp_path.glob("*/half"))) == 1
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert len(list(tmp_path.iterdir())) == 3
    with temporary_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    files = {"a.part": "a", "scratch/x": "x", f"folder{MARK}.txt": "x", "outside/x": "x"}
    write_tree(victim, files)
    house = tmp_path / "house"
    house.mkdir()
    (house / f"link{MARK}").symlink_to(victim)
    os.mkfifo(house / "pipe")
    sweep(house)
    sweep(victim)
    assert read_tree(victim) == files
    assert {path.name for path in house.iterdir()} == {f"link{MARK}", "pipe"}


def test_names_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    target = tmp_path / ("ä" * 127)
    with temporary_file(target) as path:
        path.write_text("x")
        path.replace(target)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_file_that_was_not_renamed_is_removed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), temporary_file(tmp_path / "x") as path:
        raise RuntimeError(path)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_sweep_beside_each_other_remove_nothing_of_each_other(tmp_path: Path) -> None:
    racers = [subprocess.Popen([sys.executable, "-c", RACER, tmp_path]) for _ in range(4)]
    assert [racer.wait() for racer in racers] == [0] * 4
    assert len(list(tmp_path.iterdir())) == 400


def test_the_temporary_folder_of_libraries_is_ours_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with own_temporary_folder():
        handle, name = tempfile.mkstemp()
        os.close(handle)
        assert Path(name).parent.parent == tmp_path
    assert tempfile.tempdir == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_temporary_folder_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with own_temporary_folder():
        assert tempfile.tempdir == str(tmp_path / "missing")


LOCKER = """
import sys, time
from pathlib import Path
from mambaport.locking import lock_file
count = Path(sys.argv[2])
for _ in range(50):
    with lock_file(Path(sys.argv[1]), lambda: None):
        number = int(count.read_text())
        time.sleep(0.0005)
        count.write_text(str(number + 1))
"""


def test_one_process_at_a_time_has_the_lock_and_no_file_stays(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    words = [sys.executable, "-c", LOCKER, str(tmp_path / "x.lock"), str(count)]
    lockers = [subprocess.Popen(words) for _ in range(4)]
    while any(locker.poll() is None for locker in lockers):
        remove_unlocked(tmp_path / "x.lock")
        time.sleep(0.001)
    assert [locker.returncode for locker in lockers] == [0] * 4
    assert count.read_text() == "200"
    assert list(tmp_path.iterdir()) == [count]


def test_a_lock_that_is_held_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with lock_file(path, lambda: None):
        remove_unlocked(path)
        assert path.is_file()
    path.write_text("")
    remove_unlocked(path)
    assert not path.exists()
