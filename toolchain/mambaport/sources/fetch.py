"""Fetching a pinned file: from the store, else from a mirror folder, else from the package index."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from mambaport.digests import file_sha256
from mambaport.errors import FetchError
from mambaport.pins import Pin
from mambaport.report import Report, size_text
from mambaport.sources.client import download, make_client
from mambaport.sources.download import OTHER_FILE
from mambaport.sources.index import IndexSettings
from mambaport.sources.wheel_index import WheelIndex
from mambaport.store import Store


class Fetcher:
    """Fetches pinned files. Each file that it returns has the pinned sha256.

    Args:
        store: where files are kept.
        index: the index or mirror folder to fetch from.
        offline: use the store only.
    """

    def __init__(self, store: Store, index: IndexSettings, report: Report, *, offline: bool = False) -> None:
        self.store = store
        self.index = index
        self.report = report
        self.offline = offline

    def fetch(self, pin: Pin) -> Path:
        """The file's path in the store.

        Raises:
            FetchError: the file cannot be fetched, or is not the pinned one.
        """
        stored = self.stored(pin)
        if stored is not None:
            return stored
        if self.offline:
            raise FetchError(
                f"{pin.filename} is not in the store",
                found=f"nothing under {self.store.path('archives', pin.sha256)}",
                expected=f"the file with sha256 {pin.sha256}, because of --offline",
                hint="run the command once without --offline, or `mambaport fetch` on a machine with network "
                "and copy its store",
            )
        entry = self.store.make("archives", pin.sha256, lambda folder: self._bring(pin, folder))
        return entry / pin.filename

    def wheel_index(self, address: str) -> WheelIndex:
        """An index of wheels, reached as pip's settings say.

        Raises:
            UsageError, FetchError, IndexFault
        """
        return WheelIndex(address, make_client(self.index), self.report, offline=self.offline)

    def pip_options(self) -> list[str]:
        """The options that make pip use this fetcher's mirror folder, or no index when offline."""
        if self.index.mirror is not None and not self.offline:
            return ["--no-index", "--find-links", str(self.index.mirror)]
        return ["--no-index"] if self.offline else []

    def pip_settings(self, settings: Mapping[str, str]) -> dict[str, str]:
        """pip's ``settings`` with this fetcher's index; when offline, only the local folders among them."""
        if self.offline:
            links = [word for word in settings.get("find-links", "").split() if "://" not in word]
            return {"find-links": " ".join(links)} if links else {}
        return {**settings, **({"index-url": self.index.url} if self.index.url else {})}

    def stored(self, pin: Pin) -> Path | None:
        """The file's path if the store has the file undamaged, else None."""
        entry = self.store.get("archives", pin.sha256)
        if entry is None:
            return None
        path = entry / pin.filename
        if path.is_file() and file_sha256(path) == pin.sha256:
            return path
        self.report.warn(f"{pin.filename} in the store is damaged; it is fetched again")
        self.store.discard("archives", pin.sha256)
        return None

    def _bring(self, pin: Pin, folder: Path) -> None:
        path = folder / pin.filename
        started = time.monotonic()
        if self.index.mirror is not None:
            origin = f"mirror {self.index.mirror}"
            self._copy_from_mirror(self.index.mirror, pin, path)
        else:
            origin = "package index"
            download(self.index, pin.project, pin.filename, path, pin.size, self.report)
        check(pin, path, origin)
        self.report.line(
            "fetch",
            f"{pin.filename}  {size_text(pin.size)}",
            f"{time.monotonic() - started:.1f} s, sha256 ok",
        )

    @staticmethod
    def _copy_from_mirror(mirror: Path, pin: Pin, path: Path) -> None:
        source = mirror / pin.filename
        if not source.is_file():
            raise FetchError(
                f"The mirror has no {pin.filename}",
                found=f"no file {source}",
                expected=f"{pin.filename} with sha256 {pin.sha256}",
                hint="put the file there, or drop --mirror / MAMBAPORT_MIRROR to use the package index",
            )
        shutil.copyfile(source, path)


def check(pin: Pin, path: Path, origin: str) -> None:
    """Compares a file with its pin.

    Raises:
        FetchError: the file is truncated, or is another file.
    """
    size = path.stat().st_size
    digest = file_sha256(path)
    if digest == pin.sha256:
        return
    if size < pin.size:
        raise FetchError(
            f"{pin.filename} is truncated",
            found=f"{size} bytes from the {origin}",
            expected=f"{pin.size} bytes with sha256 {pin.sha256}",
            hint="run the command again; if it stays short, the mirror or a proxy truncates it",
        )
    raise FetchError(
        f"{pin.filename} is not the pinned file",
        found=f"sha256 {digest} ({size} bytes) from the {origin}",
        expected=f"sha256 {pin.sha256} ({pin.size} bytes)",
        hint=OTHER_FILE,
    )
