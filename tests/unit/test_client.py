"""The places that pip's settings name, on real servers of this machine."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers import write_tree

from mambaport.errors import FetchError, UsageError
from mambaport.pip_settings import pip_settings
from mambaport.report import Report
from mambaport.sources import client as module
from mambaport.sources import known_sdists, session
from mambaport.sources.client import Client
from mambaport.sources.fetch import Fetcher
from mambaport.sources.index import IndexSettings
from mambaport.store import Store

NAME = "demo-1.0.tar.gz"
Serve = Callable[..., str]


@pytest.fixture(autouse=True)
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that refuses is asked once: retries wait for seconds."""
    monkeypatch.setattr(session, "RETRIES", 0)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server with these pages, with TLS where a context is given, and returns its URL."""
    with ExitStack() as stack:

        def start(pages: dict[str, str], tls: ssl.SSLContext | None = None) -> str:
            class Handler(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    body = pages.get(self.path)
                    if body is None:
                        self.send_error(404)
                        return
                    self.send_response(200)
                    self.send_header("Content-Type", "text/html")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body.encode())

                def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                    pass

            class Server(ThreadingHTTPServer):
                def handle_error(self, *_: object) -> None:
                    pass  # clients that do not trust this server hang up

                def finish_request(self, request: object, address: object) -> None:
                    if tls is not None:  # in the request's thread
                        request = tls.wrap_socket(request, server_side=True)  # type: ignore[arg-type]
                    super().finish_request(request, address)  # type: ignore[arg-type]

            server = stack.enter_context(Server(("127.0.0.1", 0), Handler))
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            stack.callback(server.shutdown)
            return f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"

        yield start


PAGES = {
    "/simple/demo/": f'<a href="/files/{NAME}">{NAME}</a>',
    f"/files/{NAME}": "the file",
    "/links": f'<a href="files/{NAME}">{NAME}</a> <a href="other-1.0.tar.gz">other-1.0.tar.gz</a>',
}


def brought(tmp_path: Path, url: str | None = None, **settings: str) -> str:
    """The text of the file, from the index `url` and the places that pip's settings name."""
    named = {key.replace("_", "-"): value for key, value in settings.items()}
    client = Client(IndexSettings(url, None), named)
    client.download(client.find("demo", NAME), tmp_path / "got", 100, Report(quiet=True))
    return (tmp_path / "got").read_text()


class TestPlaces:
    def test_an_extra_index(self, serve: Serve, tmp_path: Path) -> None:
        main, extra = serve({}), serve(PAGES)
        with pytest.raises(FetchError, match="has no project demo"):
            brought(tmp_path, index_url=f"{main}/simple")
        both = f"{main}/other\n{extra}/simple"
        assert brought(tmp_path, index_url=f"{main}/simple", extra_index_url=both) == "the file"
        assert brought(tmp_path, f"{main}/simple", extra_index_url=both) == "the file"

    def test_an_index_that_is_down_is_reported_only_where_no_other_has_the_file(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        down, up, empty = "http://127.0.0.1:9/simple", serve(PAGES), serve({})
        assert brought(tmp_path, index_url=down, extra_index_url=f"{up}/simple") == "the file"
        with pytest.raises(FetchError, match="cannot be reached"):
            brought(tmp_path, index_url=down, extra_index_url=f"{empty}/simple")

    def test_an_index_in_a_folder(self, tmp_path: Path) -> None:
        page = f'<a href="../../files/{NAME}#sha256=00">{NAME}</a>'
        write_tree(tmp_path / "a", {"simple/demo/index.html": page, f"files/{NAME}": "the file"})
        write_tree(tmp_path / "b", {f"simple/demo/{NAME}": "the file"})
        for name in ("a", "b"):
            url = (tmp_path / name / "simple").as_uri()
            assert brought(tmp_path, index_url=url) == "the file"

    def test_links_are_a_folder_a_page_or_a_file_by_path_or_url(
        self, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_tree(tmp_path / "folder", {NAME: "the file", "demo-0.9.tar.gz": "x", "notes.txt": "x"})
        write_tree(tmp_path, {"page.html": f'<a href="folder/{NAME}">{NAME}</a>'})
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        paths = [tmp_path / "folder", tmp_path / "page.html", tmp_path / "folder" / NAME]
        words = [
            *map(str, paths),
            *(path.as_uri() for path in paths),
            "folder",
            "~/folder",
            f"{serve(PAGES)}/links",
        ]
        for word in words:
            assert brought(tmp_path, find_links=f"/nowhere {word}", no_index="true") == "the file", word

    def test_without_an_index_only_links_and_an_index_named_to_mambaport_count(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        url = f"{serve(PAGES)}/simple"
        with pytest.raises(FetchError, match="has no project demo"):
            brought(tmp_path, index_url=url, extra_index_url=url, no_index="true")
        assert brought(tmp_path, url, no_index="true") == "the file"

    def test_releases_of_every_place_are_known(
        self, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_tree(tmp_path / "links", {"demo-0.9.tar.gz": "x", "demo-0.9-py3-none-any.whl": "x"})
        settings = {"index-url": f"{serve(PAGES)}/simple", "find-links": str(tmp_path / "links")}
        monkeypatch.setattr(module, "pip_settings", lambda _python: settings)
        fetcher = Fetcher(Store(tmp_path / "store"), IndexSettings(None, None), Report(quiet=True))
        assert [str(version) for version in known_sdists(fetcher, "demo")] == ["0.9", "1.0"]

    @pytest.mark.parametrize("how", ["environment", "file"])
    def test_pips_own_settings_count(
        self, how: str, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_tree(tmp_path / "links", {NAME: "the file"})
        if how == "environment":
            monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
            monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
            monkeypatch.setenv("PIP_NO_INDEX", "1")
        else:
            text = f"[global]\nno-index = true\nfind-links =\n    /nowhere\n    {tmp_path / 'links'}\n"
            write_tree(tmp_path, {"pip.conf": text})
            monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
            monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
        pip_settings.cache_clear()
        try:
            assert brought(tmp_path, **pip_settings(sys.executable)) == "the file"
        finally:
            pip_settings.cache_clear()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1, signed by itself, with its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    words += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run(
        [*words, "-keyout", folder / "key", "-out", folder / "crt"], check=True, capture_output=True
    )
    both = folder / "both.pem"
    both.write_text((folder / "key").read_text() + (folder / "crt").read_text())
    return both


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on PATH")
class TestTls:
    @staticmethod
    def context(certificate: Path, *, wants_client: bool = False) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(certificate)
        if wants_client:
            made.verify_mode = ssl.CERT_REQUIRED
            made.load_verify_locations(certificate)
        return made

    def test_a_host_is_trusted_by_name_or_by_name_and_port(
        self, serve: Serve, certificate: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
    ) -> None:
        url = serve(PAGES, self.context(certificate))
        port = url.rpartition(":")[2]
        with pytest.raises(FetchError, match="cannot be reached") as fault:
            brought(tmp_path, index_url=f"{url}/simple")
        assert "certificate" in str(fault.value.found)
        for others in ("localhost", "127.0.0.1:443"):
            with pytest.raises(FetchError, match="cannot be reached"):
                brought(tmp_path, index_url=f"{url}/simple", trusted_host=others)
        for trusted in ("127.0.0.1", f"localhost\n127.0.0.1:{port}"):
            assert brought(tmp_path, index_url=f"{url}/simple", trusted_host=trusted) == "the file"
        assert brought(tmp_path, index_url=f"{url}/simple", cert=str(certificate)) == "the file"
        assert (
            brought(tmp_path, find_links=f"{url}/links", no_index="1", trusted_host="127.0.0.1") == "the file"
        )
        assert not [item for item in recwarn if "InsecureRequest" in item.category.__name__]

    def test_a_server_that_wants_a_certificate_gets_pips(
        self, serve: Serve, certificate: Path, tmp_path: Path
    ) -> None:
        url = serve(PAGES, self.context(certificate, wants_client=True))
        with pytest.raises(FetchError, match="cannot be reached"):
            brought(tmp_path, index_url=f"{url}/simple", cert=str(certificate))
        own = {"cert": str(certificate), "client_cert": str(certificate)}
        assert brought(tmp_path, index_url=f"{url}/simple", **own) == "the file"

    @pytest.mark.parametrize("name", ["cert", "client_cert"])
    def test_a_certificate_that_is_not_there_is_named(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(
            UsageError, match=f"pip's setting {name.replace('_', '-')} names no file"
        ) as fault:
            brought(tmp_path, **{name: "/no/such.pem"})
        assert fault.value.found == "/no/such.pem"
