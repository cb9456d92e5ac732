"""Servers that break off, never end, or answer a byte at a time: a file comes whole, or an error soon."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers import pin_of

from mambaport.errors import FetchError
from mambaport.pins import Pin
from mambaport.report import Report
from mambaport.sources import Fetcher, download, session
from mambaport.sources.index import IndexSettings
from mambaport.store import Store

CONTENT = bytes(range(256)) * 1200
NAME = "demo-1.0.tar.gz"
PAGE = f'<a href="/files/{NAME}">{NAME}</a>'.encode()


class Server(ThreadingHTTPServer):
    """An index with one file. ``fault`` says what is wrong, and ``left`` how many times."""

    daemon_threads = True
    fault = ""
    left = 0
    ranges = True
    requests: list[str]
    sent = 0
    ended: threading.Event


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        page = self.path.endswith("/demo/")
        wanted = self.headers.get("Range", "")
        self.server.requests.append(f"{'page' if page else 'file'} {wanted}".strip())
        where, _, fault = self.server.fault.rpartition(" ")
        if self.server.left > 0 and where == ("page" if page else "file"):
            self.server.left -= 1
            getattr(self, fault)(PAGE if page else CONTENT, wanted)
        else:
            self.whole(PAGE if page else CONTENT, wanted)

    def head(self, status: int, length: int | str | None, part: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        if length is not None:
            self.send_header("Content-Length", str(length))
        if part:
            self.send_header("Content-Range", part)
        self.send_header("ETag", '"one"')
        self.end_headers()

    def whole(self, body: bytes, wanted: str, cut: int | None = None) -> None:
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        part = f"bytes {start}-{len(body) - 1}/{len(body)}" if start else ""
        self.head(206 if start else 200, len(body) - start, part)
        self.write(body[start:][:cut])

    def write(self, data: bytes) -> None:
        self.server.sent += len(data)
        self.wfile.write(data)

    def cut(self, body: bytes, wanted: str) -> None:
        """Breaks off after 100 kB."""
        self.whole(body, wanted, 100_000)
        self.close_connection = True

    def at_once(self, _body: bytes, _wanted: str) -> None:
        """Breaks off before any answer."""
        self.close_connection = True

    def busy(self, _body: bytes, _wanted: str) -> None:
        self.send_error(503)

    def endless(self, _body: bytes, _wanted: str) -> None:
        """No length, and no end."""
        self.head(200, None)
        self.close_connection = True
        try:
            while not self.server.ended.is_set():
                self.write(b"<a>" * 20_000)
        except OSError:
            pass

    def endless_busy(self, _body: bytes, _wanted: str) -> None:
        self.send_response(503)
        self.send_header("Retry-After", "86400")
        self.end_headers()
        self.close_connection = True
        try:
            while not self.server.ended.is_set():
                self.write(b"busy" * 20_000)
        except OSError:
            pass

    def larger(self, body: bytes, _wanted: str) -> None:
        self.head(200, len(body) * 10_000)
        self.close_connection = True

    def huge(self, _body: bytes, _wanted: str) -> None:
        """A length of thousands of digits."""
        self.head(200, "9" * 5000)
        self.close_connection = True

    def drip(self, body: bytes, _wanted: str) -> None:
        """One byte after another."""
        self.head(200, len(body))
        self.drip_on(body)

    def drip_head(self, _body: bytes, _wanted: str) -> None:
        self.drip_on(b"HTTP/1.1 200 " + b"x" * 10_000)

    def drip_on(self, data: bytes) -> None:
        self.close_connection = True
        try:
            for number in range(len(data)):
                self.wfile.write(data[number : number + 1])
                if self.server.ended.wait(0.05):
                    return
        except OSError:
            pass

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.requests, running.ended = [], threading.Event()
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.ended.set()
        running.shutdown()


@pytest.fixture
def pin(tmp_path: Path) -> Pin:
    path = tmp_path / NAME
    path.write_bytes(CONTENT)
    return pin_of(path)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "BACKOFF", 0.01)
    monkeypatch.setattr(session, "MAX_PAGE", 1 << 20)
    monkeypatch.setattr(download, "PATIENCE", 0.4)
    monkeypatch.setattr(download, "LEAST_SPEED", 1_000_000)


def fetcher(tmp_path: Path, server: Server) -> Fetcher:
    url = f"http://127.0.0.1:{server.server_port}/simple/"
    return Fetcher(Store(tmp_path / "store"), IndexSettings(url, None), Report(quiet=True))


@pytest.mark.parametrize("fault", ["page at_once", "page busy", "file at_once", "file busy", "file cut"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_fault_that_passes_is_tried_again(
    tmp_path: Path, server: Server, pin: Pin, fault: str, times: int
) -> None:
    server.fault, server.left = fault, times
    assert fetcher(tmp_path, server).fetch(pin).read_bytes() == CONTENT
    assert server.left == 0


def test_a_download_goes_on_where_it_broke_off(tmp_path: Path, server: Server, pin: Pin) -> None:
    server.fault, server.left = "file cut", 2
    assert fetcher(tmp_path, server).fetch(pin).read_bytes() == CONTENT
    first, second, third = (line for line in server.requests if line.startswith("file"))
    starts = [int(line.removeprefix("file bytes=").rstrip("-")) for line in (second, third)]
    assert first == "file"
    assert 80_000 < starts[0] <= 100_000
    assert 180_000 < starts[1] <= 200_000
    assert server.sent < len(CONTENT) + len(PAGE) + 3 * session.CHUNK


def test_a_server_without_ranges_begins_again(tmp_path: Path, server: Server, pin: Pin) -> None:
    server.fault, server.left, server.ranges = "file cut", 2, False
    assert fetcher(tmp_path, server).fetch(pin).read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["file at_once", "file busy", "page busy", "page at_once"])
def test_a_fault_that_stays_is_an_error(tmp_path: Path, server: Server, pin: Pin, fault: str) -> None:
    server.fault, server.left = fault, 1000
    with pytest.raises(FetchError, match="cannot be reached"):
        fetcher(tmp_path, server).fetch(pin)
    assert 1000 - server.left <= (session.RETRIES + 1) ** 2
    assert Store(tmp_path / "store").entries() == []


@pytest.mark.parametrize("fault", ["file endless", "file larger"])
def test_no_more_than_the_pinned_size_is_written(
    tmp_path: Path, server: Server, pin: Pin, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PATIENCE", 30.0)
    server.fault, server.left = fault, 1
    with pytest.raises(FetchError, match="is not the pinned file") as caught:
        fetcher(tmp_path, server).fetch(pin)
    assert f"{len(CONTENT)} bytes" in str(caught.value.expected)
    assert server.sent < 30 << 20  # the buffers of the connection
    assert Store(tmp_path / "store").entries() == []


@pytest.mark.parametrize("fault", ["page huge", "file huge"])
def test_a_length_of_thousands_of_digits_is_an_error(
    tmp_path: Path, server: Server, pin: Pin, fault: str
) -> None:
    server.fault, server.left = fault, 1000
    with pytest.raises(FetchError):
        fetcher(tmp_path, server).fetch(pin)


@pytest.mark.parametrize("fault", ["page endless", "page endless_busy", "file endless_busy"])
def test_an_endless_page_is_an_error(tmp_path: Path, server: Server, pin: Pin, fault: str) -> None:
    server.fault, server.left = fault, 1000
    started = time.monotonic()
    with pytest.raises(FetchError, match=r"cannot be reached|comes too slowly"):
        fetcher(tmp_path, server).fetch(pin)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("fault", ["page drip", "page drip_head", "file drip", "file drip_head"])
def test_a_byte_at_a_time_is_given_up(tmp_path: Path, server: Server, pin: Pin, fault: str) -> None:
    server.fault, server.left = fault, 1000
    pin = pin.model_copy(update={"size": len(CONTENT)})
    started = time.monotonic()
    with pytest.raises(FetchError, match=r"cannot be reached|comes too slowly") as caught:
        fetcher(tmp_path, server).fetch(pin)
    assert time.monotonic() - started < 5
    assert caught.value.hint is not None
    assert "--mirror" in caught.value.hint
