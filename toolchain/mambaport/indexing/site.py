"""An index as a folder of files: read whole, and replaced whole.

A run makes the new site in a folder beside the old one and exchanges the two in one system call. A run that
is killed before the exchange leaves the old site, byte for byte; after it, the new site is complete.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from mambaport.attestations import PROVENANCE
from mambaport.digests import file_sha256, tree_files
from mambaport.errors import IndexFault, MambaportError
from mambaport.indexes import SUMS, read_sums, sums_text, wheel_file
from mambaport.indexing.pages import site_pages
from mambaport.indexing.record import WheelRecord, member, record_text
from mambaport.indexing.simple import simple_pages
from mambaport.interruption import postponed
from mambaport.locking import lock_file
from mambaport.models import validate
from mambaport.store import flush
from mambaport.temporary import temporary_folder
from mambaport.wheels import STATEMENT

_SUFFIXES = (".metadata", ".record.json", ".provenance.json", ".sbom.cdx.json")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@dataclass(frozen=True)
class Site:
    """The wheels of an index, and the files that somebody else has put into its folder."""

    root: Path
    records: tuple[WheelRecord, ...] = ()
    foreign: tuple[str, ...] = ()
    """Files that SHA256SUMS does not name, such as a web server's settings. They are kept."""

    def with_records(self, added: Iterable[WheelRecord]) -> Site:
        """The site with more wheels. A wheel that the site has already gets the new record's proofs too.

        Raises:
            IndexFault: a wheel is another file than the site's wheel of the same name, or of the same version
                for the same architecture.
        """
        known = {(item.folder, item.filename): item for item in self.records}
        for item in added:
            for other in known.values():
                _refuse_two(item, other)
            before = known.get((item.folder, item.filename))
            proofs = [*(before.proofs if before else ()), *item.proofs]
            unique = tuple(proof for number, proof in enumerate(proofs) if proof not in proofs[:number])
            known[item.folder, item.filename] = item.model_copy(update={"proofs": unique})
        return replace(self, records=tuple(known[key] for key in sorted(known)))


def _refuse_two(new: WheelRecord, old: WheelRecord) -> None:
    """Refuses a second file where pip would see one."""
    if new.folder == old.folder:
        refuse_second(new, old.filename, old.sha256, "the index")


def refuse_second(new: WheelRecord, filename: str, sha256: str, index: str) -> None:
    """Refuses a wheel where an index has another file of the same name, or version and architecture.

    Args:
        filename, sha256: a wheel of the same folder in the index
        index: the index, for the message

    Raises:
        IndexFault: the two are different files.
    """
    if new.sha256 == sha256 or not _one_for_pip(new, filename):
        return
    raise IndexFault(
        f"{new.filename} is in {index} already, with other content"
        if new.filename == filename
        else f"{new.name} {new.version} is in {index} already, as {filename}",
        found=f"sha256 {new.sha256} to add",
        expected=f"sha256 {sha256}, the file that {new.folder}/ has had so far",
        hint="a published file never changes: raise `revision` in the package's package.toml and build again",
    )


def _one_for_pip(new: WheelRecord, filename: str) -> bool:
    """Whether pip takes a wheel and a file for the same version on the same architecture."""
    if new.filename == filename:
        return True
    try:
        name, version, _, tags = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        return False
    arch = next((arch for arch in ("aarch64", "x86_64") if all(arch in tag.platform for tag in tags)), "any")
    return (str(name), str(version), arch) == (new.name, new.version, new.arch)


def read_site(root: Path) -> Site:
    """The index in a folder; an empty one where there is no folder, or an empty folder.

    Raises:
        IndexFault: the folder is not an index, or a file of the index is not as it was written.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return Site(root)
    if not (root / SUMS).is_file():
        raise IndexFault(
            f"{root} is not an index of wheels",
            found=f"a folder without {SUMS}" if root.is_dir() else "a file",
            expected=f"an index that `mambaport index` has written, with its {SUMS}; or a new name",
            hint="name another folder with -o; mambaport replaces no folder that it has not written",
        )
    sums = _sums(root)
    files = list(tree_files(root))
    for name, digest in sums.items():
        path = root / name
        if not path.is_file() or file_sha256(path) != digest:
            raise IndexFault(
                f"{name} in the index {root} is not as it was written",
                found=f"sha256 {file_sha256(path)}" if path.is_file() else "no such file",
                expected=f"sha256 {digest}, as {SUMS} says",
                hint="restore the file from a copy, or write a new index from the wheels, in another folder",
            )
    records = [root / name for name in files if name in sums and name.endswith(".record.json")]
    return Site(
        root,
        tuple(_read_record(path) for path in records),
        tuple(name for name in files if name not in sums and name != SUMS),
    )


def _sums(root: Path) -> dict[str, str]:
    try:
        return read_sums((root / SUMS).read_text(encoding="utf-8"))
    except ValueError as fault:
        raise IndexFault(
            f"{SUMS} in the index {root} cannot be read",
            found=str(fault),
            expected="lines of a sha256, two spaces and a path below the index",
            hint="write the index anew, from the wheels, into another folder",
        ) from None


def _read_record(path: Path) -> WheelRecord:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise IndexFault(f"{path} is not JSON", found=str(fault), hint="write the index anew") from None
    return validate(WheelRecord, data, path, IndexFault)


def write_site(
    site: Site,
    sources: Mapping[str, Path],
    url: str | None,
    attested: str | None = None,
    attestations: Mapping[str, bytes] = MappingProxyType({}),
) -> str:
    """Writes an index: wheels, pages and sums, whole or not at all.

    Args:
        site: the records of all wheels.
        sources: sha256 -> file, for the wheels that ``site.root`` does not have yet.
        url: where the index will be served; None where this is not known.
        attested: the repository on GitHub, ``owner/name``, whose workflow attests the wheels.
        attestations: sha256 of a wheel -> its ``.provenance`` file. Wheels that the index has keep theirs.

    Returns:
        the sha256 of the new ``SHA256SUMS``, which stands for every file of the index

    Raises:
        IndexFault: the file system cannot exchange two folders, or another file stands in a page's place.
    """
    root = Path(os.path.abspath(site.root))  # noqa: PTH100 - a link in the place of the site is kept
    root.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(root.parent) as scratch:
        new = scratch / "site"
        new.mkdir(mode=0o755)
        digests = _fill(site, new, sources, url, attested, attestations)
        for name in site.foreign:
            if (new / name).exists():
                raise IndexFault(
                    f"{name} in {root} would be replaced by a page of the index",
                    found="a file that mambaport has not written",
                    expected="no such file, or a file of another name",
                    hint="move the file away, then run the same command again",
                )
            _link(root / name, new / name)
        sums = new / SUMS
        _write(sums, sums_text(digests).encode())
        flush(new)
        with postponed():
            if root.exists():
                _exchange(new, root)
            else:
                new.rename(root)
    return file_sha256(root / SUMS)


@contextmanager
def only_writer(root: Path) -> Iterator[None]:
    """Waits for other runs that write the same index."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(root.parent / f".{root.name}.mambaport-lock", lambda: None):
        yield


def _fill(
    site: Site,
    new: Path,
    sources: Mapping[str, Path],
    url: str | None,
    attested: str | None,
    attestations: Mapping[str, bytes],
) -> dict[str, str]:
    """Writes wheels, records and pages. Returns relative path -> sha256."""
    digests: dict[str, str] = {}
    for record in site.records:
        name = wheel_file(record.folder, record.filename)
        source = sources.get(record.sha256)
        if (site.root / name).is_file():
            _link(site.root / name, new / name)
        else:
            assert source is not None
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, new / name)
        if file_sha256(new / name) != record.sha256:
            raise IndexFault(
                f"{record.filename} changed while the index was written",
                expected=f"sha256 {record.sha256}",
                hint="run the same command again when no other program writes the file",
            )
        digests[name] = record.sha256
        contents = (
            member(new / name, "METADATA"),
            record_text(record).encode(),
            member(new / name, "provenance.json"),
            member(new / name, "sboms/*.json"),
        )
        for suffix, content in zip(_SUFFIXES, contents, strict=True):
            if content:
                digests[name + suffix] = _write(new / (name + suffix), content)
        stated = any(item.rule == "statement" for item in record.audit)
        if stated and (content := _statement(site.root / name, source)):
            digests[name + STATEMENT] = _write(new / (name + STATEMENT), content)
        published = site.root / (name + PROVENANCE)
        if content := attestations.get(record.sha256) or (
            published.read_bytes() if published.is_file() else b""
        ):
            digests[name + PROVENANCE] = _write(new / (name + PROVENANCE), content)
    metadata = {name: digest for name, digest in digests.items() if name.endswith(".metadata")}
    signed = {name.removesuffix(PROVENANCE) for name in digests if name.endswith(PROVENANCE)}
    pages = simple_pages(site.records, metadata, url, signed)
    pages |= site_pages(site.records, url, attested, signed)
    for name, content in pages.items():
        digests[name] = _write(new / name, content)
    return digests


def _statement(published: Path, source: Path | None) -> bytes:
    """The statement of a wheel: the published one, or that beside the source; empty without one."""
    for wheel in (published, source):
        if wheel is not None and (path := wheel.with_name(wheel.name + STATEMENT)).is_file():
            return path.read_bytes()
    return b""


def _write(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target)


def _exchange(new: Path, old: Path) -> None:
    """Exchanges two folders in one system call: at no moment is one of the names without a folder.

    Raises:
        IndexFault: the system or the file system has no such call.
    """
    refused: MambaportError = IndexFault(
        f"The file system of {old} cannot replace a folder in one step",
        expected="Linux with glibc 2.28 or newer, and a local file system such as ext4, xfs, btrfs or tmpfs",
        hint="write the index on a local disk and copy it from there",
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise refused
    done = libc.renameat2(
        _AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old.resolve()), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    if done != 0:
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOSYS, errno.EXDEV):
            raise refused
        raise OSError(number, os.strerror(number), str(old))
