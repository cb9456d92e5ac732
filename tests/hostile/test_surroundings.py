"""Builds and patched trees in odd environments: the same bytes as anywhere, or a named error.

Nothing stays behind, and nothing runs on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from surroundings import Surroundings, make_arena, surroundings
from tally import LENGTH, Tally
from test_kills import Board, board, share, shared, variables
from victims import be_subreaper, difference, digests, still_running

__all__ = ["board", "shared"]  # the fixtures
PROGRAM = "from mambaport.__main__ import main\nmain()\n"
CLOCK = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long offset(void) {
    static long value;
    struct timespec now;
    if (!value) {
        syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
        value = atol(getenv("CLOCK") ? getenv("CLOCK") : "0") - now.tv_sec;
    }
    return value;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int answer = syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += offset();
    return answer;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
"""


def test_build(board: Board, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    be_subreaper()
    arena = tmp_path / "arena"
    make_arena(arena)
    (arena / "clock.c").write_text(CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", arena / "clock.c", "-o", arena / "clock.so"], check=False)
    program = tmp_path / "mambaport"
    program.write_text(PROGRAM)
    trees = tmp_path / "trees"
    words = [sys.executable, program, "patch", "-p", board.profile, "--offline", "-o", trees]
    subprocess.run(words, env={**os.environ, "MAMBAPORT_CACHE": str(board.store)}, check=True)
    board = replace(
        board,
        trees=digests(trees, modes=False),
        house={name: f"0 {row.split()[-1]}" for name, row in board.house.items()},
    )
    tally = Tally("environments", request.config)
    every = {"short": 36, "": 2, "night": 1}[LENGTH]
    first, step = (int(part) for part in os.environ.get("MAMBAPORT_HOSTILE_PART", "0/1").split("/"))
    chosen = os.environ.get("MAMBAPORT_HOSTILE_ONLY", "")
    cases = [case for case in surroundings(arena) if chosen in case.name]
    for case in cases[first :: step if chosen else every * step]:
        (arena / "gone").mkdir(exist_ok=True)
        tally.add(case.name, *tried(case, board, program, tmp_path))
    tally.check()


def tried(case: Surroundings, board: Board, program: Path, tmp_path: Path) -> list[str]:
    """Builds in one environment. Returns what is wrong."""
    folder = tmp_path / "attack"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    settings = variables(folder)
    store, house = folder / (case.store or "store"), folder / case.house
    (folder / "new").mkdir()
    (folder / "real").mkdir()
    if case.store == "link":
        store.symlink_to(folder / "real")
    share(board.store, store)
    settings["MAMBAPORT_CACHE"] = str(store)
    for name, value in case.variables.items():
        if value is None:
            settings.pop(name, None)
        else:
            settings[name] = value
    what = "build" if case.builds else "patch"
    words = [sys.executable, str(program), what, "-p", str(board.profile), "--offline", "--json"]
    out, err = tmp_path / "out", tmp_path / "err"
    code = run([*words, f"--output={house}"], settings, case, out, err)
    return judge(case, board, code, out, err, store, house, folder)


def run(words: list[str], settings: dict[str, str], case: Surroundings, out: Path, err: Path) -> int | None:
    """The exit code; None for a command that does not end."""
    pid = os.fork()
    if pid == 0:
        try:
            handles = [os.open(os.devnull, os.O_RDONLY)]
            handles += [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) for path in (out, err)]
            for number, handle in enumerate(handles):
                os.dup2(handle, number)
            os.closerange(3, 200)
            os.chdir(out.parent / "attack")
            encoded = {os.fsencode(key): os.fsencode(value) for key, value in settings.items()}
            case.prepare()
            os.execve(words[0], [os.fsencode(word) for word in words], encoded)
        finally:
            os._exit(96)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return None


def judge(
    case: Surroundings,
    board: Board,
    code: int | None,
    out: Path,
    err: Path,
    store: Path,
    house: Path,
    folder: Path,
) -> list[str]:
    """What is wrong after a build."""
    text = err.read_text(errors="replace") + out.read_text(errors="replace")
    faults = [f"still runs: {row}" for row in still_running()]
    if code not in case.codes:
        faults.append(f"exit code {code} instead of {case.codes}: {text[-600:]}")
    if "Traceback" in text or "itself has failed" in text:
        faults.append(f"a traceback or a bug: {text[-900:]}")
    expected = board.house if case.builds else board.trees
    if code == 0 and (wrong := difference(digests(house, modes=False), expected)):
        faults.append(f"other bytes: {wrong}")
    if case.output and code in (0, 2, 10, 11, 12, 13):
        try:
            answer = json.loads(out.read_bytes())
        except ValueError:
            if code != 12 or "cannot be loaded" not in text:
                faults.append(f"no JSON on stdout: {out.read_bytes()[:200]!r}")
        else:
            if ("error" in answer) != (code != 0):
                faults.append(f"exit code {code}, and stdout says {answer}")
    left = [path for path in (store / "scratch", store / "locks", folder / "tmp") if path.is_dir()]
    faults += [f"stays: {path}" for place in left for path in list(place.iterdir())[:3]]
    return faults
