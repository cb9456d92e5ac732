"""The store: finished things only, made once, whatever kills whom."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mambaport.building.compilations import check_compilations, compilations, record_compilations
from mambaport.seals import Seal
from mambaport.store import SEALED, Store

KEY = "demo-1.0"
# Makes one entry, and says so in files beside the store.
MAKER = textwrap.dedent("""
    import os, sys, time
    from pathlib import Path
    from mambaport.store import Store

    root, slow = Path(sys.argv[1]), sys.argv[2] == "slow"

    def build(folder):
        (folder / "part").write_text("half")
        with (root.parent / "built").open("a") as stream:
            stream.write(f"{os.getpid()}\\n")
        time.sleep(300 if slow else 0.3)
        (folder / "part").write_text("whole")

    print(Store(root).make("wheels", "demo-1.0", build))
""")


def maker(root: Path, *, slow: bool = False) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", MAKER, str(root), "slow" if slow else "quick"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not (path.is_file() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)


def fill(folder: Path) -> None:
    (folder / "part").write_text("whole")


def leftovers(store: Store) -> list[str]:
    folder = store.root / "scratch"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_an_entry_is_made_once_and_then_found(store: Store) -> None:
    assert store.get("wheels", KEY) is None
    path = store.make("wheels", KEY, fill)
    assert (path / "part").read_text() == "whole"
    assert store.get("wheels", KEY) == path

    def never(_folder: Path) -> None:
        raise AssertionError("made twice")

    assert store.make("wheels", KEY, never) == path
    assert leftovers(store) == []


def test_a_build_that_raises_leaves_nothing(store: Store) -> None:
    def broken(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError):
        store.make("wheels", KEY, broken)
    assert store.get("wheels", KEY) is None
    assert leftovers(store) == []
    assert store.make("wheels", KEY, fill).is_dir()


def test_an_entry_is_not_seen_before_it_is_finished(store: Store) -> None:
    def look(folder: Path) -> None:
        fill(folder)
        assert store.get("wheels", KEY) is None
        assert store.entries() == []

    assert store.make("wheels", KEY, look).is_dir()


@pytest.mark.parametrize(
    ("kind", "key"),
    [("other", KEY), ("wheels", "../x"), ("wheels", "a/b"), ("wheels", ""), ("wheels", ".hidden")],
)
def test_a_key_that_could_lead_elsewhere_is_refused(store: Store, kind: str, key: str) -> None:
    with pytest.raises(ValueError, match="not a store entry"):
        store.make(kind, key, fill)


def test_two_processes_that_want_one_entry_make_it_once(tmp_path: Path, store: Store) -> None:
    running = [maker(store.root) for _ in range(3)]
    answers = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert answers == {str(store.path("wheels", KEY))}
    assert len((tmp_path / "built").read_text().splitlines()) == 1
    assert leftovers(store) == []


def test_a_killed_build_leaves_scratch_that_the_next_run_sweeps(tmp_path: Path, store: Store) -> None:
    victim = maker(store.root, slow=True)
    wait_for(tmp_path / "built")
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert store.get("wheels", KEY) is None
    assert leftovers(store) != []
    assert (store.make("wheels", KEY, fill) / "part").read_text() == "whole"
    assert leftovers(store) == []


def test_the_scratch_of_a_living_process_is_left_alone(tmp_path: Path, store: Store) -> None:
    alive = maker(store.root, slow=True)
    try:
        wait_for(tmp_path / "built")
        (part,) = (store.root / "scratch").glob("*/entry/part")
        store.make("wheels", "other-1.0", fill)
        assert part.read_text() == "half"
    finally:
        alive.kill()
        alive.communicate()


def test_scratch_inside_scratch_does_not_sweep_the_outer_one(store: Store) -> None:
    with store.scratch() as outer:
        (outer / "x").write_text("x")
        with store.scratch() as inner:
            assert inner != outer
        assert (outer / "x").is_file()
    assert leftovers(store) == []


def test_a_discarded_entry_is_gone_and_can_be_made_again(store: Store) -> None:
    store.make("wheels", KEY, fill)
    store.discard("wheels", KEY)
    assert store.get("wheels", KEY) is None
    store.discard("wheels", KEY)  # no entry is no error
    assert store.make("wheels", KEY, fill).is_dir()
    assert leftovers(store) == []


def test_clearing_spares_the_log_of_what_is_being_made(tmp_path: Path, store: Store) -> None:
    store.make("wheels", "other-1.0", fill)
    alive = maker(store.root, slow=True)
    try:
        wait_for(tmp_path / "built")
        for name in (f"demo-1.0+cpu.1-{KEY[-8:]}.log", "other-1.0+cpu.1-12345678.log"):
            (store.logs / name).write_text("x")
        assert store.clear_logs() == 1
        assert [path.name for path in store.logs.iterdir()] == [f"demo-1.0+cpu.1-{KEY[-8:]}.log"]
        assert [path.name for path in (store.root / "locks").iterdir()] == [f"wheels-{KEY}.lock"]
    finally:
        alive.kill()
        alive.communicate()
    assert store.clear_logs() == 1
    assert not (store.root / "logs").exists()


def test_entries_are_listed_with_their_size_on_disk(store: Store) -> None:
    def large(folder: Path) -> None:
        (folder / "x").write_bytes(b"x" * 100_000)

    store.make("archives", "a" * 64, large)
    store.make("wheels", KEY, fill)
    entries = {(entry.kind, entry.key): entry.size for entry in store.entries()}
    assert set(entries) == {("archives", "a" * 64), ("wheels", KEY)}
    assert entries["archives", "a" * 64] >= 100_000


def test_folders_are_made_readable_by_others(store: Store) -> None:
    before = os.umask(0o022)
    try:
        assert store.make("wheels", KEY, fill).stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


ON_A_SMALL_DISK = textwrap.dedent("""
    import json, sys
    from pathlib import Path
    from mambaport.store import Store

    store = Store(Path(sys.argv[1]))
    try:
        store.make("wheels", "demo-1.0", lambda folder: (folder / "x").write_bytes(b"x" * (1 << 20)) and None)
    except OSError as fault:
        scratch = [path.name for path in (store.root / "scratch").iterdir()]
        print(json.dumps([fault.errno, [entry.key for entry in store.entries()], scratch]))
""")


def test_a_full_disk_leaves_no_half_entry(tmp_path: Path) -> None:
    words = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs -o size=256k tmpfs "$1" && shift && exec "$@"',
        "sh",
    ]
    if shutil.which("unshare") is None or subprocess.run([*words, tmp_path, "true"], check=False).returncode:
        pytest.skip("only root may mount a small disk")
    command = [sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path / "store")]
    finished = subprocess.run([*words, tmp_path, *command], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == f"[{errno.ENOSPC}, [], []]"


def test_a_large_entry_is_flushed_without_flushing_other_filesystems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def everything() -> None:
        raise AssertionError("os.sync writes every filesystem of the machine")

    def fill(folder: Path) -> None:
        for number in range(200):
            (folder / str(number)).write_text("x")

    monkeypatch.setattr(os, "sync", everything)
    entry = Store(tmp_path).make("archives", "many", fill)
    assert len(list(entry.iterdir())) == 200


def test_the_files_of_a_toolchain_have_one_time_of_change(store: Store) -> None:
    def fill(folder: Path) -> None:
        for number, name in enumerate(("one.h", "two.h")):
            (folder / name).write_text("#pragma once\n")
            os.utime(folder / name, (number, number))

    entry = store.make("toolchains", "headers", fill)
    assert len({path.stat().st_mtime_ns for path in entry.iterdir()}) == 1


def test_locks_are_removed_those_of_killed_processes_too(tmp_path: Path, store: Store) -> None:
    victim = maker(store.root, slow=True)
    wait_for(tmp_path / "built")
    locks = store.root / "locks"
    assert len(list(locks.iterdir())) == 1
    store.make("wheels", "other-1.0", fill)
    assert len(list(locks.iterdir())) == 1  # that of the running process
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    store.make("wheels", "third-1.0", fill)
    assert list(locks.iterdir()) == []


# Seals -------------------------------------------------------------------------------------------------


def planted(folder: Path) -> None:
    """A few files, a link, an empty folder and a program."""
    (folder / "lib/demo").mkdir(parents=True)
    (folder / "lib/demo/core.py").write_text("value = 1\n")
    (folder / "lib/empty").mkdir()
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    (folder / "link").symlink_to("run")


def swap_content(folder: Path) -> None:
    path = folder / "lib/demo/core.py"
    at = path.stat()
    time.sleep(0.02)  # longer than a tick of the file system's clock
    path.write_text("value = 2\n")  # the same length, and the old times: only ctime shows the change
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))


def append_line(folder: Path) -> None:
    with (folder / "lib/demo/core.py").open("a") as stream:
        stream.write("import os\n")


def retarget(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").symlink_to("lib")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a line appended": (append_line, "lib/demo/core.py (changed)"),
    "bytes swapped under the old times": (swap_content, "lib/demo/core.py (changed)"),
    "a file added": (
        lambda folder: (folder / "lib/sitecustomize.py").write_text(""),
        "sitecustomize.py (added)",
    ),
    "a file removed": (lambda folder: (folder / "run").unlink(), "run (removed)"),
    "a link to another place": (retarget, "link (changed)"),
    "a program made of a file": (lambda folder: (folder / "lib/demo/core.py").chmod(0o755), "(changed)"),
    "a file in place of a folder": (
        lambda folder: (
            (folder / "lib/empty").rename(folder / "gone")
            and shutil.copy(folder / "run", folder / "lib/empty")
        ),
        "lib/empty (changed)",
    ),
}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def sealing(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "store", changed=said.append)


@pytest.mark.parametrize("kind", SEALED)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_entry_is_made_again_and_said(
    sealing: Store, said: list[str], kind: str, change: str
) -> None:
    entry = sealing.make(kind, KEY, planted)
    assert sealing.get(kind, KEY) == entry
    assert said == []
    CHANGES[change][0](entry)
    assert sealing.get(kind, KEY) is None
    assert not entry.exists()
    (line,) = said
    assert CHANGES[change][1] in line
    assert "\n" not in line
    assert (sealing.make(kind, KEY, planted) / "lib/demo/core.py").read_text() == "value = 1\n"
    assert sealing.get(kind, KEY) == entry
    assert leftovers(sealing) == []


def test_make_alone_heals_too(sealing: Store, said: list[str]) -> None:
    entry = sealing.make("toolchains", KEY, planted)
    append_line(entry)
    assert (sealing.make("toolchains", KEY, planted) / "lib/demo/core.py").read_text() == "value = 1\n"
    assert len(said) == 1


def test_a_copied_store_is_whole_and_its_marks_are_renewed(sealing: Store, tmp_path: Path) -> None:
    sealing.make("sites", KEY, planted)
    said: list[str] = []
    copy = Store(shutil.copytree(sealing.root, tmp_path / "copy", symlinks=True), changed=said.append)
    seal = Seal(copy.root / "seals" / "sites" / KEY)
    assert not seal.unchanged(copy.path("sites", KEY))
    assert copy.get("sites", KEY) == copy.path("sites", KEY)
    assert seal.unchanged(copy.path("sites", KEY))
    assert said == []


@pytest.mark.parametrize(
    "text", [None, b"", b"x", b"x\n", b"x\n[]", b"x\n{", b"\xff\n{}", b"x\n" + b"[" * 99_999]
)
def test_an_entry_without_a_readable_seal_is_made_again(
    sealing: Store, said: list[str], text: bytes | None
) -> None:
    sealing.make("roots", KEY, planted)
    seal = sealing.root / "seals" / "roots" / KEY
    seal.unlink()
    if text is not None:
        seal.write_bytes(text)
    assert sealing.get("roots", KEY) is None
    assert len(said) == 1


def audit_again(folder: Path) -> None:
    (folder / "audit.json").write_text("{}")


def test_an_entry_that_mambaport_updates_stays_whole(sealing: Store, said: list[str]) -> None:
    entry = sealing.make("wheels", KEY, fill)
    sealing.update("wheels", KEY, audit_again)
    assert sealing.get("wheels", KEY) == entry
    assert said == []


def test_an_update_does_not_seal_a_changed_entry(sealing: Store, said: list[str]) -> None:
    entry = sealing.make("wheels", KEY, fill)
    (entry / "part").write_text("changed")
    sealing.update("wheels", KEY, audit_again)
    assert not entry.exists()
    assert len(said) == 1


def test_objects_of_the_compiler_cache_that_changed_are_removed(store: Store) -> None:
    folder = compilations(store)
    (folder / "0").mkdir(parents=True)
    for name in ("kept", "changed", "touched"):
        (folder / "0" / name).write_text("object")
    assert check_compilations(store) == []  # no record yet
    record_compilations(store)
    (folder / "0" / "changed").write_text("OBJECT")
    os.utime(folder / "0" / "touched")  # sccache does so when it reads an object
    (folder / "0" / "new").write_text("of a killed build")
    assert check_compilations(store) == ["0/changed"]
    assert sorted(path.name for path in (folder / "0").iterdir()) == ["kept", "new", "touched"]
    record_compilations(store)
    (folder / "0" / "new").write_text("no longer")
    assert check_compilations(store) == ["0/new"]
