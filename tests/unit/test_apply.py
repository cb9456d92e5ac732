"""Applying sets: exactly, whole or not at all; patch-ng's own leniency never shows."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import patch_ng
import pytest
from helpers import diff, lock, read_tree, write_set, write_tree

from mambaport.errors import PatchError
from mambaport.patching import apply_sets, refresh_checkout_lock
from mambaport.patching.apply import lock_of
from mambaport.patchset import PatchSet

ONE = "".join(f"one {n}\n" for n in range(1, 21))
TWO = "".join(f"two {n}\n" for n in range(1, 21))
ONE_AFTER = ONE.replace("one 4\n", "one four\n").replace("one 16\n", "one sixteen\nand more\n")
TWO_AFTER = TWO.replace("two 10\n", "")
FILES = {"setup.py": ONE, "demo/core.py": TWO, "README": "read\n"}
PATCHES = {
    "0001-one.patch": diff("setup.py", ONE, ONE_AFTER),
    "0002-two.patch": diff("demo/core.py", TWO, TWO_AFTER),
}
OVERLAY = {"demo/extra/new.py": "new\n"}
RESULT = {**FILES, "setup.py": ONE_AFTER, "demo/core.py": TWO_AFTER, **OVERLAY}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "tree", FILES)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set's folder with its lock, made once."""
    root = tmp_path_factory.mktemp("locked")
    return lock(write_set(root / "cpu", PATCHES, OVERLAY), write_tree(root / "tree", FILES)).folder


@pytest.fixture
def cpu(tmp_path: Path, locked: Path) -> PatchSet:
    return PatchSet(shutil.copytree(locked, tmp_path / "patches/demo/cpu"))


def refusal(tree: Path, *sets: PatchSet) -> PatchError:
    """The error; and the tree is as it was, with nothing left beside it."""
    before, beside = read_tree(tree), sorted(path.name for path in tree.parent.iterdir())
    with pytest.raises(PatchError) as caught:
        apply_sets(tree, sets, sets[0].lock())
    assert read_tree(tree) == before
    assert sorted(path.name for path in tree.parent.iterdir()) == beside
    return caught.value


def test_a_set_is_applied_with_its_overlay(tree: Path, cpu: PatchSet) -> None:
    working = Path.cwd()
    apply_sets(tree, [cpu], cpu.lock())
    assert read_tree(tree) == RESULT
    assert Path.cwd() == working
    assert [path.name for path in tree.parent.iterdir() if path.name.startswith("tree")] == ["tree"]


def test_sets_stack_and_a_later_patch_sees_the_earlier_ones_lines(
    tmp_path: Path, tree: Path, cpu: PatchSet
) -> None:
    after = ONE_AFTER.replace("one four\n", "one IV\n")
    upper = write_set(
        tmp_path / "patches/demo/upper",
        {"0001-again.patch": diff("setup.py", ONE_AFTER, after)},
        needs=["cpu"],
    )
    lock = lock_of(write_tree(tmp_path / "copy", FILES), [cpu, upper])
    assert apply_sets(tree, [cpu, upper], lock) == {}
    assert read_tree(tree)["setup.py"] == after


def test_one_drifted_line_is_named_with_file_hunk_expected_and_found(tree: Path, cpu: PatchSet) -> None:
    write_tree(tree, {"setup.py": ONE.replace("one 15\n", "one fifteen\n")})
    error = refusal(tree, cpu)
    assert error.exit_code == 11
    assert "0001-one.patch does not match: setup.py, hunk 2 at line 13" in error.what
    assert "-one 15" in str(error.detail)
    assert "+one fifteen" in str(error.detail)
    assert "nothing was changed" in str(error.hint)


def test_lines_that_moved_are_refused_with_both_places(tree: Path, cpu: PatchSet) -> None:
    write_tree(tree, {"setup.py": "# new first line\n" + ONE})
    error = refusal(tree, cpu)
    assert "stands elsewhere than recorded: setup.py, hunk 1 at line 1" in error.what
    assert "line 2" in str(error.found)
    assert "line 1" in str(error.expected)


def test_a_patch_that_is_already_applied_is_refused_as_such(tree: Path, cpu: PatchSet) -> None:
    write_tree(tree, {"setup.py": ONE_AFTER})
    assert "0001-one.patch is already applied" in refusal(tree, cpu).what


def test_applying_a_set_twice_is_refused(tree: Path, cpu: PatchSet) -> None:
    apply_sets(tree, [cpu], cpu.lock())
    assert "is already applied" in refusal(tree, cpu).what


def test_a_patch_that_appends_is_not_applied_twice(tmp_path: Path, tree: Path) -> None:
    appends = {"0001-end.patch": diff("README", "read\n", "read\nmore\n")}
    item = lock(write_set(tmp_path / "patches/demo/end", appends), tree)
    apply_sets(tree, [item], item.lock())
    assert "is already applied" in refusal(tree, item).what
    assert (tree / "README").read_text() == "read\nmore\n"


def test_a_half_applied_patch_is_refused_with_the_hunk(tree: Path, cpu: PatchSet) -> None:
    write_tree(tree, {"setup.py": ONE.replace("one 4\n", "one four\n")})
    error = refusal(tree, cpu)
    assert "setup.py, hunk 1" in error.what
    assert "not those of the patch's other hunks" in str(error.found)


def test_a_later_patch_that_fails_leaves_nothing_of_the_earlier_ones(tree: Path, cpu: PatchSet) -> None:
    write_tree(tree, {"demo/core.py": TWO.replace("two 10\n", "two ten\n")})
    assert "demo/core.py, hunk 1" in refusal(tree, cpu).what


def test_a_missing_file_is_named(tree: Path, cpu: PatchSet) -> None:
    (tree / "demo/core.py").unlink()
    assert "demo/core.py" in refusal(tree, cpu).what


def test_a_link_in_the_tree_is_not_followed_out_of_it(tmp_path: Path, tree: Path, cpu: PatchSet) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text(ONE)
    (tree / "setup.py").unlink()
    (tree / "setup.py").symlink_to(outside)
    apply_sets(tree, [cpu], cpu.lock())
    assert outside.read_text() == ONE
    assert (tree / "setup.py").read_text() == ONE_AFTER
    assert not (tree / "setup.py").is_symlink()


def test_an_overlay_over_a_file_of_the_source_is_refused(tmp_path: Path, tree: Path) -> None:
    item = write_set(tmp_path / "patches/demo/over", {}, {"README": "ours\n"})
    with pytest.raises(PatchError, match="Overlay file README"):
        lock_of(tree, [item])
    assert (tree / "README").read_text() == "read\n"


def test_a_patch_changed_without_its_lock_is_refused(tree: Path, cpu: PatchSet) -> None:
    write_tree(cpu.folder, {"0001-one.patch": PATCHES["0001-one.patch"].replace("+one four", "+one 4.0")})
    error = refusal(tree, cpu)
    assert "setup.py is not what the patch sets should make of it" in error.what
    assert "patches refresh" in str(error.hint)


def test_an_overlay_file_may_change_without_the_lock(tree: Path, cpu: PatchSet) -> None:
    write_tree(cpu.folder / "overlay", {"demo/extra/new.py": "newer\n"})
    apply_sets(tree, [cpu], cpu.lock())
    assert (tree / "demo/extra/new.py").read_text() == "newer\n"


def test_a_set_without_a_lock_or_with_a_broken_one_is_refused(tree: Path, cpu: PatchSet) -> None:
    path = cpu.folder / "lock.json"
    path.write_text("{}")
    assert "lock.json is not valid" in refusal(tree, cpu).what
    for text in ("{", "[" * 100_000):
        path.write_text(text)
        assert "is not JSON" in refusal(tree, cpu).what
    path.unlink()
    assert "has no lock" in refusal(tree, cpu).what


def test_refresh_rewrites_the_lock_and_nothing_else(tmp_path: Path, tree: Path, cpu: PatchSet) -> None:
    write_tree(cpu.folder, {"0001-one.patch": PATCHES["0001-one.patch"].replace("+one four", "+one 4.0")})
    before = read_tree(cpu.folder)
    copy = write_tree(tmp_path / "copy", FILES)
    assert refresh_checkout_lock(copy, cpu) == cpu.folder / "lock.json"
    after = read_tree(cpu.folder)
    assert after.pop("lock.json") != before.pop("lock.json")
    assert after == before
    apply_sets(tree, [cpu], cpu.lock())
    assert "one 4.0\n" in (tree / "setup.py").read_text()


def test_refresh_of_a_lock_that_is_right_writes_nothing(tmp_path: Path, cpu: PatchSet) -> None:
    path = cpu.folder / "lock.json"
    os.utime(path, (1, 1))
    assert refresh_checkout_lock(write_tree(tmp_path / "copy", FILES), cpu) is None
    assert path.stat().st_mtime == 1


def test_a_lock_names_every_patched_file_before_and_after(cpu: PatchSet) -> None:
    data = json.loads((cpu.folder / "lock.json").read_text())
    assert sorted(data["files"]) == ["demo/core.py", "setup.py"]
    assert data["files"]["setup.py"]["before"] != data["files"]["setup.py"]["after"]


# Hunks at other lines -------------------------------------------------------------------------------------

SHIFTED = "# new first line\n" + ONE


def test_without_a_lock_a_hunk_is_taken_at_its_only_place_and_reported(tree: Path, cpu: PatchSet) -> None:
    write_tree(tree, {"setup.py": SHIFTED})
    assert apply_sets(tree, [cpu], None) == {"cpu/0001-one.patch": {"setup.py": {1: 2, 2: 14}}}
    assert (tree / "setup.py").read_text() == "# new first line\n" + ONE_AFTER


def test_a_hunk_whose_lines_stand_twice_is_refused(tree: Path, cpu: PatchSet) -> None:
    write_tree(tree, {"setup.py": SHIFTED + ONE})
    before = read_tree(tree)
    with pytest.raises(PatchError, match=r"does not match: setup\.py, hunk 1"):
        apply_sets(tree, [cpu], None)
    assert read_tree(tree) == before


def test_a_hunk_above_an_earlier_one_is_refused(tree: Path, cpu: PatchSet) -> None:
    swapped = "".join(f"one {n}\n" for n in (*range(11, 21), *range(1, 11)))
    write_tree(tree, {"setup.py": "#\n" + swapped})
    with pytest.raises(PatchError, match=r"does not match: setup\.py, hunk 2"):
        apply_sets(tree, [cpu], None)


def test_a_lock_records_moved_hunks_and_holds_them_there(tmp_path: Path, tree: Path, cpu: PatchSet) -> None:
    copy = write_tree(tmp_path / "copy", {**FILES, "setup.py": SHIFTED})
    made = lock_of(copy, [cpu])
    assert made.moved == {"cpu/0001-one.patch": {"setup.py": {1: 2, 2: 14}}}
    write_tree(tree, {"setup.py": SHIFTED})
    assert apply_sets(tree, [cpu], made) == made.moved
    assert (tree / "setup.py").read_text() == "# new first line\n" + ONE_AFTER


def test_a_moved_hunk_that_lands_elsewhere_than_recorded_is_refused(
    tmp_path: Path, tree: Path, cpu: PatchSet
) -> None:
    made = lock_of(write_tree(tmp_path / "copy", {**FILES, "setup.py": SHIFTED}), [cpu])
    write_tree(tree, {"setup.py": "# another\n" + SHIFTED})
    before = read_tree(tree)
    with pytest.raises(PatchError, match="stands elsewhere than recorded") as caught:
        apply_sets(tree, [cpu], made)
    assert "line 3" in str(caught.value.found)
    assert "line 2 (lock.json)" in str(caught.value.expected)
    assert read_tree(tree) == before


def test_a_set_works_without_another_that_it_does_not_need(tmp_path: Path, tree: Path, cpu: PatchSet) -> None:
    grown = ONE_AFTER.replace("one 8\n", "one 8\nbetween\n")
    later = grown.replace("one 12\n", "one twelve\n")
    extra = write_set(tmp_path / "patches/demo/extra", {"0001-e.patch": diff("setup.py", ONE_AFTER, grown)})
    last = write_set(tmp_path / "patches/demo/last", {"0001-l.patch": diff("setup.py", grown, later)})
    assert apply_sets(tree, [cpu, last], None) == {"last/0001-l.patch": {"setup.py": {1: 9}}}
    assert (tree / "setup.py").read_text() == ONE_AFTER.replace("one 12\n", "one twelve\n")
    assert extra.name not in read_tree(tree)


# What patch-ng does when it is left alone, and what mambaport makes of the same patch ---------------------


def alone(patch: str, tree: Path, folder: Path, *, fuzz: bool = False) -> bool:
    """patch-ng without our guards."""
    path = folder / "alone.patch"
    path.write_text(patch)
    working = Path.cwd()
    try:
        return bool(patch_ng.fromfile(str(path)).apply(strip=1, root=str(tree), fuzz=fuzz))
    finally:
        os.chdir(working)


def test_patch_ng_takes_an_applied_patch_and_we_do_not(tmp_path: Path, tree: Path, cpu: PatchSet) -> None:
    write_tree(tree, {"setup.py": ONE_AFTER})
    assert alone(PATCHES["0001-one.patch"], tree, tmp_path)
    refusal(tree, cpu)


def test_patch_ng_is_not_atomic_and_we_are(tmp_path: Path, tree: Path) -> None:
    both = PATCHES["0001-one.patch"] + PATCHES["0002-two.patch"]
    item = lock(write_set(tmp_path / "patches/demo/both", {"0001-both.patch": both}), tree)
    write_tree(tree, {"demo/core.py": "other\n"})
    refusal(tree, item)
    assert not alone(both, tree, tmp_path)
    assert (tree / "setup.py").read_text() == ONE_AFTER  # half applied


def test_patch_ng_writes_over_an_existing_file_and_we_do_not(tmp_path: Path, tree: Path) -> None:
    made = "--- /dev/null\n+++ b/README\n@@ -0,0 +1 @@\n+ours\n"
    item = write_set(tmp_path / "patches/demo/made", {"0001-made.patch": made})
    with pytest.raises(PatchError, match="is refused"):
        lock_of(tree, [item])
    assert (tree / "README").read_text() == "read\n"


def test_patch_ng_strips_dots_and_we_refuse_them(tmp_path: Path, tree: Path) -> None:
    leaves = (
        PATCHES["0001-one.patch"]
        .replace("a/setup.py", "a/../setup.py")
        .replace("b/setup.py", "b/../setup.py")
    )
    write_tree(tmp_path, {"setup.py": ONE})
    item = write_set(tmp_path / "patches/demo/leaves", {"0001-leaves.patch": leaves})
    with pytest.raises(PatchError, match="is refused"):
        lock_of(tree, [item])
    assert (tmp_path / "setup.py").read_text() == ONE
    assert (tree / "setup.py").read_text() == ONE
