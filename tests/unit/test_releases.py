"""Packages, releases and lines as data, the graph of patch sets, and the real ones of mambaport."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import HEX64, SOURCE, diff, use_patches, write_package, write_set, write_tree

from mambaport.errors import PatchError, UsageError
from mambaport.patching import apply_sets, refresh_lock
from mambaport.patching.diff import read_patch
from mambaport.patchset import PatchSet
from mambaport.profile import Profile, builtin_profiles, make_profile
from mambaport.release_lines import ReleaseChoice, choose_releases, read_lines
from mambaport.releases import (
    all_sets,
    choose_sets,
    combination,
    combinations,
    content_digest,
    known_versions,
    lock_for,
    read_release_lock,
    read_source,
    revision_faults,
)

ONE = "".join(f"one {n}\n" for n in range(1, 21))
FIXED = ONE.replace("one 4\n", "one four\n")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with four sets: bbb needs zzz; aaa needs nothing, and ccc needs bbb. Two releases."""
    folder = use_patches(monkeypatch, tmp_path / "patches")
    root = write_package(folder / "demo", ["zzz", "aaa", "bbb", "ccc"], ["1.2", "1.10"])
    for name, needs in (("zzz", []), ("aaa", []), ("bbb", ["zzz"]), ("ccc", ["bbb"])):
        write_set(root / name, {}, {f"{name}.py": name}, needs)
    return root


def sets(*names: str, version: str = "1.2") -> list[str]:
    return [item.name for item in choose_sets("demo", version, names)]


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_set_brings_what_it_needs_and_no_other(root: Path) -> None:
    assert [item.name for item in all_sets("demo", "1.2")] == ["zzz", "aaa", "bbb", "ccc"]
    assert sets("ccc") == ["zzz", "bbb", "ccc"]
    assert sets("aaa") == ["aaa"]


def test_the_order_is_the_packages_whatever_the_profile_says(root: Path) -> None:
    assert sets("ccc", "aaa", "zzz") == sets("aaa", "zzz", "ccc") == ["zzz", "aaa", "bbb", "ccc"]


def test_an_order_that_breaks_a_need_is_refused(root: Path) -> None:
    edit(root / "package.toml", "'zzz', 'aaa', 'bbb'", "'bbb', 'aaa', 'zzz'")
    with pytest.raises(PatchError, match="bbb of demo stands before a set that it needs") as caught:
        all_sets("demo", "1.2")
    assert caught.value.found == "zzz is later in the order"


def test_a_folder_that_the_order_lacks_is_refused(root: Path) -> None:
    write_set(root / "new", {})
    with pytest.raises(PatchError, match="not those that package") as caught:
        all_sets("demo", "1.2")
    assert "new" in str(caught.value.found)


def test_an_unknown_set_is_refused_with_those_of_the_release(root: Path) -> None:
    edit(root / "aaa/patchset.toml", "needs = []", 'releases = ">=1.10"')
    assert sets("aaa", version="1.10") == ["aaa"]
    with pytest.raises(PatchError, match=r"no patch set aaa for demo 1\.2") as caught:
        sets("aaa")
    assert caught.value.expected == "one of: zzz, bbb, ccc"


def test_versions_sort_as_versions(root: Path) -> None:
    assert known_versions() == [("demo", "1.2"), ("demo", "1.10")]


def test_a_release_without_pins_is_refused_with_those_that_have_some(root: Path) -> None:
    assert read_source("demo", "1.2").archive[0].strip == "demo-1.2"
    with pytest.raises(UsageError, match=r"no pinned source for demo 2\.0") as caught:
        read_source("demo", "2.0")
    assert caught.value.expected == "one of: demo 1.2, demo 1.10"
    assert "mambaport patches new 2.0 -p demo" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        (HEX64, "abc", "archive.0.sha256"),
        ("demo-1.0.tar.gz", "../demo-1.0.tar.gz", "archive.0.filename"),
        ("size = 1", 'size = "large"', "archive.0.size"),
        ("epoch = 1700000000", "", "epoch"),
    ],
)
def test_a_wrong_key_in_source_toml_is_named(root: Path, old: str, new: str, key: str) -> None:
    (root / "releases/1.2/source.toml").write_text(SOURCE.replace(old, new))
    with pytest.raises(UsageError) as caught:
        read_source("demo", "1.2")
    assert f"{key}:" in str(caught.value.found)


# Two releases of one package, one series -------------------------------------------------------------------


def test_one_patch_serves_two_releases_each_with_its_lock(tmp_path: Path, root: Path) -> None:
    write_tree(root / "aaa", {"0001-x.patch": diff("x.py", ONE, FIXED)})
    edit(
        root / "aaa/patchset.toml",
        "needs = []",
        'needs = []\n[[patch]]\nfile = "0001-x.patch"\nwhy = "A reason that is long enough."',
    )
    trees = {"1.2": ONE, "1.10": "# new\n" + ONE}
    for version, text in trees.items():
        tree = write_tree(tmp_path / version, {"x.py": text})
        with pytest.raises(PatchError, match="has no lock"):
            lock_for("demo", version, all_sets("demo", version))
        assert refresh_lock(tree, "demo", version) == root / f"releases/{version}/lock.json"
        assert refresh_lock(tree, "demo", version) is None
        chosen = all_sets("demo", version)
        found = lock_for("demo", version, chosen)
        assert found is not None
        assert list(found.files) == ["x.py"]
        apply_sets(tree, chosen, found)
        assert (tree / "x.py").read_text() == text.replace("one 4\n", "one four\n")
    locks = {version: read_release_lock("demo", version).combinations["zzz+aaa+bbb+ccc"] for version in trees}
    assert locks["1.2"].moved == {}
    assert locks["1.10"].moved == {"aaa/0001-x.patch": {"x.py": {1: 2}}}
    assert lock_for("demo", "1.2", choose_sets("demo", "1.2", ["aaa"])) is None


# Lines ------------------------------------------------------------------------------------------------------

LINES = """
default = "old"
[[line]]
name = "old"
summary = "x"
releases = { demo = "1.2", other = "3.0" }
[[line]]
name = "new"
summary = "x"
releases = { demo = "1.10", other = "4.0" }
"""


def profile(**changes: object) -> Profile:
    packages = [{"name": "other", "patches": []}, {"name": "demo", "patches": ["aaa"]}]
    data: dict[str, object] = {
        "name": "my-board",
        "summary": "A board",
        "target": {"arch": "aarch64", "glibc": "2.28", "cpu": "cortex-a72"},
        "python": {"minimum": "3.10"},
        "package": packages,
        "build": {"toolchains": ["zig"]},
    }
    return make_profile({**data, **changes}, Path("my-board.toml"))


@pytest.fixture
def lines(root: Path) -> Path:
    write_package(root.parent / "other", [], ["3.0", "4.0", "5.0"])
    return write_tree(root.parent, {"lines.toml": LINES}) / "lines.toml"


@pytest.mark.parametrize(
    ("choice", "demo", "other"),
    [
        (ReleaseChoice(), "1.2", "3.0"),
        (ReleaseChoice("new"), "1.10", "4.0"),
        (ReleaseChoice(None, {"demo": "1.10"}), "1.10", "4.0"),
        (ReleaseChoice(None, {"other": "3.0"}), "1.2", "3.0"),
        (ReleaseChoice("new", {"other": "5.0"}), "1.10", "5.0"),
        (ReleaseChoice(None, {"demo": "1.2", "other": "5.0"}), "1.2", "5.0"),
    ],
)
def test_a_partner_follows_from_the_line(lines: Path, choice: ReleaseChoice, demo: str, other: str) -> None:
    assert choose_releases(profile(), choice) == {"other": other, "demo": demo}


def test_a_profile_may_name_its_line_or_its_releases(lines: Path) -> None:
    assert choose_releases(profile(line="new")) == {"other": "4.0", "demo": "1.10"}
    own = [{"name": "demo", "version": "1.2", "patches": []}, {"name": "other", "patches": []}]
    assert choose_releases(profile(line="new", package=own)) == {"demo": "1.2", "other": "4.0"}
    assert choose_releases(profile(line="new"), ReleaseChoice("old")) == {"other": "3.0", "demo": "1.2"}


@pytest.mark.parametrize(
    ("choice", "what", "expected"),
    [
        (ReleaseChoice("gone"), "no release line gone", "old (demo 1.2, other 3.0); new"),
        (ReleaseChoice(None, {"demo": "7.0"}), "no pinned source for demo 7.0", "demo 1.2, demo 1.10"),
        (ReleaseChoice(None, {"dema": "1.2"}), "has no package dema", "nearest: demo"),
        (
            ReleaseChoice(None, {"other": "5.0"}),
            "The release of demo is not clear",
            "old (demo 1.2, other 3.0); new",
        ),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(
    lines: Path, choice: ReleaseChoice, what: str, expected: str
) -> None:
    with pytest.raises(UsageError) as caught:
        choose_releases(profile(), choice)
    assert what in caught.value.what
    assert expected in str(caught.value.expected)


def test_a_default_that_is_no_line_is_refused(lines: Path) -> None:
    edit(lines, 'default = "old"', 'default = "odd"')
    with pytest.raises(UsageError) as caught:
        read_lines()
    assert "there is no line odd; nearest: old" in str(caught.value.found)


# Revisions --------------------------------------------------------------------------------------------------


def test_content_that_changes_after_a_revision_is_published_needs_another(root: Path) -> None:
    assert revision_faults("demo") == []
    path = root / "package.toml"
    published = f'[published]\nrevision = 1\ndigests = {{ "1.2" = "{content_digest("demo", "1.2")}" }}\n'
    path.write_text(path.read_text() + published)
    assert revision_faults("demo") == []
    (root / "aaa/overlay/aaa.py").write_text("changed")
    assert revision_faults("demo") == ["demo 1.2: what users get changed since revision 1 was published"]
    edit(path, "revision = 1\nsets", "revision = 2\nsets")
    assert revision_faults("demo") == []


# The real ones ----------------------------------------------------------------------------------------------

REAL = [(name, version, item) for name, version in known_versions() for item in all_sets(name, version)]
IDS = [f"{name}-{version}-{item.name}" for name, version, item in REAL]
LOCKED = [(name, version, item) for name, version in known_versions() for item in combinations(name, version)]


def test_the_default_line_has_releases_of_both_packages() -> None:
    lines = read_lines()
    assert lines is not None
    known = known_versions()
    assert all(set(line.releases.items()) <= set(known) for line in lines.line)
    assert {name for name, _version in known} == {"causal-conv1d", "mamba-ssm"}


@pytest.mark.parametrize("profile", builtin_profiles(), ids=lambda profile: profile.name)
def test_each_package_of_the_newest_line_brings_the_other(profile: Profile) -> None:
    newest = {"causal-conv1d": "1.7.0", "mamba-ssm": "2.3.2.post1"}
    assert choose_releases(profile, ReleaseChoice("2.3")) == newest
    for package in newest.items():
        assert choose_releases(profile, ReleaseChoice(versions=dict([package]))) == newest
    assert choose_releases(profile) == {"causal-conv1d": "1.6.0", "mamba-ssm": "2.2.4"}


@pytest.mark.parametrize("profile", builtin_profiles(), ids=lambda profile: profile.name)
def test_the_releases_of_a_built_in_profile_have_patches(profile: Profile) -> None:
    for name, version in choose_releases(profile).items():
        assert (name, version) in known_versions()


@pytest.mark.parametrize(("name", "version", "item"), REAL, ids=IDS)
def test_every_patch_of_a_real_set_passes_the_strict_reader(name: str, version: str, item: PatchSet) -> None:
    for patch in item.meta.patch:
        assert all(read_patch(item.folder / text) for text in (patch.file, *patch.siblings))


@pytest.mark.parametrize(("name", "version", "which"), LOCKED)
def test_a_real_lock_covers_the_files_that_the_sets_patch(name: str, version: str, which: str) -> None:
    chosen = combinations(name, version)[which]
    patched = {
        diff.name for item in chosen for patch in item.patches for diff in read_patch(item.path(patch))
    }
    found = lock_for(name, version, chosen)
    assert found is not None
    assert set(found.files) == patched - {name for item in chosen for name in item.overlay_files()}
    assert all(file.before for file in found.files.values())
    assert combination(chosen) == which


@pytest.mark.parametrize("package", ["causal-conv1d", "mamba-ssm"])
def test_a_real_revision_is_raised_when_what_users_get_changes(package: str) -> None:
    assert revision_faults(package) == []
