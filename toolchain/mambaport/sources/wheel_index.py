"""Wheels from an index that ``mambaport index`` has written. Every byte is compared before its use."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from mambaport.attestations import LARGEST as LARGEST_ATTESTATIONS
from mambaport.attestations import PROVENANCE, Checker, lacking
from mambaport.digests import file_sha256
from mambaport.errors import FetchError, IndexFault, InstallError, UsageError
from mambaport.indexes import SUMS, project_page, read_sums, wheel_file
from mambaport.redaction import keep_secret
from mambaport.report import Report, size_text
from mambaport.sources.client import Client
from mambaport.sources.download import NOT_AN_ANSWER, asking, save
from mambaport.sources.session import TIMEOUT
from mambaport.wheels import UNREADABLE_ZIP

LARGEST = 4 << 30
"""Bytes of the largest wheel."""
_FRAGMENT = re.compile(r"sha256=([0-9a-f]{64})")


class _Place(Protocol):
    """Where an index is: a server, or a folder of this machine."""

    def read(self, name: str) -> bytes: ...

    def save(self, name: str, path: Path, size: int) -> None: ...


@dataclass(frozen=True)
class _Server:
    url: str
    client: Client
    report: Report

    def _address(self, name: str) -> str:
        return f"{self.url}/{quote(name)}"

    def read(self, name: str) -> bytes:
        with self._reaching(name), self.client.session() as session, asking(session, name):
            answer = session.get(
                self._address(name), timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}
            )
            answer.raise_for_status()
            return answer.content

    def save(self, name: str, path: Path, size: int) -> None:
        with self._reaching(name), self.client.session() as session:
            save(session, self._address(name), path.name, path, size, self.report)

    @contextmanager
    def _reaching(self, name: str) -> Iterator[None]:
        """Errors of a download speak of the package index; here they name the index of wheels."""
        try:
            yield
        except FetchError as fault:
            raise FetchError(
                f"{name} cannot be fetched from the index {self.url}",
                found=fault.found or fault.what,
                expected=fault.expected,
                hint="check --index, the network and the proxy variables; or name a folder with a copy",
            ) from None


@dataclass(frozen=True)
class _Folder:
    root: Path

    def read(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except OSError as fault:
            raise FetchError(
                f"The index {self.root} has no {name}",
                found=fault.strerror,
                expected="a folder that `mambaport index` has written",
                hint="check --index",
            ) from None

    def save(self, name: str, path: Path, size: int) -> None:
        source = self.root / name
        if not source.is_file() or source.stat().st_size > size:
            raise _other(name, "a longer file" if source.is_file() else "no such file", f"{size} bytes")
        shutil.copyfile(source, path)


class WheelIndex:
    """An index, with the list of its files.

    Args:
        address: ``http://``, ``https://`` or a folder; ``#sha256=`` at its end is the digest of SHA256SUMS.

    Raises:
        UsageError: the address is not one of these.
        FetchError: the index cannot be reached, or mambaport is offline.
        IndexFault: SHA256SUMS is not the expected file, or cannot be read.
    """

    def __init__(self, address: str, client: Client, report: Report, *, offline: bool = False) -> None:
        keep_secret(address)
        place, _, fragment = address.partition("#")
        pinned = _FRAGMENT.fullmatch(fragment)
        try:
            scheme = urlsplit(place).scheme
        except ValueError:  # such as http://[
            scheme = "none"
        if (fragment and pinned is None) or scheme not in ("", "http", "https", "file"):
            raise UsageError(
                "--index is not the address of an index",
                found=address,
                expected="http://, https:// or a folder; #sha256= and 64 digits of hex may follow",
                hint="`mambaport index` prints the digest",
            )
        if offline and scheme.startswith("http"):
            raise FetchError(
                "An index on a server cannot be used offline",
                found=f"--offline and --index {place}",
                hint="drop --offline, or name a folder with a copy of the index",
            )
        self.report = report
        self._offline = offline
        self.url = place.rstrip("/")
        self._place: _Place = (
            _Server(self.url, client, report)
            if scheme.startswith("http")
            else _Folder(Path(unquote(urlsplit(place).path) if scheme else place))
        )
        sums = self._place.read(SUMS)
        if pinned is not None and (digest := hashlib.sha256(sums).hexdigest()) != pinned[1]:
            raise _other(SUMS, f"sha256 {digest}", f"sha256 {pinned[1]}, as --index says")
        try:
            self._sums = read_sums(sums.decode())
        except ValueError as fault:
            raise IndexFault(
                f"{SUMS} of the index {self.url} cannot be read",
                found=str(fault),
                expected="an index that `mambaport index` has written",
                hint="check --index: the page of another service may stand there",
            ) from None

    def bring(
        self,
        folder: str,
        wanted: Mapping[str, str],
        arch: str,
        into: Path,
        attested_by: str | None = None,
    ) -> None:
        """Writes wheels into a folder.

        Args:
            folder: the folder of the index, such as ``rpi``.
            wanted: package -> version, with the local label
            arch: the architecture; a wheel without compiled files serves each.
            attested_by: the repository on GitHub, ``OWNER/NAME``, a workflow of which must have signed each
                wheel; None where digests alone are compared.

        Raises:
            FetchError: a file cannot be fetched, or Sigstore's newest keys.
            AuditError: a wheel has no attestation of the repository.
            HostError: the library that compares attestations is not installed.
            IndexFault: a page, a wheel or its metadata is not the file that the index names.
            InstallError: the index has no such wheel.
        """
        checker = Checker(attested_by, offline=self._offline) if attested_by else None
        for name, version in wanted.items():
            page = project_page(folder, name)
            if page not in self._sums:
                raise self._lacks(folder, name, version, [])
            files = self._files(page)
            found = [item for item in files if _is(item["filename"], name, version, arch)]
            if not found:
                raise self._lacks(folder, name, version, [item["filename"] for item in files])
            self._bring_wheel(folder, page, found[0], into)
            if checker is not None:
                self._require_attested(wheel_file(folder, found[0]["filename"]), into, checker)

    def has(self, folder: str, name: str, version: str, arch: str) -> bool:
        """Whether the index has a wheel of this version for the architecture.

        Raises:
            FetchError, IndexFault
        """
        page = project_page(folder, name)
        return page in self._sums and any(
            _is(item["filename"], name, version, arch) for item in self._files(page)
        )

    def digests(self, folder: str, name: str) -> dict[str, str]:
        """The wheels of a project in a folder: file name -> sha256; none where the index has no such project.

        Raises:
            FetchError, IndexFault
        """
        page = project_page(folder, name)
        files = self._files(page) if page in self._sums else []
        return {item["filename"]: item["hashes"]["sha256"] for item in files}

    def _files(self, page: str) -> list[dict[str, Any]]:
        content = self._page(page)
        try:
            files = json.loads(content)["files"]
            for item in files:
                item["filename"].endswith(".whl")
                re.fullmatch(r"[0-9a-f]{64}", item["hashes"]["sha256"])
                re.fullmatch(r"[0-9a-f]{64}", item["core-metadata"]["sha256"])
        except NOT_AN_ANSWER as fault:
            raise _other(page, f"{type(fault).__name__}: {fault}", "a page of PEP 691") from None
        return list(files)

    def _page(self, name: str) -> bytes:
        """A small file of the index, compared with SHA256SUMS."""
        content = self._place.read(name)
        digest = hashlib.sha256(content).hexdigest()
        if digest != self._sums.get(name):
            raise _other(name, f"sha256 {digest}", f"sha256 {self._sums.get(name)}, as {SUMS} says")
        return content

    def _bring_wheel(self, folder: str, page: str, item: Mapping[str, Any], into: Path) -> None:
        filename, digest = item["filename"], item["hashes"]["sha256"]
        name = wheel_file(folder, filename)
        for path, named in ((name, digest), (f"{name}.metadata", item["core-metadata"]["sha256"])):
            if self._sums.get(path) != named:
                raise _other(
                    page, f"sha256 {named} for {path}", f"sha256 {self._sums.get(path)}, as {SUMS} says"
                )
        metadata = self._page(f"{name}.metadata")
        size = item.get("size")
        target = into / filename
        self._place.save(name, target, size if isinstance(size, int) and 0 < size < LARGEST else LARGEST)
        if (found := file_sha256(target)) != digest:
            raise _other(name, f"sha256 {found}", f"sha256 {digest}, as {page} says")
        if _metadata(target) != metadata:
            raise _other(f"{name}.metadata", "other bytes than METADATA in the wheel", "the same bytes")
        self.report.line("fetch", f"{filename}  {size_text(target.stat().st_size)}", "sha256 ok")

    def _require_attested(self, name: str, into: Path, checker: Checker) -> None:
        filename = name.rpartition("/")[2]
        if name + PROVENANCE not in self._sums:
            raise lacking(filename, self.url, checker.repository)
        content = self._page(name + PROVENANCE)
        if len(content) > LARGEST_ATTESTATIONS:
            raise _other(name + PROVENANCE, f"{len(content):,} bytes", f"at most {LARGEST_ATTESTATIONS:,}")
        checker.require(content, filename, file_sha256(into / filename))
        self.report.line("attest", filename, f"signed by a workflow of {checker.repository}")

    def _lacks(self, folder: str, name: str, version: str, files: list[str]) -> InstallError:
        folders = sorted({path.split("/")[0] for path in self._sums if path.count("/") > 1})
        return InstallError(
            f"The index has no {name} {version}",
            found=", ".join(files) or f"folders {', '.join(folders) or 'none'} in {self.url}",
            expected=f"a wheel of {name} {version} in {folder}/",
            hint="`mambaport index` adds it; or install without --index, which builds the wheels",
        )


def _is(filename: str, name: str, version: str, arch: str) -> bool:
    try:
        project, number, _, tags = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        return False
    if "/" in filename or "\0" in filename:
        return False
    fits = any(tag.platform == "any" or tag.platform.endswith(arch) for tag in tags)
    return (str(project), str(number)) == (name, version) and fits


def _metadata(wheel: Path) -> bytes | None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [item for item in archive.namelist() if item.endswith(".dist-info/METADATA")]
            return archive.read(names[0]) if len(names) == 1 else None
    except UNREADABLE_ZIP:
        return None


def _other(name: str, found: str, expected: str) -> IndexFault:
    return IndexFault(
        f"{name} is not the file that the index names",
        found=found,
        expected=expected,
        hint="install nothing from this index: the file was changed, or the index was copied in part",
    )
