"""Fetching: from the store, a mirror folder or an index; trusted only when its sha256 is the pinned one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers import pin_of

from mambaport.errors import FetchError, UsageError
from mambaport.pins import Pin
from mambaport.report import Report
from mambaport.sources import Fetcher
from mambaport.sources.client import Client
from mambaport.sources.index import IndexSettings, index_settings
from mambaport.store import Store

CONTENT = b"an archive\n" * 1000


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "demo-1.0.tar.gz").write_bytes(CONTENT)
    return folder


@pytest.fixture
def pin(mirror: Path) -> Pin:
    return pin_of(mirror / "demo-1.0.tar.gz")


def fetcher(tmp_path: Path, mirror: Path | None, *, url: str | None = None, offline: bool = False) -> Fetcher:
    store = Store(tmp_path / "store")
    return Fetcher(store, IndexSettings(url, mirror), Report(quiet=True), offline=offline)


def test_a_file_comes_from_the_mirror_and_then_from_the_store(tmp_path: Path, mirror: Path, pin: Pin) -> None:
    path = fetcher(tmp_path, mirror).fetch(pin)
    assert path.read_bytes() == CONTENT
    (mirror / pin.filename).unlink()
    assert fetcher(tmp_path, mirror, offline=True).fetch(pin) == path


def test_a_tampered_file_is_refused_with_both_digests_and_not_kept(
    tmp_path: Path, mirror: Path, pin: Pin
) -> None:
    (mirror / pin.filename).write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(FetchError, match="is not the pinned file") as caught:
        fetcher(tmp_path, mirror).fetch(pin)
    assert pin.sha256 in str(caught.value.expected)
    assert pin_of(mirror / pin.filename).sha256 in str(caught.value.found)
    assert caught.value.exit_code == 10
    assert Store(tmp_path / "store").entries() == []


@pytest.mark.parametrize("kept", [0, 1, len(CONTENT) - 1])
def test_a_truncated_file_is_said_to_be_truncated(tmp_path: Path, mirror: Path, pin: Pin, kept: int) -> None:
    (mirror / pin.filename).write_bytes(CONTENT[:kept])
    with pytest.raises(FetchError, match="is truncated") as caught:
        fetcher(tmp_path, mirror).fetch(pin)
    assert f"{kept} bytes" in str(caught.value.found)
    assert f"{len(CONTENT)} bytes" in str(caught.value.expected)


def test_a_mirror_without_the_file_is_named(tmp_path: Path, mirror: Path, pin: Pin) -> None:
    (mirror / pin.filename).unlink()
    with pytest.raises(FetchError, match=r"The mirror has no demo-1\.0\.tar\.gz") as caught:
        fetcher(tmp_path, mirror).fetch(pin)
    assert str(mirror) in str(caught.value.found)


def test_offline_asks_nobody_and_says_what_to_do(tmp_path: Path, mirror: Path, pin: Pin) -> None:
    with pytest.raises(FetchError, match="is not in the store") as caught:
        fetcher(tmp_path, mirror, offline=True).fetch(pin)
    assert "--offline" in str(caught.value.hint)


def test_a_file_damaged_in_the_store_is_fetched_again(tmp_path: Path, mirror: Path, pin: Pin) -> None:
    path = fetcher(tmp_path, mirror).fetch(pin)
    path.write_bytes(b"bit rot")
    assert fetcher(tmp_path, mirror).fetch(pin).read_bytes() == CONTENT


def test_a_file_missing_from_its_entry_is_fetched_again(tmp_path: Path, mirror: Path, pin: Pin) -> None:
    fetcher(tmp_path, mirror).fetch(pin).unlink()
    assert fetcher(tmp_path, mirror).fetch(pin).read_bytes() == CONTENT


def test_a_mirror_that_is_no_folder_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="not a folder"):
        index_settings(None, tmp_path / "missing")
    monkeypatch.setenv("MAMBAPORT_MIRROR", str(tmp_path / "named-by-the-environment"))
    with pytest.raises(UsageError, match="not a folder") as caught:
        index_settings(None, None)
    assert "named-by-the-environment" in str(caught.value.found)


@pytest.mark.parametrize(
    ("option", "own", "pip", "expected"),
    [
        ("http://option/", "http://own/", "http://pip/", "http://option/"),
        (None, "http://own/", "http://pip/", "http://own/"),
        (None, None, "http://pip/", "http://pip/"),
    ],
)
def test_the_index_is_the_option_then_our_variable_then_pips(
    monkeypatch: pytest.MonkeyPatch, option: str | None, own: str | None, pip: str, expected: str
) -> None:
    if own is not None:
        monkeypatch.setenv("MAMBAPORT_INDEX_URL", own)
    settings = {"index-url": pip, "extra-index-url": "http://extra/"}
    client = Client(index_settings(option, None), settings)
    assert client.endpoints == [expected, "http://extra/"]


# An index on this machine ------------------------------------------------------------------------------

Answer = Callable[[BaseHTTPRequestHandler], None]
Index = Callable[[Answer], AbstractContextManager[str]]


@pytest.fixture
def index(mirror: Path, pin: Pin) -> Index:
    """A package index on a port of this machine that lists the file, and answers for it as told."""

    @contextmanager
    def serve(answer: Answer) -> Iterator[str]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.endswith("/demo/"):
                    reply(self, f'<a href="/files/{pin.filename}">{pin.filename}</a>'.encode())
                elif self.path.startswith("/files/"):
                    answer(self)
                else:
                    self.send_error(404)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}/simple/"
            server.shutdown()

    return serve


def reply(request: BaseHTTPRequestHandler, body: bytes, length: int | None = None) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "text/html")
    request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    request.wfile.write(body)


def test_a_file_comes_from_the_index(tmp_path: Path, pin: Pin, index: Index) -> None:
    with index(lambda request: reply(request, CONTENT)) as url:
        assert fetcher(tmp_path, None, url=url).fetch(pin).read_bytes() == CONTENT


def test_an_index_with_another_file_under_that_name_is_refused(
    tmp_path: Path, pin: Pin, index: Index
) -> None:
    with (
        index(lambda request: reply(request, CONTENT + b"more")) as url,
        pytest.raises(FetchError, match="is not the pinned file"),
    ):
        fetcher(tmp_path, None, url=url).fetch(pin)
    assert Store(tmp_path / "store").entries() == []


def test_a_download_that_breaks_off_is_a_fetch_error(tmp_path: Path, pin: Pin, index: Index) -> None:
    with (
        index(lambda request: reply(request, CONTENT[:100], length=len(CONTENT))) as url,
        pytest.raises(FetchError),
    ):
        fetcher(tmp_path, None, url=url).fetch(pin)
    assert Store(tmp_path / "store").entries() == []


def test_an_index_that_refuses_the_file_is_a_fetch_error(tmp_path: Path, pin: Pin, index: Index) -> None:
    with (
        index(lambda request: request.send_error(403)) as url,
        pytest.raises(FetchError, match="cannot be reached"),
    ):
        fetcher(tmp_path, None, url=url).fetch(pin)


def test_an_index_without_the_project_or_the_file_says_so(tmp_path: Path, pin: Pin, index: Index) -> None:
    with index(lambda request: reply(request, CONTENT)) as url:
        ask = fetcher(tmp_path, None, url=url)
        with pytest.raises(FetchError, match="has no project other"):
            ask.fetch(pin.model_copy(update={"project": "other"}))
        with pytest.raises(FetchError, match=r"has no demo-2\.0\.tar\.gz") as caught:
            ask.fetch(pin.model_copy(update={"filename": "demo-2.0.tar.gz"}))
    assert caught.value.found == "1 other files of demo"


JSON = "application/vnd.pypi.simple.v1+json"
PAGES: list[tuple[str, bytes]] = [
    (JSON, b'{"meta": {"api-version": "9.0"}, "name": "demo", "files": []}'),
    (JSON, b'{"meta": {"api-version": "one"}, "name": "demo", "files": []}'),
    (JSON, b'{"meta": {}}'),
    (JSON, b'{"name": '),
    (JSON, b"[]"),
    (JSON, b"null"),
    (JSON, b"[" * 100_000),
    (JSON, b"\xff\xfe"),
    (JSON, b'{"meta": {"api-version": "1.0"}, "name": "demo", "files": [{"filename": 7}]}'),
    (JSON, b'{"meta": {"api-version": "1.0"}, "name": "demo", "files": {"a": 1}}'),
    ("text/html", b'<meta name="pypi:repository-version" content="9.0"><a href="x">x</a>'),
    ("text/html", b'<meta name="pypi:repository-version" content="none">'),
    ("text/html; charset=no-such", b'<a href="http://[">demo</a>'),
    ("text/html", b"\0\xff<a href>"),
    ("application/pdf", b"%PDF"),
]


@pytest.mark.parametrize(("kind", "body"), PAGES, ids=[f"{kind} {body[:24]!r}" for kind, body in PAGES])
def test_an_answer_that_is_none_is_a_fetch_error(tmp_path: Path, pin: Pin, kind: str, body: bytes) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(FetchError) as caught:
            fetcher(tmp_path, None, url=f"http://127.0.0.1:{server.server_port}/simple/").fetch(pin)
        server.shutdown()
    assert caught.value.hint
