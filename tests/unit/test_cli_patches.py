"""``mambaport patches`` and the options that choose releases, on a package from a mirror folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import member, read_tree, sha256, write_sdist, write_tree
from test_cli import AFTER, BEFORE, Demo, Run, demo, run

__all__ = ["demo", "run"]  # fixtures

MOVED = "# a new first line\n" + BEFORE
LINES = """
default = "first"
[[line]]
name = "first"
summary = "x"
releases = { demo = "1.0" }
[[line]]
name = "second"
summary = "x"
releases = { demo = "1.10" }
"""


@pytest.fixture
def newer(demo: Demo) -> Demo:
    """Two newer releases on the mirror: in 1.10 the patch moved, in 1.9.post1 it drifted."""
    for version, text in (("1.10", MOVED), ("1.9.post1", BEFORE.replace("line 12\n", "line XII\n"))):
        members = [member(f"demo-{version}/setup.py", text.encode(), mtime=1700000007)]
        write_sdist(demo.mirror / f"demo-{version}.tar.gz", members)
    return demo


def test_check_against_the_newest_release_says_where_hunks_moved(run: Run, newer: Demo) -> None:
    ran = run("patches", "check", "--against", "latest", "--mirror", newer.mirror, "--json")
    assert ran.code == 0
    (row,) = ran.json["patches"]
    assert (row["version"], row["verdict"]) == ("1.10", "moved")
    assert row["places"] == [{"file": "setup.py", "hunk": 1, "line": 7, "state": "moved", "at": 8}]
    ran = run("patches", "check", "--against", "latest", "--mirror", newer.mirror)
    assert "demo 1.10  1 moved" in ran.out
    assert "setup.py:7 moved to 8" in ran.out


def test_check_against_a_release_with_drift_exits_11_with_the_place(run: Run, newer: Demo) -> None:
    ran = run("patches", "check", "demo", "--against", "1.9.post1", "--mirror", newer.mirror, "--json")
    assert ran.code == 11
    (row,) = ran.json["patches"]
    assert (row["patch"], row["verdict"]) == ("0001-x.patch", "drifted")
    assert row["places"][0]["line"] == 7


def test_a_release_that_does_not_exist_is_refused_with_its_neighbour(run: Run, newer: Demo) -> None:
    ran = run("patches", "check", "demo", "--against", "1.9", "--mirror", newer.mirror, "--json")
    assert ran.code == 10
    assert ran.json["error"]["hint"] == "1.9.post1 exists"
    assert run("patches", "check", "--against", "1.9", "--mirror", newer.mirror).code == 2


def test_new_lays_the_ground_and_the_release_can_be_chosen(
    run: Run,
    tmp_path: Path,
    newer: Demo,
) -> None:
    words = ("patch", "-p", newer.profile, "--mirror", newer.mirror, "--json")
    profile = newer.profile.read_text().replace('version = "1.0", ', "")
    newer.profile.write_text(profile)
    write_tree(newer.root.parent, {"lines.toml": LINES})
    ran = run(*words, "-o", tmp_path / "none", "--with", "demo==1.10")
    assert ran.code == 2
    assert ran.json["error"]["expected"] == "one of: demo 1.0"

    ran = run("patches", "new", "latest", "-p", "demo", "--mirror", newer.mirror, "--json")
    assert (ran.code, ran.json["version"], ran.json["patches"][0]["verdict"]) == (0, "1.10", "moved")
    folder = newer.root / "releases/1.10"
    assert ran.json["written"] == [str(folder / "source.toml"), str(folder / "lock.json")]
    text = (folder / "source.toml").read_text()
    assert sha256((newer.mirror / "demo-1.10.tar.gz").read_bytes()) in text
    assert "epoch = 1700000007" in text
    assert '"1": 8' in (folder / "lock.json").read_text()
    assert run("patches", "check", "demo", "--mirror", newer.mirror).code == 0

    moved = AFTER.replace("line 1\n", "# a new first line\nline 1\n", 1)
    for number, choice in enumerate((("--with", "demo==1.10"), ("--line", "second"))):
        ran = run(*words, "-o", tmp_path / f"out-{number}", *choice)
        assert ran.code == 0
        assert read_tree(tmp_path / f"out-{number}/demo")["setup.py"] == moved
    ran = run(*words, "-o", tmp_path / "first")
    assert read_tree(tmp_path / "first/demo")["setup.py"] == AFTER

    ran = run("patches", "new", "1.10", "--mirror", newer.mirror, "--json")
    assert ran.code == 2
    assert "is laid already" in ran.json["error"]["what"]


def test_new_for_a_release_with_drift_writes_pins_and_no_lock(
    run: Run,
    tmp_path: Path,
    newer: Demo,
) -> None:
    ran = run("patches", "new", "1.9.post1", "--mirror", newer.mirror)
    assert ran.code == 0
    assert "demo 1.9.post1  1 drifted" in ran.out
    folder = newer.root / "releases/1.9.post1"
    assert [path.name for path in folder.iterdir()] == ["source.toml"]
    words = ("patch", "-p", newer.profile, "-o", tmp_path / "out", "--mirror", newer.mirror, "--json")
    ran = run(*words, "--with", "demo==1.9.post1")
    assert ran.code == 11
    assert "demo 1.9.post1 has no lock" in ran.json["error"]["what"]
    ran = run("patches", "check", "demo", "--mirror", newer.mirror, "--json")
    assert [row["verdict"] for row in ran.json["patches"]] == ["applies", "drifted"]


@pytest.mark.parametrize("word", ["demo", "demo==", "demo=1.0", "==1.0"])
def test_a_choice_of_another_form_exits_2(run: Run, demo: Demo, word: str) -> None:
    ran = run("fetch", "-p", demo.profile, "--with", word, "--offline", "--json")
    assert ran.code == 2


def test_a_package_named_twice_exits_2(run: Run, demo: Demo) -> None:
    words = ("fetch", "-p", demo.profile, "--with", "demo==1.0", "--with", "Demo==2.0", "--json")
    assert run(*words).json["error"]["found"] == "demo a second time"


def test_new_leaves_nothing_when_the_lock_cannot_be_made(run: Run, newer: Demo) -> None:
    members = [member("demo-1.11/setup.py", AFTER.encode(), mtime=1700000007)]  # the fix is upstream
    write_sdist(newer.mirror / "demo-1.11.tar.gz", members)
    for _ in range(2):
        ran = run("patches", "new", "1.11", "--mirror", newer.mirror, "--json")
        assert ran.code == 11
        assert "is already applied" in ran.json["error"]["what"]
        assert not (newer.root / "releases/1.11").exists()
    assert (newer.root / "releases").is_dir()
