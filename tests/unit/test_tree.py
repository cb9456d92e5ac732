"""Pristine trees: one or several archives made into one source."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import member, pin_of, read_tree, write_sdist
from hypothesis import given
from hypothesis import strategies as st

from mambaport.digests import tree_sha256
from mambaport.errors import FetchError
from mambaport.releases import Archive, Source
from mambaport.sources import assemble


@pytest.fixture
def archives(tmp_path: Path) -> list[Path]:
    one = [member("demo-1.0/setup.py", b"one"), member("demo-1.0/PKG-INFO", b"info")]
    two = [member("demo-2.0/setup.py", b"two"), member("demo-2.0/csrc/a.c", b"c")]
    return [
        write_sdist(tmp_path / "demo-1.0.tar.gz", one),
        write_sdist(tmp_path / "demo-2.0.tar.gz", two),
    ]


def source(archives: list[Path], **second: object) -> Source:
    def archive(path: Path, **fields: object) -> Archive:
        return Archive.model_validate({**pin_of(path).model_dump(), **fields})

    return Source(
        package="demo",
        version="1.0",
        epoch=1_700_000_000,
        local_version_variable="DEMO_LOCAL",
        fallback_variable="DEMO_FALLBACK",
        license="Apache-2.0",
        homepage="x",
        archive=(
            archive(archives[0], strip="demo-1.0", exclude=["PKG-INFO"]),
            archive(archives[1], **{"strip": "demo-2.0", **second}),
        ),
    )


def test_two_archives_make_one_tree_of_the_files_that_are_wanted(
    tmp_path: Path, archives: list[Path]
) -> None:
    assemble(source(archives, only=["csrc/*"]), archives, tmp_path / "tree")
    assert read_tree(tmp_path / "tree") == {"setup.py": "one", "csrc/a.c": "c"}


def test_a_file_from_two_archives_is_refused(tmp_path: Path, archives: list[Path]) -> None:
    with pytest.raises(FetchError, match=r"Two archives have setup\.py"):
        assemble(source(archives), archives, tmp_path / "tree")


@pytest.mark.parametrize("second", [{"only": ["gpu/*"]}, {"strip": "demo-3.0"}])
def test_an_archive_that_gives_nothing_is_refused(
    tmp_path: Path, archives: list[Path], second: dict[str, object]
) -> None:
    with pytest.raises(FetchError, match=r"demo-2\.0\.tar\.gz has none of the files"):
        assemble(source(archives, **second), archives, tmp_path / "tree")


names = st.sampled_from(["a", "b", "c/a", "c/b", "d/e/f"])


@given(st.dictionaries(names, st.binary(max_size=5)), st.dictionaries(names, st.binary(max_size=5)))
def test_two_trees_have_one_digest_exactly_when_names_and_contents_agree(
    tmp_path_factory: pytest.TempPathFactory, one: dict[str, bytes], other: dict[str, bytes]
) -> None:
    roots = []
    for files in (one, other):
        root = tmp_path_factory.mktemp("tree")
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        roots.append(root)
    assert (tree_sha256(roots[0]) == tree_sha256(roots[1])) == (one == other)


def test_a_trees_digest_does_not_depend_on_modes_or_times(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    before = tree_sha256(tmp_path)
    (tmp_path / "a").chmod(0o755)
    assert tree_sha256(tmp_path) == before
