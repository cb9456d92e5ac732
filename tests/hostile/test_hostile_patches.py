"""Damaged patches and sources: the tree is exactly right, or as it was; and nothing outside is touched."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import diff, read_tree, use_patches, write_set, write_tree
from inputs import Area, Wrong
from mutations import damaged

from mambaport import checkouts
from mambaport.checkouts import checkout_sets, recognise
from mambaport.patching import adopt, apply_sets, refresh_checkout_lock, survey, undo
from mambaport.patching.apply import lock_of
from mambaport.patchset import PatchSet

Make = Callable[[str, int], Area]
ONE = "".join(f"one {n}\n" for n in range(1, 21))
TWO = "".join(f"two {n % 7}\n" for n in range(1, 41))
ONE_AFTER = ONE.replace("one 4\n", "one four\n").replace("one 16\n", "one sixteen\nand more\n")
TWO_AFTER = "".join(f"two {n % 7}\n" for n in range(1, 19)) + "new\n" + TWO[19 * 6 :]
FILES = {"setup.py": ONE, "demo/core.py": TWO, "README": "read\n"}
PATCH = diff("setup.py", ONE, ONE_AFTER) + diff("demo/core.py", TWO, TWO_AFTER)
OVERLAY = {"demo/new.py": "new\n"}
RESULT = {**FILES, "setup.py": ONE_AFTER, "demo/core.py": TWO_AFTER, **OVERLAY}
WORDS = (
    *(b"--- a/", b"+++ b/", b"@@ -1,3 +1,4 @@\n", b"a/../../evil", b"b/../../evil", b"/dev/null"),
    *(b"\\ No newline at end of file\n", b"diff --git a/x b/x\n", b"rename from x\n", b"new file mode"),
    *(b"GIT binary patch\n", b"Index: setup.py\n", b"-- \n2.40\n", b" one 5\n", b"-one 5\n", b"+one 5\n"),
)


def in_bytes(root: Path) -> dict[str, bytes | str]:
    """Every file by its bytes, every link by its target."""
    return {
        path.relative_to(root).as_posix(): f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def expected(files: dict[str, str]) -> dict[str, bytes]:
    return {name: text.encode() for name, text in files.items()}


@pytest.fixture
def locked(tmp_path: Path) -> PatchSet:
    item = write_set(tmp_path / "sets/cpu", {"0001-one.patch": PATCH}, OVERLAY)
    item.write_lock(lock_of(write_tree(tmp_path / "for-lock", FILES), [item]))
    return PatchSet(item.folder)


def unchanged(area: Area, tree: Path, before: dict[str, bytes | str]) -> None:
    if in_bytes(tree) != before:
        raise Wrong("an error, and a changed tree")
    if [path.name for path in area.target.iterdir()] != [tree.name]:
        raise Wrong("an error, and something left beside the tree")


def judge_and_renew(area: Area, number: int, attempt: Callable[[], object], tree: Path) -> None:
    """Judges one input; where it was not refused, writes the tree anew."""
    if area.judge(number, attempt) != "patch":
        shutil.rmtree(tree)
        write_tree(tree, FILES)


def test_damaged_patches_under_a_lock(area: Make, locked: PatchSet) -> None:
    attack = area("patches, with a lock", 3000)
    tree = write_tree(attack.target / "tree", FILES)
    pristine = in_bytes(tree)
    path = locked.folder / "0001-one.patch"
    for number, patch in enumerate(damaged(PATCH.encode(), attack.seed, attack.count, WORDS)):
        path.write_bytes(patch)

        def attempt() -> None:
            try:
                apply_sets(tree, [PatchSet(locked.folder)], locked.lock())
            except Exception:
                unchanged(attack, tree, pristine)
                raise
            if in_bytes(tree) != expected(RESULT):
                raise Wrong("another tree than the lock's")

        judge_and_renew(attack, number, attempt, tree)
    attack.finish()


def test_damaged_patches_without_a_lock(area: Make, locked: PatchSet) -> None:
    """What is applied is what GNU patch makes of it without fuzz."""
    attack = area("patches, without a lock", 800)
    judge = shutil.which("patch")
    if judge is None:
        pytest.skip("no GNU patch on PATH, whose results are compared")
    tree = write_tree(attack.target / "tree", FILES)
    pristine, path = in_bytes(tree), locked.folder / "0001-one.patch"
    for number, patch in enumerate(damaged(PATCH.encode(), attack.seed, attack.count, WORDS)):
        path.write_bytes(patch)

        def attempt(patch: bytes = patch) -> None:
            try:
                apply_sets(tree, [PatchSet(locked.folder)], None)
            except Exception:
                unchanged(attack, tree, pristine)
                raise
            other = write_tree(locked.folder / "judge", FILES)
            words = [judge, "--strip=1", "--fuzz=0", "--no-backup-if-mismatch", "--silent"]
            subprocess.run([*words, "--directory", other], input=patch, check=False, capture_output=True)
            write_tree(other, OVERLAY)
            if in_bytes(other) != in_bytes(tree):
                raise Wrong("another tree than GNU patch makes without fuzz")

        judge_and_renew(attack, number, attempt, tree)
        shutil.rmtree(locked.folder / "judge", ignore_errors=True)
    attack.finish()


def test_damaged_sources(area: Make, locked: PatchSet) -> None:
    attack = area("sources to be patched", 1200)
    tree = write_tree(attack.target / "tree", FILES)
    words = (b"one 4\n", b"four\n")
    for number, source in enumerate(damaged(ONE.encode(), attack.seed, attack.count, words)):
        (tree / "setup.py").write_bytes(source)
        before = in_bytes(tree)

        def attempt(before: dict[str, bytes | str] = before) -> None:
            try:
                apply_sets(tree, [locked], locked.lock())
            except Exception:
                unchanged(attack, tree, before)
                raise
            if in_bytes(tree) != expected(RESULT):
                raise Wrong("another tree than the lock's")

        judge_and_renew(attack, number, attempt, tree)
    attack.finish()


@pytest.mark.parametrize("name", ["lock.json", "patchset.toml"])
def test_damaged_locks_and_series(area: Make, locked: PatchSet, name: str) -> None:
    attack = area(f"patch sets: {name}", 1000)
    tree = write_tree(attack.target / "tree", FILES)
    pristine, content = in_bytes(tree), (locked.folder / name).read_bytes()
    words = (b"null", b"[[patch]]\n", b'needs = ["x"]\n', b'releases = ">=1"\n', b'{"a": 1}', b"0" * 64)
    for number, text in enumerate(damaged(content, attack.seed, attack.count, words)):
        (locked.folder / name).write_bytes(text)

        def attempt() -> None:
            try:
                item = PatchSet(locked.folder)
                apply_sets(tree, [item], item.lock())
            except Exception:
                unchanged(attack, tree, pristine)
                raise
            if in_bytes(tree) not in (expected(RESULT), pristine):
                raise Wrong("another tree than the right one")

        judge_and_renew(attack, number, attempt, tree)
    attack.finish()


META = """
title = "Demo"
repository = "someone/Demo"
license = "MIT"
needs = ["vision"]
run = "python train.py"
[marks]
"setup.py" = "one 1"
"""


def test_damaged_checkouts(area: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adopted whole and undone to the byte, or refused and as before."""
    use_patches(monkeypatch, tmp_path / "patches")
    monkeypatch.setattr(checkouts, "patches_dir", lambda: tmp_path / "patches")
    attack = area("checkouts to adopt", 600)
    root = write_tree(attack.target / "Demo", FILES)
    folder = write_tree(tmp_path / "patches/checkouts/demo", {"checkout.toml": META})
    refresh_checkout_lock(root, write_set(folder / "0123456789ab", {"0001-x.patch": PATCH}, OVERLAY))
    words = (b"one 4\n", b"\xe9\n")
    for number, source in enumerate(damaged(ONE.encode(), attack.seed, attack.count, words)):
        if root.exists():
            shutil.rmtree(root)
        write_tree(root, FILES)
        if number % 10:  # else the whole one
            (root / "setup.py").write_bytes(source)
        before = in_bytes(root)

        def attempt(before: dict[str, bytes | str] = before) -> None:
            recognise(root)
            try:
                adopt(survey(root, checkout_sets("demo")))
            except Exception:
                unchanged(attack, root, before)
                raise
            if in_bytes(root) != expected(RESULT):
                raise Wrong("adopted, and not the right tree")
            undo(survey(root, checkout_sets("demo")))
            if in_bytes(root) != before:
                raise Wrong("undone, and not as before")

        attack.judge(number, attempt)
    attack.finish()


def test_the_results_are_right_to_begin_with(tmp_path: Path, locked: PatchSet) -> None:
    tree = write_tree(tmp_path / "tree", FILES)
    apply_sets(tree, [locked], locked.lock())
    assert read_tree(tree) == RESULT
    assert json.loads((locked.folder / "lock.json").read_text())["files"]
