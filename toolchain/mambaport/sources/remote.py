"""A store's archives and wheels in an object store, on a web server or in a folder: pushed and brought back.

The layout is plain: ``objects/<sha256>`` for each file, ``manifests/<sha256>.json`` for each list of entries,
and ``manifest.json``, the newest list. Nothing that comes back is trusted. An archive is compared with its
name in the store, the sha256 that profiles pin. A wheel's name is a digest of the build's inputs, which says
nothing about the file's bytes: wheels are brought only where the user names the manifest's digest.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, StringConstraints, ValidationError

from mambaport.digests import file_sha256
from mambaport.errors import FetchError, HostError, UsageError
from mambaport.models import FileName, Model, Sha256
from mambaport.redaction import redact
from mambaport.store import Entry, Store

Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,200}$")]
RemoteKind = Literal["archives", "wheels"]
REMOTE_KINDS: tuple[RemoteKind, ...] = ("archives", "wheels")
NEWEST = "manifest.json"
LARGEST_MANIFEST = 32 << 20
LARGEST_OBJECT = 8 << 30
TIMEOUT = "60s"
# What obstore says of a full disk: Linux's ENOSPC and EDQUOT, and HTTP's Insufficient Storage.
_FULL = re.compile(rf"\(os error ({errno.ENOSPC}|{errno.EDQUOT})\)|\b507 Insufficient Storage\b")
_PLACES = "s3://bucket/path, gs://, az://, https://, file:///folder, or the path of a folder"


class RemoteFile(Model):
    """A file of an entry."""

    sha256: Sha256
    size: int = Field(ge=0, le=LARGEST_OBJECT)


Files = Annotated[dict[FileName, RemoteFile], Field(min_length=1)]


class Manifest(Model):
    """The entries of one push: kind -> key -> file name -> file."""

    format: Literal[1] = 1
    entries: dict[RemoteKind, dict[Key, Files]]

    def text(self) -> bytes:
        return (json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n").encode()


class Remote:
    """A place that entries are pushed to and brought from.

    Args:
        url: ``s3://bucket/path``, ``gs://``, ``az://``, ``https://``, ``file:///folder``, or a folder's path.
        writing: whether a folder that does not exist is made, for :meth:`push`.

    Raises:
        HostError: obstore, the library that reaches such places, is not installed.
        UsageError: the address is not one, or the folder does not exist.
    """

    def __init__(self, url: str, *, writing: bool = False) -> None:
        try:
            self._obstore: Any = import_module("obstore")
            stores: Any = import_module("obstore.store")
            self._faults: Any = import_module("obstore.exceptions")
        except ImportError as fault:
            raise HostError(
                "obstore is not installed",
                found=str(fault),
                expected="the library by which mambaport reaches object stores and web servers",
                hint="pip install 'mambaport[remote]', in the environment of mambaport",
            ) from None
        self.url = url
        if not url or "#" in url:
            raise UsageError(
                "The address of the remote store is empty"
                if not url
                else f"{redact(url)} has a part after #",
                expected=_PLACES,
                hint="check the variable that holds the address"
                if not url
                else "leave # and all after it out",
            )
        try:
            if (folder := _folder(url)) is not None:
                if not writing and not folder.is_dir():
                    raise UsageError(
                        f"There is no folder {folder}",
                        expected="a folder that `mambaport cache push` has filled",
                        hint="correct the path; a disk of another machine must be mounted first",
                    )
                self._store = stores.LocalStore(folder, mkdir=writing)
            else:
                client = {"timeout": TIMEOUT, **({"allow_http": True} if url.startswith("http://") else {})}
                retry = {"max_retries": 2}
                self._store = stores.from_url(url, client_options=client, retry_config=retry)
        except (self._faults.BaseError, ValueError, OSError) as fault:
            raise UsageError(
                f"{redact(url)} is no address of a remote store",
                found=_reason(fault),
                expected=_PLACES,
                hint="correct the address; s3, gs and az read their access from the environment",
            ) from None

    def push(self, store: Store, kinds: tuple[RemoteKind, ...] = REMOTE_KINDS) -> tuple[Manifest, str, int]:
        """Uploads what the place lacks, or has in another size. The newest manifest is written last.

        An archive that is not the file that its key names is removed from the store, and not uploaded.

        Returns:
            the manifest, its sha256, and the number of uploaded objects

        Raises:
            FetchError: the place cannot be reached, or refuses the upload.
            HostError: the place's disk is full.
        """
        entries: dict[RemoteKind, dict[str, dict[str, RemoteFile]]] = {kind: {} for kind in kinds}
        sent = 0
        for entry in store.entries():
            if entry.kind not in kinds or store.get(entry.kind, entry.key) is None:
                continue
            kind: RemoteKind = "archives" if entry.kind == "archives" else "wheels"
            files = _files(entry)
            if kind == "archives" and {file.sha256 for file in files.values()} != {entry.key}:
                found = ", ".join(f"{name} has sha256 {file.sha256}" for name, file in files.items())
                store.discard(kind, entry.key)
                store.changed(
                    f"archives/{entry.key} in the store is damaged ({found or 'no file'}); it is removed, "
                    "and not pushed"
                )
                continue
            entries[kind][entry.key] = files
            for name, file in files.items():
                if self._size(f"objects/{file.sha256}") != file.size:
                    self._put(f"objects/{file.sha256}", entry.path / name)
                    sent += 1
        manifest = Manifest(entries=entries)
        digest = hashlib.sha256(manifest.text()).hexdigest()
        self._put(f"manifests/{digest}.json", manifest.text())
        self._put(NEWEST, manifest.text())
        return manifest, digest, sent

    def manifest(self, sha256: str | None) -> Manifest:
        """A manifest: that of a digest, or the newest, whose wheels are left out.

        Raises:
            FetchError: there is none, or it has another digest, or is not a manifest.
        """
        name = NEWEST if sha256 is None else f"manifests/{sha256}.json"
        content = b"".join(self._chunks(name, LARGEST_MANIFEST))
        actual = hashlib.sha256(content).hexdigest()
        if sha256 is not None and actual != sha256:
            raise self._wrong(name, f"sha256 {actual}", f"sha256 {sha256}, as the address says")
        try:
            found = Manifest.model_validate_json(content)
        except ValidationError as fault:
            first = fault.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise self._wrong(
                name, f"{where}: {first['msg']}", "a manifest of `mambaport cache push`"
            ) from None
        if sha256 is not None:
            return found
        return Manifest(entries={"archives": found.entries.get("archives", {})})

    def bring(self, store: Store, manifest: Manifest) -> list[str]:
        """Fetches the entries that the store lacks.

        Returns:
            ``kind/key`` of each new entry

        Raises:
            FetchError: an object is missing, or is not what the manifest or the entry's name says. Entries
                before that one stay.
        """
        new = []
        for kind, entries in manifest.entries.items():
            for key, files in sorted(entries.items()):
                if store.get(kind, key) is None:
                    store.make(kind, key, partial(self._fill, kind, key, files))
                    new.append(f"{kind}/{key}")
        return new

    def _fill(self, kind: str, key: str, files: Mapping[str, RemoteFile], folder: Path) -> None:
        for name, file in files.items():
            expected = key if kind == "archives" else file.sha256
            where = f"{kind}/{key}/{name}"
            if file.sha256 != expected:
                raise self._wrong(where, f"sha256 {file.sha256} in the manifest", f"sha256 {expected}")
            digest = hashlib.sha256()
            with (folder / name).open("wb") as stream:
                for chunk in self._chunks(f"objects/{expected}", file.size, where):
                    digest.update(chunk)
                    stream.write(chunk)
            if digest.hexdigest() != expected:
                raise self._wrong(
                    where, f"sha256 {digest.hexdigest()}", f"sha256 {expected}", f"objects/{expected}"
                )

    def _wrong(self, name: str, found: str, expected: str, damaged: str | None = None) -> FetchError:
        """The error for a refused file. ``damaged``: the object to delete, where that mends the fault."""
        delete = f"delete {damaged} there, " if damaged else ""
        return FetchError(
            f"{name} of the remote store is not what was pushed",
            found=f"{found}, from {redact(self.url)}",
            expected=expected,
            hint=f"the entry was not kept; find out what changed the file, {delete}and push again from a "
            "machine that you trust",
        )

    def _chunks(self, name: str, limit: int, what: str | None = None) -> Iterator[bytes]:
        """The bytes of an object, refused beyond ``limit``."""
        received = 0
        with self._reached(name):
            for chunk in self._obstore.get(self._store, name).stream():
                received += len(chunk)
                if received > limit:
                    raise self._wrong(
                        what or name, f"more than {limit:,} bytes", f"{limit:,} bytes at most", name
                    )
                yield bytes(chunk)

    def _size(self, name: str) -> int | None:
        """The size of an object in bytes; None where there is no such object."""
        try:
            with self._reached(name):
                return int(self._obstore.head(self._store, name)["size"])
        except _Missing:
            return None

    def _put(self, name: str, content: Path | bytes) -> None:
        with self._reached(name):
            self._obstore.put(self._store, name, content)

    @contextmanager
    def _reached(self, name: str) -> Iterator[None]:
        try:
            yield
        except (self._faults.NotFoundError, FileNotFoundError):
            raise _Missing(
                f"The remote store has no {name}",
                found=redact(self.url),
                expected="a place that `mambaport cache push` has filled",
                hint="check the address, and the digest after #sha256=",
            ) from None
        except (self._faults.BaseError, OSError, ValueError) as fault:
            if _FULL.search(str(fault)):
                raise HostError(
                    "The disk of the remote store is full",
                    found=f"no space left while writing {name}: {redact(self.url)}: {_reason(fault)}",
                    expected="room for every archive and wheel that is pushed",
                    hint="free space there or name another place, then run the same command again: what was "
                    "pushed so far is not pushed again",
                ) from None
            raise FetchError(
                f"{name} of the remote store cannot be reached",
                found=f"{redact(self.url)}: {_reason(fault)}",
                expected="a place that this machine may read, and for `cache push` write",
                hint="check the address and the access: AWS_ variables for S3; a web server must take PUT",
            ) from None


def _folder(url: str) -> Path | None:
    """The folder that an address names; None for an address of another kind."""
    if not url.startswith("file:"):
        return None if "://" in url else Path(url).absolute()
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ValueError("file: needs an absolute path, as in file:///folder")
    return Path(unquote(parts.path))


class _Missing(FetchError):  # noqa: N818 - the place has no such object, which may be right
    """The place has no such object."""


def _files(entry: Entry) -> dict[str, RemoteFile]:
    """The files of a store's entry: name -> digest and size."""
    return {
        path.name: RemoteFile(sha256=file_sha256(path), size=path.stat().st_size)
        for path in sorted(entry.path.iterdir())
        if path.is_file()
    }


def _reason(fault: Exception) -> str:
    """The first line of a library's message; the rest is the library's inner state."""
    lines = str(fault).strip().splitlines()
    return redact(lines[0]) if lines else type(fault).__name__
