"""An index as a stranger may serve it: whatever its pages say, nothing but the right wheel is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_indexing import run, wheel

from mambaport.errors import FetchError, IndexFault, InstallError, MambaportError, UsageError
from mambaport.indexes import read_sums, sums_text
from mambaport.report import Report
from mambaport.sources.client import Client
from mambaport.sources.index import IndexSettings
from mambaport.sources.wheel_index import WheelIndex

PAGE = "my-board/simple/demo/index.json"
NAME = "demo-1.0+my.board.1-py3-none-any.whl"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    run(wheel(tmp_path / "house"), "-o", tmp_path / "site")
    return tmp_path / "site"


def opened(address: str | Path, **options: bool) -> WheelIndex:
    return WheelIndex(str(address), Client(IndexSettings(None, None), {}), Report(quiet=True), **options)


def bring(address: str | Path, into: Path, version: str = "1.0+my.board.1") -> list[str]:
    into.mkdir(exist_ok=True)
    opened(address).bring("my-board", {"demo": version}, "aarch64", into)
    return [path.name for path in into.iterdir()]


def rewrite(site: Path, name: str, content: bytes) -> None:
    """Changes a file, and SHA256SUMS with it, as whoever controls the server can."""
    (site / name).write_bytes(content)
    sums = read_sums((site / "SHA256SUMS").read_text())
    sums[name] = hashlib.sha256(content).hexdigest()
    (site / "SHA256SUMS").write_text(sums_text(sums))


def change_page(site: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads((site / PAGE).read_text())
    rewrite(site, PAGE, json.dumps(change(data) or data).encode())


def test_the_wheel_is_brought(site: Path, tmp_path: Path) -> None:
    assert bring(site, tmp_path / "into") == [NAME]
    assert bring(site.as_uri(), tmp_path / "by-uri") == [NAME]


@pytest.mark.parametrize(
    "name", ["../../demo-1.0+my.board.1-py3-none-any.whl", "/demo-1.0-py3-none-any.whl", "x"]
)
def test_a_name_that_leaves_the_folder_is_no_wheel(site: Path, tmp_path: Path, name: str) -> None:
    change_page(site, lambda data: data["files"][0].update(filename=name))
    with pytest.raises(InstallError, match=r"has no demo 1\.0\+my\.board\.1"):
        bring(site, tmp_path / "into")
    assert not list((tmp_path / "into").iterdir())


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"files": 3},
        {"files": [{"filename": 3}]},
        {"files": [{"filename": NAME, "hashes": {"sha256": 5}}]},
    ],
    ids=["list", "number", "name", "digest"],
)
def test_a_page_of_another_form_is_named(site: Path, tmp_path: Path, data: Any) -> None:
    rewrite(site, PAGE, json.dumps(data).encode())
    with pytest.raises(IndexFault, match=r"simple/demo/index\.json is not the file that the index names"):
        bring(site, tmp_path / "into")


def test_a_page_with_a_digest_of_another_wheel_is_named(site: Path, tmp_path: Path) -> None:
    change_page(site, lambda data: data["files"][0]["hashes"].update(sha256="0" * 64))
    with pytest.raises(IndexFault, match=r"simple/demo/index\.json is not"):
        bring(site, tmp_path / "into")


def test_metadata_that_the_wheel_does_not_have_is_named_even_with_right_digests(
    site: Path, tmp_path: Path
) -> None:
    content = b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0+my.board.1\nRequires-Dist: evil\n"
    rewrite(site, f"my-board/files/{NAME}.metadata", content)
    digest = hashlib.sha256(content).hexdigest()
    change_page(site, lambda data: data["files"][0].update({"core-metadata": {"sha256": digest}}))
    with pytest.raises(IndexFault, match=r"whl\.metadata is not"):
        bring(site, tmp_path / "into")


def test_a_server_that_changes_everything_is_found_by_the_digest_in_the_address(site: Path) -> None:
    address = f"{site}#sha256={hashlib.sha256((site / 'SHA256SUMS').read_bytes()).hexdigest()}"
    opened(address)
    change_page(site, lambda data: data.update(more=1))
    opened(site)
    with pytest.raises(IndexFault, match="SHA256SUMS is not the file that the index names"):
        opened(address)


@pytest.mark.parametrize(
    "text", ["", "x\n", f"{'0' * 64}  ../x\n", f"{'0' * 64}  /x\n", f"{'0' * 64}  a\n{'0' * 64}  a\n"]
)
def test_sums_of_another_form_are_an_error_or_an_empty_index(site: Path, tmp_path: Path, text: str) -> None:
    (site / "SHA256SUMS").write_text(text)
    with pytest.raises(MambaportError) as caught:
        bring(site, tmp_path / "into")
    assert isinstance(caught.value, IndexFault if text else InstallError)


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("http://[x/", UsageError),
        ("ftp://host/x", UsageError),
        ("http://host/x#sha256=12", UsageError),
        ("nowhere", FetchError),
        ("http://127.0.0.1:9/", FetchError),
    ],
)
def test_an_address_without_an_index_is_an_error(address: str, error: type[MambaportError]) -> None:
    with pytest.raises(error):
        opened(address)


def test_offline_a_server_is_not_asked() -> None:
    with pytest.raises(FetchError, match="offline"):
        opened("http://127.0.0.1:9/", offline=True)
