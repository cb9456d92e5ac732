"""A store shared by a web server or a folder: what is brought back is compared, and never trusted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mambaport.cli import cli
from mambaport.errors import FetchError, HostError, UsageError
from mambaport.sources.remote import Manifest, Remote
from mambaport.store import Store

ARCHIVE = b"an archive\n"
KEY = hashlib.sha256(ARCHIVE).hexdigest()
WHEEL = b"a wheel\n"


def fill(store: Store) -> Store:
    def archive(folder: Path) -> None:
        (folder / "a.tar.gz").write_bytes(ARCHIVE)

    def wheel(folder: Path) -> None:
        (folder / "a-1-py3-none-any.whl").write_bytes(WHEEL)
        (folder / "audit.json").write_text("{}")

    store.make("archives", KEY, archive)
    store.make("wheels", "demo-1.0-abc", wheel)
    return store


class Server(BaseHTTPRequestHandler):
    """A web server that keeps what is PUT, under a folder."""

    root: Path

    def _path(self) -> Path:
        return self.root / self.path.lstrip("/")

    def do_PUT(self) -> None:
        path = self._path()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self._send(body=True)

    def do_HEAD(self) -> None:
        self._send(body=False)

    def _send(self, *, body: bool) -> None:
        path = self._path()
        content = path.read_bytes() if path.is_file() else b""
        self.send_response(200 if path.is_file() else 404)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Prints nothing."""


@pytest.fixture(params=["server", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a place, and the folder where its files are."""
    root = tmp_path / "place"
    if request.param == "folder":
        yield str(root), root
        return
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Server,), {"root": root}))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", root
    server.shutdown()
    server.server_close()


@pytest.fixture
def pushed(place: tuple[str, Path], tmp_path: Path) -> tuple[Remote, Path, str]:
    remote = Remote(place[0], writing=True)
    _, digest, sent = remote.push(fill(Store(tmp_path / "first")))
    assert sent == 3
    return remote, place[1], digest


def files(store: Store) -> dict[str, bytes]:
    return {
        f"{entry.kind}/{entry.key}/{path.name}": path.read_bytes()
        for entry in store.entries()
        for path in entry.path.iterdir()
    }


def test_a_second_machine_gets_every_entry_by_the_manifests_digest(
    pushed: tuple[Remote, Path, str], tmp_path: Path
) -> None:
    remote, _, digest = pushed
    second = Store(tmp_path / "second")
    assert remote.bring(second, remote.manifest(digest)) == [f"archives/{KEY}", "wheels/demo-1.0-abc"]
    assert files(second) == files(Store(tmp_path / "first"))
    assert second.get("wheels", "demo-1.0-abc") is not None
    assert remote.bring(second, remote.manifest(digest)) == []
    assert remote.push(second)[1:] == (digest, 0)


def test_without_a_digest_only_archives_are_brought(pushed: tuple[Remote, Path, str], tmp_path: Path) -> None:
    remote, _, _ = pushed
    second = Store(tmp_path / "second")
    assert remote.bring(second, remote.manifest(None)) == [f"archives/{KEY}"]


def object_of(root: Path, content: bytes) -> Path:
    return root / "objects" / hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("bad", [b"an ARCHIVE\n", b"", ARCHIVE + b"more"], ids=["changed", "empty", "longer"])
def test_a_changed_object_is_refused_by_its_name_and_not_kept(
    pushed: tuple[Remote, Path, str], tmp_path: Path, bad: bytes
) -> None:
    remote, root, digest = pushed
    second = Store(tmp_path / "second")
    object_of(root, ARCHIVE).write_bytes(bad)
    with pytest.raises(
        FetchError, match=f"archives/{KEY}/a.tar.gz of the remote store is not what was pushed"
    ) as caught:
        remote.bring(second, remote.manifest(digest))
    assert f"delete objects/{KEY} there, and push again" in str(caught.value.hint)
    assert second.get("archives", KEY) is None
    object_of(root, ARCHIVE).unlink()
    with pytest.raises(FetchError, match=f"has no objects/{KEY}"):
        remote.bring(second, remote.manifest(None))


@pytest.mark.parametrize("bad", [b"", ARCHIVE[:5], ARCHIVE + b"more"], ids=["empty", "shorter", "longer"])
def test_an_object_of_another_size_is_uploaded_again(
    pushed: tuple[Remote, Path, str], tmp_path: Path, bad: bytes
) -> None:
    remote, root, digest = pushed
    object_of(root, ARCHIVE).write_bytes(bad)
    assert remote.push(Store(tmp_path / "first"))[1:] == (digest, 1)
    assert object_of(root, ARCHIVE).read_bytes() == ARCHIVE


@pytest.mark.parametrize("bad", [b"an ARCHIVE\n", None], ids=["changed", "without a file"])
def test_a_damaged_archive_of_the_store_is_named_and_not_pushed(tmp_path: Path, bad: bytes | None) -> None:
    said: list[str] = []
    (tmp_path / "place").mkdir()
    store = fill(Store(tmp_path / "first", changed=said.append))
    path = store.path("archives", KEY) / "a.tar.gz"
    path.unlink() if bad is None else path.write_bytes(bad)
    manifest, _, sent = Remote(str(tmp_path / "place"), writing=True).push(store)
    assert manifest.entries["archives"] == {}
    assert list(manifest.entries["wheels"]) == ["demo-1.0-abc"]
    assert sent == 2
    assert f"archives/{KEY} in the store is damaged" in said[0]
    assert store.get("archives", KEY) is None


def test_a_changed_wheel_is_refused_also_where_the_newest_manifest_was_changed_with_it(
    pushed: tuple[Remote, Path, str], tmp_path: Path
) -> None:
    remote, root, digest = pushed
    evil = b"evil\n"
    text = (
        (root / "manifest.json")
        .read_text()
        .replace(hashlib.sha256(WHEEL).hexdigest(), hashlib.sha256(evil).hexdigest())
    )
    object_of(root, evil).write_bytes(evil)
    (root / "manifest.json").write_text(text)
    second = Store(tmp_path / "second")
    remote.bring(second, remote.manifest(None))
    assert second.get("wheels", "demo-1.0-abc") is None
    (root / f"manifests/{digest}.json").write_text(text)
    with pytest.raises(
        FetchError, match=f"manifests/{digest}.json of the remote store is not what was pushed"
    ):
        remote.manifest(digest)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2, "entries": {}}', '{"entries": {"seals": {}}}',
     '{"entries": {"wheels": {"../x": {}}}}', '{"entries": {"archives": {"x": {}}}}',
     '{"entries": {"wheels": {"x": {"../y": {"sha256": "' + "0" * 64 + '", "size": 1}}}}}', "[" * 100000],
    ids=range(9),
)  # fmt: skip
def test_a_manifest_that_is_none_is_refused(pushed: tuple[Remote, Path, str], text: str) -> None:
    remote, root, _ = pushed
    (root / "manifest.json").write_text(text)
    with pytest.raises(FetchError, match=r"manifest\.json of the remote store"):
        remote.manifest(None)


def test_an_archive_under_a_key_that_is_not_its_digest_is_refused(
    pushed: tuple[Remote, Path, str], tmp_path: Path
) -> None:
    remote, _, digest = pushed
    row = remote.manifest(digest).entries["archives"][KEY]
    with pytest.raises(FetchError, match="archives/" + "1" * 64):
        remote.bring(Store(tmp_path / "second"), Manifest(entries={"archives": {"1" * 64: row}}))


def test_a_place_that_nobody_answers_at_and_one_that_is_empty(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="cannot be reached"):
        Remote("http://127.0.0.1:9/").manifest(None)
    with pytest.raises(FetchError, match=r"has no manifest\.json"):
        Remote(str(tmp_path)).manifest(None)
    with pytest.raises(UsageError, match="There is no folder") as caught:
        Remote(str(tmp_path / "mistyped"))
    assert str(tmp_path / "mistyped") in caught.value.what
    assert not (tmp_path / "mistyped").exists()
    with pytest.raises(UsageError, match="no address"):
        Remote("gopher://x/y")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "is empty"),
        ("/srv/store#sha256=", "part after #"),
        ("file:store", "no address"),
        ("file://host/store", "no address"),
    ],
)
def test_an_address_that_is_none_is_refused(
    url: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        Remote(url, writing=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_address_may_have_escapes(tmp_path: Path) -> None:
    Remote((tmp_path / "a b").as_uri(), writing=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a b"]


def test_without_obstore_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(HostError, match="obstore is not installed") as caught:
        Remote("s3://bucket/x")
    assert "mambaport[remote]" in str(caught.value.hint)


def test_the_commands_push_and_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(tmp_path / "place")
    fill(Store(tmp_path / "first"))
    monkeypatch.setenv("MAMBAPORT_CACHE", str(tmp_path / "first"))
    done = CliRunner().invoke(cli, ["cache", "push", place, "--json"], catch_exceptions=False)
    answer = json.loads(done.stdout)
    assert answer["entries"] == {"archives": 1, "wheels": 1}
    monkeypatch.setenv("MAMBAPORT_CACHE", str(tmp_path / "second"))
    done = CliRunner().invoke(cli, ["cache", "pull", answer["address"], "--json"], catch_exceptions=False)
    assert len(json.loads(done.stdout)["new"]) == 2
    with pytest.raises(UsageError, match="no digest"):
        CliRunner().invoke(cli, ["cache", "pull", f"{place}#sha256=x"], catch_exceptions=False)


@pytest.mark.parametrize("size", ["16k", "64k"])
def test_a_full_disk_of_a_folder_is_named(tmp_path: Path, size: str) -> None:
    """A real disk, too small for the archive, or for the second object."""
    store, small = Store(tmp_path / "store"), tmp_path / "small"
    store.make("wheels", "demo-1.0-abc", lambda folder: put_bytes(folder / "a-1-py3-none-any.whl", 48 << 10))
    store.make("wheels", "demo-1.1-abc", lambda folder: put_bytes(folder / "b-1-py3-none-any.whl", 40 << 10))
    small.mkdir()
    mount = 'mount -t tmpfs -o size="$2" tmpfs "$1" && shift 2 && exec "$@"'
    words: list[str | Path] = ["unshare", "--mount", "sh", "-c", mount, "sh", small, size]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], check=False).returncode:
        pytest.skip("only root may mount a small disk")
    command = [*words, sys.executable, "-m", "mambaport", "cache", "push", small / "place", "--json"]
    environment = {**os.environ, "MAMBAPORT_CACHE": str(store.root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 12, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["what"] == "The disk of the remote store is full"
    assert "free space there" in error["hint"]


def put_bytes(path: Path, size: int) -> None:
    path.write_bytes(bytes([len(path.name)]) * size)
