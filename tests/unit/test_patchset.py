"""Patch sets as data: the series, the stack, and the real ones that travel with mambaport."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import HEX64, diff, write_set, write_tree

from mambaport import patchset
from mambaport.errors import PatchError, UsageError
from mambaport.patching.diff import read_patch
from mambaport.patchset import PatchSet, all_sets, known_versions, read_source, stack

PATCH = diff("x.py", "one\ntwo\n", "one\n2\n")
SOURCE = f"""
package = "demo"
version = "1.0"
epoch = 1700000000
local-version-variable = "DEMO_LOCAL_VERSION"
fallback-variable = "DEMO_FORCE_FALLBACK"
license = "Apache-2.0"
homepage = "https://example.invalid"

[[archive]]
project = "demo"
version = "1.0"
filename = "demo-1.0.tar.gz"
sha256 = "{HEX64}"
size = 1
strip = "demo-1.0"
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A patches/ folder of our own with one pinned source."""
    write_tree(tmp_path / "patches/demo", {"releases/1.0/source.toml": SOURCE})
    monkeypatch.setattr(patchset, "patches_dir", lambda: tmp_path / "patches")
    return tmp_path / "patches/demo"


def test_a_set_is_read_with_its_patches_and_overlay(root: Path) -> None:
    item = write_set(root / "cpu", {"0001-x.patch": PATCH}, {"new.py": "x"}, revision=3)
    assert [patch.file for patch in item.patches] == ["0001-x.patch"]
    assert item.overlay_files() == {"new.py": root / "cpu/overlay/new.py"}
    assert item.meta.revision == 3


def test_shared_folders_are_laid_under_the_overlay(root: Path) -> None:
    write_tree(root.parent / "shared/build", {"build.py": "x"})
    item = write_set(root / "cpu", {}, {"new.py": "x"})
    path = item.folder / "patchset.toml"
    path.write_text(path.read_text() + 'shared = ["build"]\n')
    assert sorted(PatchSet(item.folder).overlay_files()) == ["build.py", "new.py"]
    write_tree(item.folder / "overlay", {"build.py": "y"})
    with pytest.raises(PatchError, match=r"overlays build\.py twice"):
        PatchSet(item.folder).overlay_files()
    path.write_text(path.read_text().replace('"build"', '"gone"'))
    with pytest.raises(PatchError, match="shared folder that is not there"):
        PatchSet(item.folder).overlay_files()


def test_a_folder_without_patchset_toml_is_no_set(root: Path) -> None:
    with pytest.raises(PatchError, match=r"no patch set cpu for demo"):
        PatchSet(root / "cpu")


def test_a_patch_file_that_the_series_does_not_name_is_refused(root: Path) -> None:
    item = write_set(root / "cpu", {"0001-x.patch": PATCH})
    write_tree(item.folder, {"0002-y.patch": PATCH})
    with pytest.raises(PatchError, match="does not match its folder") as caught:
        PatchSet(item.folder)
    assert "0002-y.patch" in str(caught.value.found)


def test_a_named_patch_that_is_not_there_is_refused(root: Path) -> None:
    item = write_set(root / "cpu", {"0001-x.patch": PATCH})
    (item.folder / "0001-x.patch").unlink()
    with pytest.raises(PatchError, match="does not match its folder"):
        PatchSet(item.folder)


def test_a_series_out_of_order_is_refused(root: Path) -> None:
    with pytest.raises(PatchError, match="does not match its folder"):
        write_set(root / "cpu", {"0002-y.patch": PATCH, "0001-x.patch": PATCH})


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("revision = 1", "revision = 0", "revision"),
        ("revision = 1", "revisions = 1", "revisions"),
        ("A reason that is long enough.", "short", "patch.0.why"),
        ("0001-x.patch", "../0001-x.patch", "patch.0.file"),
    ],
)
def test_a_wrong_key_in_patchset_toml_is_a_patch_error_with_file_and_key(
    root: Path, old: str, new: str, key: str
) -> None:
    path = write_set(root / "cpu", {"0001-x.patch": PATCH}).folder / "patchset.toml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(PatchError) as caught:
        PatchSet(path.parent)
    assert str(path) in caught.value.what
    assert f"{key}:" in str(caught.value.found)


def test_the_digest_changes_with_what_decides_the_result_and_only_with_that(root: Path) -> None:
    item = write_set(root / "cpu", {"0001-x.patch": PATCH}, {"new.py": "x"})
    seen = [item.digest()]
    path = item.folder / "patchset.toml"
    path.write_text(path.read_text().replace("A reason that is long enough.", "Another reason for the same."))
    assert PatchSet(item.folder).digest() == seen[0]
    for name, text in (("0001-x.patch", PATCH + " "), ("overlay/new.py", "y"), ("overlay/more.py", "z")):
        write_tree(item.folder, {name: text})
        seen.append(PatchSet(item.folder).digest())
    path.write_text(path.read_text().replace("revision = 1", "revision = 2"))
    seen.append(PatchSet(item.folder).digest())
    assert len(set(seen)) == 5


def test_sets_are_stacked_by_what_they_stand_on(root: Path) -> None:
    write_set(root / "aaa", {}, after="zzz")
    write_set(root / "zzz", {})
    write_set(root / "mmm", {}, after="aaa")
    assert [item.name for item in all_sets("demo", "1.0")] == ["zzz", "aaa", "mmm"]
    assert [item.name for item in stack("demo", "1.0", ("zzz", "aaa"))] == ["zzz", "aaa"]


@pytest.mark.parametrize("names", [("aaa",), ("aaa", "zzz"), ("zzz", "mmm")])
def test_sets_in_another_order_than_they_stack_are_refused(root: Path, names: tuple[str, ...]) -> None:
    write_set(root / "zzz", {})
    write_set(root / "aaa", {}, after="zzz")
    write_set(root / "mmm", {}, after="aaa")
    with pytest.raises(PatchError, match="stands in the wrong place"):
        stack("demo", "1.0", names)


def test_sets_that_are_not_one_stack_are_refused(root: Path) -> None:
    write_set(root / "zzz", {})
    write_set(root / "aaa", {}, after="gone")
    with pytest.raises(PatchError, match="are not one stack") as caught:
        all_sets("demo", "1.0")
    assert "aaa" in str(caught.value.found)


def test_a_source_that_is_not_pinned_is_told_the_pinned_ones(root: Path) -> None:
    assert read_source("demo", "1.0").archive[0].strip == "demo-1.0"
    with pytest.raises(UsageError, match=r"no pinned source for demo 2\.0") as caught:
        read_source("demo", "2.0")
    assert caught.value.expected == "demo 1.0"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        (HEX64, "abc", "archive.0.sha256"),
        ("demo-1.0.tar.gz", "../demo-1.0.tar.gz", "archive.0.filename"),
        ("size = 1", 'size = "large"', "archive.0.size"),
        ('license = "Apache-2.0"', "", "license"),
    ],
)
def test_a_wrong_key_in_source_toml_is_named(root: Path, old: str, new: str, key: str) -> None:
    (root / "releases/1.0/source.toml").write_text(SOURCE.replace(old, new))
    with pytest.raises(UsageError) as caught:
        read_source("demo", "1.0")
    assert f"{key}:" in str(caught.value.found)


# The real ones -------------------------------------------------------------------------------------------

REAL = [(name, version, item.name) for name, version in known_versions() for item in all_sets(name, version)]


def test_both_packages_are_there() -> None:
    assert {(name, version) for name, version, _set in REAL} >= {
        ("causal-conv1d", "1.6.0"),
        ("mamba-ssm", "2.2.4"),
    }


@pytest.mark.parametrize(("name", "version", "which"), REAL)
def test_every_patch_of_a_real_set_passes_the_strict_reader(name: str, version: str, which: str) -> None:
    (item,) = [item for item in all_sets(name, version) if item.name == which]
    assert all(read_patch(item.folder / patch.file) for patch in item.patches)


@pytest.mark.parametrize(("name", "version", "which"), REAL)
def test_a_real_sets_lock_covers_the_files_that_it_patches(name: str, version: str, which: str) -> None:
    (item,) = [item for item in all_sets(name, version) if item.name == which]
    patched = {diff.name for patch in item.patches for diff in read_patch(item.folder / patch.file)}
    files = item.lock().files
    assert set(files) == patched
    assert all(file.before for file in files.values())
