"""Excerpts: parts of a wheel on an index, in ranges where the server serves them, and never another part."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers import pin_of, write_tree, write_zip

from mambaport.digests import tree_sha256
from mambaport.errors import FetchError
from mambaport.pins.cuda import Excerpt, cuda_releases, torch_releases
from mambaport.report import Report
from mambaport.sources import Fetcher, take
from mambaport.sources.index import IndexSettings
from mambaport.store import Store

WANTED = {"demo/include/a.h": "a\n" * 1000, "demo/include/deep/b.h": "b"}
MEMBERS = ("demo/include/*",)


class Server(ThreadingHTTPServer):
    """A package index with one file. Counts the bytes of it that it sends."""

    ranges = True
    sent = 0
    content = b""
    name = ""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path.endswith("/demo/"):
            self.reply(200, f'<a href="/files/{self.server.name}">{self.server.name}</a>'.encode())
            return
        content, what = self.server.content, self.headers.get("Range")
        if what is None or not self.server.ranges:
            self.server.sent += len(content)
            self.reply(200, content)
            return
        first, last = (int(part) for part in what.removeprefix("bytes=").split("-"))
        part = content[first : last + 1]
        self.server.sent += len(part)
        self.reply(206, part, f"bytes {first}-{last}/{len(content)}")

    def reply(self, status: int, body: bytes, part: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        if part:
            self.send_header("Content-Range", part)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel with two wanted files after 12 MB that nobody wants."""
    import os

    files = [("demo/lib/large.so", os.urandom(12 << 20)), *((n, t.encode()) for n, t in WANTED.items())]
    return write_zip(tmp_path / "demo-1.0-py3-none-any.whl", files)


@pytest.fixture
def excerpt(tmp_path: Path, wheel: Path) -> Excerpt:
    digest = tree_sha256(write_tree(tmp_path / "wanted", WANTED))
    return Excerpt(**pin_of(wheel).model_dump(), members=MEMBERS, content_sha256=digest)


@pytest.fixture
def index(wheel: Path) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.content, server.name = wheel.read_bytes(), wheel.name
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def fetcher(tmp_path: Path, server: Server | None, mirror: Path | None = None, **options: bool) -> Fetcher:
    url = f"http://127.0.0.1:{server.server_port}/simple/" if server else None
    return Fetcher(Store(tmp_path / "store"), IndexSettings(url, mirror), Report(quiet=True), **options)


def test_only_the_part_is_sent(tmp_path: Path, excerpt: Excerpt, index: Server) -> None:
    take(fetcher(tmp_path, index), excerpt, tmp_path / "out", Report(quiet=True))
    assert tree_sha256(tmp_path / "out") == excerpt.content_sha256
    assert 0 < index.sent < 10 << 20


def test_a_server_without_ranges_sends_the_whole_file(
    tmp_path: Path, excerpt: Excerpt, index: Server
) -> None:
    index.ranges = False
    take(fetcher(tmp_path, index), excerpt, tmp_path / "new/out", Report(quiet=True))
    assert tree_sha256(tmp_path / "new/out") == excerpt.content_sha256
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_another_file_under_that_name_is_refused(tmp_path: Path, excerpt: Excerpt, index: Server) -> None:
    other = write_zip(tmp_path / "other.whl", [("demo/include/a.h", b"changed")])
    index.content = other.read_bytes()
    with pytest.raises(FetchError, match="not the pinned one"):
        take(fetcher(tmp_path, index), excerpt, tmp_path / "out", Report(quiet=True))
    index.ranges = False
    with pytest.raises(FetchError, match=r"truncated|not the pinned file"):
        take(fetcher(tmp_path, index), excerpt, tmp_path / "out2", Report(quiet=True))


@pytest.mark.parametrize("name", ["demo/include/../../../evil", "/demo/include/evil"])
def test_a_member_that_leaves_the_folder_is_refused(
    tmp_path: Path, excerpt: Excerpt, index: Server, name: str
) -> None:
    index.content = write_zip(tmp_path / "evil.whl", [(name, b"x")]).read_bytes()
    changed = excerpt.model_copy(update={"members": ("*",)})
    with pytest.raises(FetchError, match="is refused"):
        take(fetcher(tmp_path, index), changed, tmp_path / "out", Report(quiet=True))


def test_what_is_no_wheel_is_damaged(tmp_path: Path, excerpt: Excerpt, index: Server) -> None:
    index.content = b"no zip at all" * 100
    with pytest.raises(FetchError, match="is damaged"):
        take(fetcher(tmp_path, index), excerpt, tmp_path / "out", Report(quiet=True))


def test_a_mirror_and_the_store_stand_in_for_the_index(tmp_path: Path, wheel: Path, excerpt: Excerpt) -> None:
    take(fetcher(tmp_path, None, wheel.parent), excerpt, tmp_path / "out", Report(quiet=True))
    take(fetcher(tmp_path, None, offline=True), excerpt, tmp_path / "again", Report(quiet=True))
    assert tree_sha256(tmp_path / "again") == excerpt.content_sha256


def test_offline_with_an_empty_store_is_said(tmp_path: Path, excerpt: Excerpt) -> None:
    with pytest.raises(FetchError, match="is not in the store"):
        take(fetcher(tmp_path, None, offline=True), excerpt, tmp_path / "out", Report(quiet=True))


def test_the_pins_that_travel_with_mambaport_are_whole() -> None:
    for release in cuda_releases():
        assert release.tools
        assert all(part.members == ("nvidia/*/include/*",) for part in release.headers)
    targets = [(item.minor, item.arch) for item in torch_releases()]
    assert len(set(targets)) == len(targets)
    for item in torch_releases():
        assert item.version in item.headers.filename
        assert all("torch/lib/libtorch_python.so" not in part.members for part in item.parts)
