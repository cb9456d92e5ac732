"""What goes wrong on real machines: kills, interrupts, two at once, no index, a full disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from real import (
    command,
    digests,
    ended,
    environment,
    mambaport,
    reach,
    scratch,
    sha256,
    started,
    store_beside,
)

pytestmark = pytest.mark.network
BROKEN_COMPILER = """#!/bin/sh
[ "$1" = --version ] && echo broken 1.0 && exit 0
echo no room for code >&2
exit 1
"""
# Waits for ever at a step, each time or the first time alone.
WAITING_COMPILER = """#!/bin/sh
case "$*" in *"{step}"*) [ -e "{mark}" ] || {{ {before} exec sleep 600; }} ;; esac
exec gcc "$@"
"""
# The command, with a short time until a build counts as standing still.
IMPATIENT = """
import sys
from mambaport.building import build
build.STALLED_SECONDS = 4.0
from mambaport.__main__ import main
sys.exit(main())
"""


def found(store: Path, pattern: str) -> Callable[[], bool]:
    return lambda: any(store.glob(pattern))


def compiling(store: Path) -> bool:
    return any("files to compile" in path.read_text(errors="replace") for path in store.glob("logs/*.log"))


def whole(store: Path) -> None:
    """Every entry of the store is a finished one."""
    for path in (store / "archives").glob("*/*"):
        assert sha256(path) == path.parent.name
    for entry in (store / "wheels").glob("*"):
        assert (entry / "audit.json").is_file()
    for entry in (store / "environments").glob("*"):
        assert (entry / "bin" / "python").exists()


def processes_in(folder: Path) -> list[int]:
    """Processes that work inside a folder."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink().is_relative_to(folder):
                pids.append(int(entry.name))
        except OSError:
            continue
    return pids


def test_killed_in_every_stage_a_plain_rerun_gives_the_same_wheel(
    board: Path, board_wheels: Any, mirror: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    words = ("build", "-p", board, "--mirror", mirror, "-o", tmp_path / "house")
    moments = {
        "fetching": found(store, "scratch/*/entry/*"),
        "making the build environment": found(store, "scratch/*/entry/lib/python3*"),
        "unpacking": found(store, "scratch/*/src"),
        "patching": found(store, "scratch/*/src-patching-*"),
        "compiling": lambda: compiling(store),
        "packing": found(store, "scratch/*/opened"),
    }
    for moment in moments.values():
        victim = started(store, *words)
        reach(victim, moment)
        victim.kill()
        ended(victim)
        whole(store)
        assert not list((store / "wheels").glob("*"))
        assert not (tmp_path / "house").exists()
        for log in store.glob("logs/*.log"):
            log.unlink()
    answer = mambaport(store, *words).good()
    assert digests(answer) == digests(board_wheels)
    assert scratch(store) == []


def test_killed_while_the_toolchain_is_unpacked_a_rerun_unpacks_it_whole(
    arm_board: Path, shared: Path, mirror: Path, tmp_path: Path
) -> None:
    store = store_beside(shared, tmp_path, "archives", "environments")
    words = ("build", "-p", arm_board, "--toolchain", "zig", "--mirror", mirror, "-o", tmp_path / "house")
    victim = started(store, *words)
    reach(victim, found(store, "scratch/*/entry/ziglang/lib/*"))
    victim.kill()
    ended(victim)
    assert not list(store.glob("toolchains/*"))
    assert mambaport(store, *words).good()["wheels"][0]["audit"]["ok"]
    (ours,), (theirs,) = store.glob("toolchains/ziglang-*"), (shared / "toolchains").glob("ziglang-*")
    count = [sum(1 for _ in folder.rglob("*")) for folder in (ours, theirs)]
    assert count[0] == count[1]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for the name of the compiler cache's socket."""
    with TemporaryDirectory(prefix="mp-", dir="/tmp") as folder:
        yield Path(folder)


def append(path: Path, text: str) -> None:
    with path.open("a") as stream:
        stream.write(text)


def test_a_changed_store_does_not_reach_the_next_wheel(
    board: Path, board_wheels: Any, mirror: Path, tmp_path: Path, short_folder: Path
) -> None:
    """A line appended to the stored setuptools could put a file into every wheel."""
    store = short_folder / "store"
    words = ("build", "-p", board, "--mirror", mirror, "-o", tmp_path / "house")
    assert digests(mambaport(store, *words).good()) == digests(board_wheels)
    shutil.rmtree(store / "wheels")
    (backend,) = store.glob("environments/*/lib/python3*/site-packages/setuptools/build_meta.py")
    marker = tmp_path / "reached"
    append(backend, f"\nopen({str(marker)!r}, 'w').close()\n")
    objects = [path for path in (store / "compilations").rglob("*") if path.is_file()]
    for path in objects:
        append(path, "more")
    ran = mambaport(store, *words)
    assert digests(ran.good()) == digests(board_wheels)
    assert not marker.exists()
    said = [line for line in ran.err.splitlines() if line.startswith("warning")]
    assert "setuptools/build_meta.py (changed)" in said[0]
    assert said[0].endswith("it is made again")
    assert sum("compilations/" in line for line in said) == len(objects) > 0
    assert mambaport(store, *words).good()["wheels"][0]["cached"]


def test_two_builds_at_once_make_one_wheel(
    board: Path, board_wheels: Any, shared: Path, tmp_path: Path
) -> None:
    store = store_beside(shared, tmp_path, "archives", "environments", "toolchains")
    house = tmp_path / "house"
    both = [started(store, "build", "-p", board, "-o", house) for _ in range(2)]
    ran = [ended(process) for process in both]
    answers = [item.good() for item in ran]
    assert digests(answers[0]) == digests(answers[1]) == digests(board_wheels)
    # "build NAME VERSION  TOOLCHAIN, SECONDS" ends a build; "build NAME VERSION: SECONDS" is progress.
    assert sum(len(re.findall(r"^build +\S+ [^\s:]+ ", item.err, re.M)) for item in ran) == 1
    assert len(list(store.glob("wheels/*"))) == 1
    assert [path.name for path in house.iterdir()] == list(digests(board_wheels))
    assert scratch(store) == []


def test_ctrl_c_exits_130_and_leaves_nothing_half_done_or_running(
    board: Path, shared: Path, tmp_path: Path
) -> None:
    store = store_beside(shared, tmp_path, "archives", "environments", "toolchains")
    words = ("build", "-p", board, "-o", tmp_path / "house")
    process = started(store, *words)
    reach(process, lambda: compiling(store))
    process.send_signal(signal.SIGINT)
    ran = ended(process)
    assert ran.code == 130
    assert ran.json["error"]["kind"] == "interrupted"
    assert "Traceback" not in ran.err
    assert scratch(store) == []
    assert not list(store.glob("wheels/*"))
    deadline = time.monotonic() + 10
    while processes_in(store) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_in(store) == []


def test_an_index_that_cannot_be_reached_exits_10_with_the_ways_on(tmp_path: Path) -> None:
    ran = mambaport(tmp_path / "store", "fetch", "-p", "rpi", "--index-url", "http://127.0.0.1:9/simple/")
    assert ran.code == 10
    error = ran.json["error"]
    assert "cannot be reached" in error["what"]
    assert "--mirror" in error["hint"]
    assert "--offline" in error["hint"]
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("size", ["16k", "2m"])
def test_a_full_disk_exits_12_with_the_mend_and_no_half_entry(
    board: Path, mirror: Path, tmp_path: Path, size: str
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", small], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("only root may mount a small disk")
    try:
        store = small / "store"
        ran = mambaport(store, "build", "-p", board, "--mirror", mirror, "-o", tmp_path / "house")
        assert ran.code == 12, ran.err
        assert "disk is full" in ran.json["error"]["what"]
        assert "MAMBAPORT_CACHE" in ran.json["error"]["hint"]
        assert "Traceback" not in ran.err
        assert scratch(store) == []
        whole(store)
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_build_that_fails_exits_13_and_quotes_its_log(board: Path, shared: Path, tmp_path: Path) -> None:
    store = store_beside(shared, tmp_path, "archives", "environments", "toolchains")
    folder = tmp_path / "bin"
    folder.mkdir()
    fake = folder / "cc"
    fake.write_text(BROKEN_COMPILER)
    fake.chmod(0o755)
    variables = {"PATH": f"{folder}:{os.environ['PATH']}", "CC": ""}
    words = ("build", "-p", board, "--toolchain", "native", "-o", tmp_path / "house")
    ran = mambaport(store, *words, **variables)
    assert ran.code == 13
    assert "no room for code" in ran.json["error"]["detail"]
    (log,) = store.glob("logs/*.log")
    assert str(log) in ran.json["error"]["hint"]
    assert "no room for code" in log.read_text()
    assert scratch(store) == []


@pytest.mark.parametrize(
    ("step", "always"),
    [
        ("-shared", False),
        ("-shared", True),
        ("conv_base.o", False),  # a compiler that the compiler cache's server has started
    ],
)
def test_a_build_that_stands_still_is_started_again_once(
    board: Path, shared: Path, tmp_path: Path, step: str, always: bool
) -> None:
    """As zig's linker did once, of thousands of times."""
    store = store_beside(shared, tmp_path, "archives", "environments", "toolchains")
    folder = tmp_path / "bin"
    folder.mkdir()
    mark = folder / "mark"
    compiler = folder / "gcc-that-waits"
    compiler.write_text(
        WAITING_COMPILER.format(step=step, mark=mark, before="" if always else f"touch {mark};")
    )
    compiler.chmod(0o755)
    words = command("build", "-p", board, "--toolchain", "native", "-o", tmp_path / "house")
    one_core = [taskset, "-c", "0"] if (taskset := shutil.which("taskset")) else []  # the server's jobs: one
    done = subprocess.run(
        [*one_core, words[0], "-c", IMPATIENT, *words[3:]],
        env=environment(store, CC=str(compiler)),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.stderr.count("stood still, and is started again") == 1, done.stderr
    answer = json.loads(done.stdout)
    if always:
        assert done.returncode == 13
        assert "stood still twice" in answer["error"]["what"]
        assert "--jobs 1" in answer["error"]["hint"]
    else:
        assert done.returncode == 0, done.stderr
        assert [Path(wheel["path"]).is_file() for wheel in answer["wheels"]] == [True]
    assert scratch(store) == []
    assert processes_in(store) == []
