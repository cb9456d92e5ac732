"""Sdists that are not pinned: found by version, newest last, or refused with those that exist."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import member, write_sdist

from mambaport.errors import FetchError, UsageError
from mambaport.report import Report
from mambaport.sources import Fetcher, bring_sdist, known_sdists
from mambaport.sources.index import IndexSettings
from mambaport.store import Store

NAMES = (
    "demo_ssm-2.2.4.tar.gz",
    "demo_ssm-2.3.2.post1.tar.gz",
    "demo_ssm-2.10.0.tar.gz",
    "demo_ssm-3.0rc1.tar.gz",
    "demo_ssm-2.2.4-py3-none-any.whl",
    "other-9.0.tar.gz",
    "notes.tar.gz",
)


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name in NAMES:
        write_sdist(mirror / name, [member("demo/x.py", b"x", mtime=7), member("demo/y.py", b"y", mtime=9.5)])
    return Fetcher(Store(tmp_path / "store"), IndexSettings(None, mirror), Report(quiet=True))


def test_versions_sort_as_versions_and_other_projects_are_left_out(fetcher: Fetcher) -> None:
    assert list(map(str, known_sdists(fetcher, "demo-ssm"))) == ["2.2.4", "2.3.2.post1", "2.10.0", "3.0rc1"]


@pytest.mark.parametrize(
    ("wanted", "version"), [("latest", "2.10.0"), ("2.3.2.post1", "2.3.2.post1"), ("3.0rc1", "3.0rc1")]
)
def test_a_version_is_brought_with_digest_and_epoch(
    tmp_path: Path, fetcher: Fetcher, wanted: str, version: str
) -> None:
    sdist = bring_sdist(fetcher, "demo-ssm", wanted, tmp_path)
    assert (sdist.version, sdist.path.name, sdist.epoch) == (version, f"demo_ssm-{version}.tar.gz", 9)
    assert len(sdist.sha256) == 64


def test_a_version_that_does_not_exist_names_those_that_do(tmp_path: Path, fetcher: Fetcher) -> None:
    with pytest.raises(FetchError, match=r"no sdist of demo-ssm 2\.3\.2$") as caught:
        bring_sdist(fetcher, "demo-ssm", "2.3.2", tmp_path)
    assert caught.value.hint == "2.3.2.post1 exists"
    assert caught.value.found == "releases: 2.2.4, 2.3.2.post1, 2.10.0, 3.0rc1"
    with pytest.raises(FetchError):
        bring_sdist(fetcher, "gone", "latest", tmp_path)


def test_what_is_no_version_is_refused(tmp_path: Path, fetcher: Fetcher) -> None:
    with pytest.raises(UsageError, match="newest is not a version"):
        bring_sdist(fetcher, "demo-ssm", "newest", tmp_path)


def test_offline_there_are_none(tmp_path: Path, fetcher: Fetcher) -> None:
    fetcher.offline = True
    with pytest.raises(UsageError, match="not in the store"):
        bring_sdist(fetcher, "demo-ssm", "latest", tmp_path)
