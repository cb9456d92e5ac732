"""No password is shown: in errors, in `--json`, in logs, or on a command line that other users read."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from test_cli import Run

from mambaport import process
from mambaport.pip_settings import pip_settings
from mambaport.redaction import keep_secret, redact, redact_all

SECRET = "pa55-phrase"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@host/simple/", "https://****@host/simple/"),
        ("401 for url: http://token@host:8080/x", "401 for url: http://****@host:8080/x"),
        ("https://host/f.whl?sig=abc&key=1#sha256=00", "https://host/f.whl?****#sha256=00"),
        ("git@github.com:a/b and a@b.c and https://host/@scope/x", None),
        ("'https://me:pw@host/', \"https://you:pw@host/\"", "'https://****@host/', \"https://****@host/\""),
    ],
)
def test_a_url_is_shown_without_its_password(text: str, shown: str | None) -> None:
    assert redact(text) == (text if shown is None else shown)


def test_a_password_that_is_known_is_hidden_wherever_it_stands() -> None:
    keep_secret("https://me:sla/sh%40word@host/simple https://plain.test/simple")
    assert redact("login of me with sla/sh%40word, sla/sh@word") == "login of me with ****, ****"
    assert redact_all({"a": ["https://x:y@z", 1, None]}) == {"a": ["https://****@z", 1, None]}


class _Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(401)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def index() -> Iterator[str]:
    """The URL, with a password, of an index that refuses everybody."""
    server = HTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://user:{SECRET}@127.0.0.1:{server.server_port}/simple"
    server.shutdown()


@pytest.mark.parametrize("how", ["option", "variable", "pip"])
@pytest.mark.parametrize("words", [[], ["--json"], ["--debug"]], ids=["plain", "json", "debug"])
def test_an_index_that_refuses_is_reported_without_the_password(
    run: Run, index: str, how: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "variable":
        monkeypatch.setenv("MAMBAPORT_INDEX_URL", index)
    elif how == "pip":
        monkeypatch.setenv("PIP_INDEX_URL", index)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    pip_settings.cache_clear()
    option = ["--index-url", index] if how == "option" else []
    ran = run("fetch", "-p", "rpi", "--toolchain", "zig", *words, *option)
    pip_settings.cache_clear()
    assert ran.code == 10, ran.err
    assert "401" in ran.out + ran.err
    assert SECRET not in ran.out + ran.err
    if words == ["--json"]:
        assert ran.json["error"]["kind"] == "fetch"


def test_a_log_holds_no_password(tmp_path: Path) -> None:
    url = f"https://user:{SECRET}@host/simple"
    process.run([sys.executable, "-c", f"print({url!r})"], log=tmp_path / "log")
    assert (tmp_path / "log").read_text().count("https://****@host/simple") == 2
