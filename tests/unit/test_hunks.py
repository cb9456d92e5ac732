"""Where hunks stand: what real diffs make is found exactly, and nothing is found that is not there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import diff
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mambaport.patching.diff import FileDiff, read_patch
from mambaport.patching.hunks import place_all, show_drift

LINES = [f"line {n}" for n in range(1, 41)]


def read(folder: Path, before: list[str], after: list[str]) -> FileDiff:
    path = folder / "0001-x.patch"
    path.write_text(diff("x", "\n".join(before) + "\n", "\n".join(after) + "\n"), encoding="utf-8")
    return read_patch(path)[0]


def states(lines: list[str], file: FileDiff) -> list[str]:
    return [place.state for place in place_all([*lines, ""], file)[0]]


CHANGED = [*LINES[:4], "new", *LINES[4:19], "twenty", *LINES[20:]]

line = st.sampled_from(["", " ", "a", "b", "  a", "-", "+", "--- a/x", "@@ -1 +1 @@", "é"])
text = st.lists(line, min_size=1, max_size=30)


@pytest.mark.skipif(shutil.which("diff") is None, reason="no diff program here")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(before=text, after=text)
def test_what_diff_writes_is_read_and_gives_the_other_file(
    tmp_path: Path, before: list[str], after: list[str]
) -> None:
    assume(before != after)
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("\n".join(before) + "\n", encoding="utf-8")
    other.write_text("\n".join(after) + "\n", encoding="utf-8")
    finished = subprocess.run(
        ["diff", "-u", "--label", "a/x", "--label", "b/x", one, other], capture_output=True, check=False
    )
    path = tmp_path / "0001-x.patch"
    path.write_bytes(finished.stdout)
    (file,) = read_patch(path)
    places, result = place_all(one.read_text(encoding="utf-8").split("\n"), file)
    assert {place.state for place in places} == {"exact"}
    assert "\n".join(result) == other.read_text(encoding="utf-8")


def test_the_end_of_a_file_is_not_an_empty_line(tmp_path: Path) -> None:
    file = read(tmp_path, ["a"], ["a", ""])
    assert states(["a"], file) == ["exact"]
    assert states(["a", ""], file) == ["applied"]


def test_a_last_line_without_a_newline_is_not_the_line_of_a_patch(tmp_path: Path) -> None:
    file = read(tmp_path, ["a", "b"], ["a", "c"])
    assert [place.state for place in place_all(["a", "b"], file)[0]] == ["drifted"]


def test_each_hunk_of_a_patch_is_found_at_its_place(tmp_path: Path) -> None:
    file = read(tmp_path, LINES, CHANGED)
    assert len(file.hunks) == 2
    places, result = place_all([*LINES, ""], file)
    assert [place.state for place in places] == ["exact", "exact"]
    assert [place.line for place in places] == [2, 17]  # in the file as it is, without what the first adds
    assert result == [*CHANGED, ""]


def test_an_applied_patch_is_seen_as_applied(tmp_path: Path) -> None:
    assert states(CHANGED, read(tmp_path, LINES, CHANGED)) == ["applied", "applied"]


@pytest.mark.parametrize("after", [[*LINES, "more"], ["first", *LINES], LINES[:-1], LINES[1:]])
def test_a_patch_of_the_first_or_last_lines_is_seen_as_applied(tmp_path: Path, after: list[str]) -> None:
    file = read(tmp_path, LINES, after)
    assert states(LINES, file) == ["exact"]
    assert states(after, file) == ["applied"]


def test_moved_lines_are_found_where_they_are(tmp_path: Path) -> None:
    file = read(tmp_path, LINES, CHANGED)
    places, result = place_all(["# a new first line", *LINES, ""], file)
    assert [(place.state, place.line) for place in places] == [("moved", 3), ("moved", 18)]
    assert result == ["# a new first line", *CHANGED, ""]


def test_a_hunk_whose_lines_stand_twice_is_not_taken_for_the_shift_of_an_earlier_one(tmp_path: Path) -> None:
    block = [f"same {n}" for n in range(7)]
    before = ["first", *(f"a {n}" for n in range(9)), *block]
    file = read(tmp_path, before, ["1st", *before[1:13], "changed", *before[14:]])
    assert states(["new", *before, ""], file) == ["moved", "moved"]
    assert states(["new", *before, "end", *block, ""], file) == ["moved", "drifted"]


def test_lines_that_stand_in_two_places_are_not_guessed(tmp_path: Path) -> None:
    block = [f"same {n}" for n in range(7)]
    lines = ["top", *block, "middle", *block, "end"]
    file = read(tmp_path, [*block], [*block[:3], "changed", *block[4:]])
    assert states(lines, file) == ["drifted"]


@pytest.mark.parametrize("number", range(2, 9))
def test_one_changed_line_anywhere_in_a_hunk_is_drift(tmp_path: Path, number: int) -> None:
    file = read(tmp_path, LINES, [*LINES[:4], "five", *LINES[5:]])
    lines = [*LINES]
    lines[number - 1] += " "
    assert states(lines, file) == ["drifted"]


def test_a_changed_line_outside_a_hunk_does_not_matter(tmp_path: Path) -> None:
    file = read(tmp_path, LINES, [*LINES[:4], "five", *LINES[5:]])
    assert states([*LINES[:30], "other", *LINES[31:]], file) == ["exact"]


def test_drift_is_shown_as_expected_and_found_lines(tmp_path: Path) -> None:
    file = read(tmp_path, LINES, CHANGED)
    lines = [*LINES[:2], "LINE 3", *LINES[3:], ""]
    shown = show_drift(lines, file.hunks[0], 2).splitlines()
    assert "-line 3" in shown
    assert "+LINE 3" in shown
    assert "-line 4" not in shown


def test_a_file_shorter_than_the_hunk_is_drift(tmp_path: Path) -> None:
    assert set(states(LINES[:3], read(tmp_path, LINES, CHANGED))) == {"drifted"}


REPEATED = [f"same {n}" for n in range(7)]
TWO_HUNKS = ["first", *(f"a {n}" for n in range(9)), *REPEATED]
TWO_HUNKS_AFTER = ["1st", *TWO_HUNKS[1:13], "changed", *TWO_HUNKS[14:]]


def test_after_a_moved_hunk_the_lines_at_the_hunks_own_line_are_not_taken_for_those_that_moved(
    tmp_path: Path,
) -> None:
    """Ten lines above: the second hunk's lines now stand ten lines lower, and a copy stands at its line."""
    file = read(tmp_path, TWO_HUNKS, TWO_HUNKS_AFTER)
    lines = [*(f"new {n}" for n in range(5)), *TWO_HUNKS[:5], *REPEATED, *TWO_HUNKS[5:10], *REPEATED, ""]
    own = file.hunks[1].start - 1
    assert lines[own : own + 7] == REPEATED
    places, result = place_all(lines, file)
    assert [place.state for place in places] == ["moved", "drifted"]
    assert "changed" not in result


def test_after_a_moved_hunk_lines_with_one_place_are_found_at_any_line(tmp_path: Path) -> None:
    file = read(tmp_path, TWO_HUNKS, TWO_HUNKS_AFTER)
    lines = ["new", *TWO_HUNKS[:5], *TWO_HUNKS[6:], ""]  # a line more above, a line less between
    places, result = place_all(lines, file)
    assert [(place.state, place.line) for place in places] == [("moved", 2), ("exact", 11)]
    assert result == ["new", *TWO_HUNKS_AFTER[:5], *TWO_HUNKS_AFTER[6:], ""]


def test_a_hunk_at_its_line_above_the_hunk_before_is_drift(tmp_path: Path) -> None:
    file = read(tmp_path, TWO_HUNKS, TWO_HUNKS_AFTER)
    lines = [*(f"new {n}" for n in range(10)), *REPEATED, *TWO_HUNKS[:10], ""]
    assert lines[file.hunks[1].start - 1 :][:7] == REPEATED
    assert states(lines[:-1], file) == ["moved", "drifted"]
