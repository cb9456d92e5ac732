"""Patch sets as data: the series, its texts for single releases, the overlay, the digest."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from helpers import HEX64, diff, use_patches, write_package, write_set, write_tree

from mambaport.errors import PatchError
from mambaport.patchset import PatchSet, kernel_sources
from mambaport.resources import patches_dir

PATCH = diff("x.py", "one\ntwo\n", "one\n2\n")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A patches/ folder of our own with one package."""
    return write_package(use_patches(monkeypatch, tmp_path / "patches") / "demo", [])


def test_a_set_is_read_with_its_patches_and_overlay(root: Path) -> None:
    item = write_set(root / "cpu", {"0001-x.patch": PATCH}, {"new.py": "x"})
    assert [patch.file for patch in item.patches] == ["0001-x.patch"]
    assert item.overlay_files() == {"new.py": root / "cpu/overlay/new.py"}


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
    with pytest.raises(PatchError, match="shared folder that does not exist"):
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
        ("summary", "summaries", "summaries"),
        ("needs = []", 'releases = "2.3"', "releases"),
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
    assert len(set(seen)) == 4


def add(item: PatchSet, text: str) -> Path:
    """Appends keys to a set's last patch."""
    path = item.folder / "patchset.toml"
    path.write_text(path.read_text() + text + "\n")
    return item.folder


def names(folder: Path, version: str | None) -> list[str]:
    item = PatchSet(folder, version)
    return [item.path(patch).name for patch in item.patches]


def test_a_patch_is_for_the_releases_that_it_names(root: Path) -> None:
    folder = add(write_set(root / "cpu", {"0001-x.patch": PATCH}), 'releases = ">=2.2,!=2.2.5"')
    found = {
        version: names(folder, version) for version in ("2.1", "2.2.4", "2.2.5", "2.3.2.post1", "2.10rc1")
    }
    assert [version for version, patches in found.items() if patches] == ["2.2.4", "2.3.2.post1", "2.10rc1"]
    assert names(folder, None) == ["0001-x.patch"]


def test_a_patch_that_upstream_has_is_for_the_releases_before(root: Path) -> None:
    folder = add(write_set(root / "cpu", {"0001-x.patch": PATCH}), 'upstream = "2.3.2"')
    assert names(folder, "2.3.1") == ["0001-x.patch"]
    assert names(folder, "2.3.2") == names(folder, "2.3.2.post1") == []
    add(PatchSet(folder), 'releases = ""')
    assert names(folder, "2.3.2") == ["0001-x.patch"]


def test_a_sibling_has_the_text_for_its_releases(root: Path) -> None:
    folder = write_set(root / "cpu", {"0001-x.patch": PATCH}).folder
    write_tree(folder, {"0001-x.for-2.3.patch": PATCH.replace("one", "uno")})
    with pytest.raises(PatchError, match="does not match its folder"):
        PatchSet(folder)
    path = folder / "patchset.toml"
    path.write_text(path.read_text() + 'siblings = { "0001-x.for-2.3.patch" = ">=2.3" }\n')
    assert names(folder, "2.2.4") == ["0001-x.patch"]
    assert names(folder, "2.3.0") == ["0001-x.for-2.3.patch"]
    assert PatchSet(folder, "2.2.4").digest() != PatchSet(folder, "2.3.0").digest()
    assert PatchSet(folder, "2.3.1").digest() == PatchSet(folder, "2.3.0").digest()


def test_a_sibling_has_the_number_of_its_patch(root: Path) -> None:
    folder = write_set(root / "cpu", {"0001-x.patch": PATCH}).folder
    write_tree(folder, {"0002-x.for-2.3.patch": PATCH})
    path = folder / "patchset.toml"
    path.write_text(path.read_text() + 'siblings = { "0002-x.for-2.3.patch" = ">=2.3" }\n')
    with pytest.raises(PatchError, match="named as a sibling"):
        PatchSet(folder)


def test_an_overlay_of_a_release_goes_before_the_sets_overlay(root: Path) -> None:
    folder = write_set(root / "cpu", {}, {"setup.py": "old", "new.py": "x"}).folder
    write_tree(folder, {"overlay-2.3/setup.py": "new"})
    path = folder / "patchset.toml"
    path.write_text(path.read_text() + 'overlays = { "overlay-2.3" = ">=2.3" }\n')
    assert PatchSet(folder, "2.2.4").overlay_files()["setup.py"] == folder / "overlay/setup.py"
    assert PatchSet(folder, "2.3.0").overlay_files() == {
        "setup.py": folder / "overlay-2.3/setup.py",
        "new.py": folder / "overlay/new.py",
    }


def test_a_replaced_file_may_have_one_digest_for_each_release(root: Path) -> None:
    folder = write_set(root / "cpu", {}, {"setup.py": "ours"}).folder
    one, other = HEX64, "1" * 64
    path = folder / "patchset.toml"
    reason = 'why = "A reason that is long enough."'
    path.write_text(
        f'{path.read_text()}[[replace]]\nfile = "setup.py"\n{reason}\n'
        f'sha256 = {{ "2.2.4" = "{one}", "2.3.0" = "{other}" }}\n'
    )
    assert PatchSet(folder, "2.3.0").replaced == {"setup.py": {one, other}}


def test_c_sources_may_be_laid_without_their_python_package() -> None:
    found = kernel_sources("csrc/causal_conv1d_cpu")
    assert "kernels/csrc/causal_conv1d_cpu/operators/conv.c" in found
    assert all(name.startswith("kernels/csrc/") for name in found)
    assert set(found) < set(kernel_sources("causal_conv1d_cpu"))
    with pytest.raises(PatchError, match="There is no kernel package csrc/nothing"):
        kernel_sources("csrc/nothing")


def test_both_packages_choose_the_form_of_an_export_alike() -> None:
    def chosen(path: str) -> list[str]:
        tree = ast.parse((patches_dir() / path).read_text(encoding="utf-8"))
        shared = ("VARIABLE", "FORMS", "DOMAIN", "form")
        return [
            ast.dump(item)
            for item in tree.body
            if (isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) in shared)
            or (isinstance(item, ast.FunctionDef) and item.name in shared)
        ]

    conv = chosen("causal-conv1d/cpu/overlay/causal_conv1d/exporting.py")
    assert len(conv) == 4
    assert conv == chosen("mamba-ssm/cpu/overlay/mamba_ssm/ops/exporting.py")
