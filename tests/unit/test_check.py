"""How a series stands against another version of its source."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import diff, read_tree, write_set, write_tree

from mambaport.patching import check_against
from mambaport.patchset import PatchSet

ONE = "".join(f"one {n}\n" for n in range(1, 31))
FIRST = ONE.replace("one 4\n", "one four\n")
SECOND = FIRST.replace("one 5\n", "one five\n")
THIRD = SECOND.replace("one 25\n", "one twenty-five\n")


@pytest.fixture
def series(tmp_path: Path) -> PatchSet:
    patches = {
        "0001-first.patch": diff("x.py", ONE, FIRST),
        "0002-second.patch": diff("x.py", FIRST, SECOND),
        "0003-third.patch": diff("x.py", SECOND, THIRD),
    }
    return write_set(tmp_path / "patches/demo/cpu", patches)


def verdicts(tmp_path: Path, text: str, series: PatchSet) -> list[str]:
    tree = write_tree(tmp_path / "tree", {"x.py": text})
    found: list[str] = [state.verdict for state in check_against(tree, [series])]
    assert read_tree(tree) == {"x.py": text}
    return found


def test_the_pinned_source_applies_and_each_patch_sees_the_one_before(
    tmp_path: Path, series: PatchSet
) -> None:
    assert verdicts(tmp_path, ONE, series) == ["applies", "applies", "applies"]


def test_what_upstream_took_in_is_told_from_what_still_applies(tmp_path: Path, series: PatchSet) -> None:
    assert verdicts(tmp_path, FIRST, series) == ["upstream", "applies", "applies"]
    assert verdicts(tmp_path, THIRD, series)[-1] == "upstream"


def test_moved_lines_are_told_with_both_places(tmp_path: Path, series: PatchSet) -> None:
    tree = write_tree(tmp_path / "tree", {"x.py": "# new\n" + ONE})
    states = check_against(tree, [series])
    assert [state.verdict for state in states] == ["moved", "moved", "moved"]
    assert states[0].where == "x.py:1 moved to 2"


def test_a_drifted_patch_is_told_with_its_place_and_does_not_hide_later_ones(
    tmp_path: Path, series: PatchSet
) -> None:
    tree = write_tree(tmp_path / "tree", {"x.py": ONE.replace("one 2\n", "one two\n")})
    states = check_against(tree, [series])
    assert [state.verdict for state in states] == ["drifted", "drifted", "applies"]
    assert states[0].where == "x.py:1 drifted"


def test_a_fix_that_upstream_has_in_other_words_is_already_upstream_from_its_release_on(
    tmp_path: Path,
) -> None:
    item = write_set(tmp_path / "patches/demo/cpu", {"0001-fix.patch": diff("x.py", ONE, FIRST)})
    series = item.folder / "patchset.toml"
    series.write_text(series.read_text() + 'upstream = "1.2"\n')
    tree = write_tree(tmp_path / "tree", {"x.py": ONE.replace("one 4\n", "one: 4\n")})
    found = {
        version: check_against(tree, [PatchSet(item.folder)], version)[0].verdict
        for version in ("1.1", "1.2", "1.10")
    }
    assert found == {"1.1": "drifted", "1.2": "upstream", "1.10": "upstream"}


def test_a_patch_that_is_not_for_the_release_is_left_out_and_not_applied(tmp_path: Path) -> None:
    patches = {"0001-old.patch": diff("x.py", ONE, FIRST), "0002-next.patch": diff("x.py", ONE, FIRST)}
    item = write_set(tmp_path / "patches/demo/cpu", patches)
    path = item.folder / "patchset.toml"
    path.write_text(path.read_text().replace("[[patch]]", '[[patch]]\nreleases = "<2"', 1))
    tree = write_tree(tmp_path / "tree", {"x.py": ONE})
    found = check_against(tree, [PatchSet(item.folder, "2.0")], "2.0")
    assert [(state.patch, state.verdict) for state in found] == [("0002-next.patch", "applies")]
    found = check_against(tree, [PatchSet(item.folder, "1.0")], "1.0")
    assert [state.verdict for state in found] == ["applies", "upstream"]


def test_an_appending_patch_that_upstream_has_is_already_upstream(tmp_path: Path) -> None:
    item = write_set(tmp_path / "patches/demo/end", {"0001-end.patch": diff("x.py", ONE, ONE + "more\n")})
    assert verdicts(tmp_path, ONE + "more\n", item) == ["upstream"]


def test_a_file_that_is_gone_is_drift(tmp_path: Path, series: PatchSet) -> None:
    tree = write_tree(tmp_path / "tree", {"y.py": ONE})
    (state, *_) = check_against(tree, [series])
    assert (state.verdict, state.where) == ("drifted", "x.py: no such file")


def test_a_patch_of_a_file_that_a_lower_set_overlays_is_checked_against_it(tmp_path: Path) -> None:
    lower = write_set(tmp_path / "patches/demo/low", {}, {"new.py": ONE})
    upper = write_set(
        tmp_path / "patches/demo/up", {"0001-x.patch": diff("new.py", ONE, FIRST)}, needs=["low"]
    )
    states = check_against(write_tree(tmp_path / "tree", {"x.py": ""}), [lower, upper])
    assert [state.verdict for state in states] == ["applies"]
