"""Reading patch files: plain unified diffs of files inside the tree, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import diff

from mambaport.errors import PatchError
from mambaport.patching.diff import read_patch

BEFORE = "".join(f"line {n}\n" for n in range(1, 31))
GOOD = diff("setup.py", BEFORE, BEFORE.replace("line 5\n", "five\n").replace("line 25\n", "25\n25.5\n"))


def refusal(tmp_path: Path, text: str | bytes) -> PatchError:
    path = tmp_path / "0001-x.patch"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PatchError, match=r"0001-x\.patch is refused") as caught:
        read_patch(path)
    return caught.value


def test_a_plain_diff_is_read_as_hunks_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "0001-x.patch"
    path.write_text(GOOD)
    (file,) = read_patch(path)
    assert file.name == "setup.py"
    assert [hunk.start for hunk in file.hunks] == [2, 22]
    assert file.hunks[0].before == tuple(f"line {n}" for n in range(2, 9))
    assert file.hunks[1].after[3:5] == ("25", "25.5")


def test_a_patch_may_change_several_files(tmp_path: Path) -> None:
    path = tmp_path / "0001-x.patch"
    path.write_text(GOOD + GOOD.replace("setup.py", "demo/setup.py"))
    assert [file.name for file in read_patch(path)] == ["setup.py", "demo/setup.py"]


def test_a_time_stamp_after_the_name_is_not_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "0001-x.patch"
    path.write_text(GOOD.replace("setup.py\n", "setup.py\t2024-01-01 00:00:00\n"))
    assert read_patch(path)[0].name == "setup.py"


@pytest.mark.parametrize(
    "name",
    ["a/../x", "a/demo/../../x", "a//etc/passwd", "/etc/passwd", "../x", "setup.py", "a/", "a/..\\x", ""],
)
def test_a_name_that_may_leave_the_tree_is_refused(tmp_path: Path, name: str) -> None:
    other = "b/" + name[2:] if name.startswith("a/") else name
    error = refusal(tmp_path, GOOD.replace("a/setup.py", name).replace("b/setup.py", other))
    assert "may leave the tree" in str(error.found)
    assert error.exit_code == 11


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ("diff --git a/setup.py b/setup.py\n", "a git header"),
        ("rename from setup.py\nrename to other.py\n", "a rename"),
        ("copy from setup.py\ncopy to other.py\n", "a copy"),
        ("old mode 100644\nnew mode 100755\n", "a mode change"),
        ("new file mode 100644\n", "a new file"),
        ("deleted file mode 100644\n", "a deleted file"),
        ("GIT binary patch\nliteral 4\nKcmZ\n", "binary content"),
        ("Binary files a/x.so and b/x.so differ\n", "binary content"),
        ("From 0123456 Mon Sep 17 00:00:00 2001\nSubject: [PATCH] x\n\n", "a mail header"),
        ("Subject: [PATCH] x\n\n", "a mail header"),
        ("A remark before the diff.\n", "where `--- a/<file>` should stand"),
        ("index 1234567..89abcde 100644\n", "where `--- a/<file>` should stand"),
    ],
)
def test_what_is_not_a_plain_diff_is_refused_by_kind(tmp_path: Path, head: str, kind: str) -> None:
    assert kind in str(refusal(tmp_path, head + GOOD).found)


def test_a_mail_signature_is_refused(tmp_path: Path) -> None:
    assert "a mail signature" in str(refusal(tmp_path, GOOD + "-- \n2.39.0\n").found)


def test_a_file_that_is_made_or_deleted_belongs_in_the_overlay(tmp_path: Path) -> None:
    made = "--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+x\n"
    gone = "--- a/old.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
    assert "overlay/" in str(refusal(tmp_path, made).found)
    assert "overlay/" in str(refusal(tmp_path, gone).found)
    assert "overlay/" in str(refusal(tmp_path, "--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+x\n").found)


def test_two_names_in_one_header_are_a_rename(tmp_path: Path) -> None:
    assert "a rename" in str(refusal(tmp_path, GOOD.replace("+++ b/setup.py", "+++ b/other.py")).found)


def test_line_endings_of_windows_are_refused_with_the_line(tmp_path: Path) -> None:
    error = refusal(tmp_path, GOOD.replace("+five\n", "+five\r\n"))
    assert "a carriage return" in str(error.found)
    assert f"line {GOOD[: GOOD.index('+five')].count(chr(10)) + 1}:" in str(error.found)


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    assert "not UTF-8" in str(refusal(tmp_path, GOOD.encode() + b"\xff\n").found)


@pytest.mark.parametrize("kept", range(1, GOOD.count("\n")))
def test_a_patch_cut_off_after_any_line_is_refused_or_is_whole_up_to_there(tmp_path: Path, kept: int) -> None:
    lines = GOOD.splitlines(keepends=True)
    second = next(n for n, line in enumerate(lines) if line.startswith("@@ -22"))
    if kept == second:  # exactly between two hunks: no reader can tell, the lock does
        path = tmp_path / "0001-x.patch"
        path.write_text("".join(lines[:kept]))
        assert len(read_patch(path)[0].hunks) == 1
        return
    refusal(tmp_path, "".join(lines[:kept]))


def test_a_patch_cut_off_in_a_line_is_refused(tmp_path: Path) -> None:
    assert "cut off" in str(refusal(tmp_path, GOOD[:-4]).found)
    refusal(tmp_path, "")
    refusal(tmp_path, "\n")


@pytest.mark.parametrize(
    "header",
    [
        "@@ -2,8 +2,7 @@",
        "@@ -2,6 +2,7 @@",
        "@@ -2,7 +2,6 @@",
        "@@ -2,7 +2,8 @@",
        "@@ -2 +2 @@",
        "@@ -x +2 @@",
    ],
)
def test_wrong_counts_in_a_hunk_are_refused(tmp_path: Path, header: str) -> None:
    refusal(tmp_path, GOOD.replace("@@ -2,7 +2,7 @@", header))


def _hunks() -> tuple[str, str, str]:
    first, second = GOOD.index("@@ -2"), GOOD.index("@@ -22")
    return GOOD[:first], GOOD[first:second], GOOD[second:]


def test_hunks_out_of_order_are_refused(tmp_path: Path) -> None:
    head, one, two = _hunks()
    assert "out of order" in str(refusal(tmp_path, head + two + one).found)


def test_hunks_that_overlap_are_refused(tmp_path: Path) -> None:
    head, one, _two = _hunks()
    assert "one over another" in str(
        refusal(tmp_path, head + one + one.replace("@@ -2,7 +2,7", "@@ -8,7 +8,7")).found
    )


def test_one_file_twice_in_a_patch_is_refused(tmp_path: Path) -> None:
    assert "the same file twice" in str(refusal(tmp_path, GOOD + GOOD).found)


def test_a_header_without_hunks_is_refused(tmp_path: Path) -> None:
    assert "no hunk" in str(refusal(tmp_path, "--- a/setup.py\n+++ b/setup.py\n").found)


def test_a_file_without_a_last_newline_is_refused(tmp_path: Path) -> None:
    text = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-one\n\\ No newline at end of file\n+two\n"
    refusal(tmp_path, text)
    refusal(tmp_path, "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n\\ No newline at end of file\n")
