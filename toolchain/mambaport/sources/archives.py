"""Unpacking: only plain files and folders, only inside the destination, only so many bytes.

An archive is not trusted even when its digest is right: any other kind of member is refused by name, before a
single byte is written.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO

from mambaport.errors import FetchError
from mambaport.wheels import reading

MAX_NAME_BYTES = 255
MAX_MEMBERS = 20_000
MAX_SDIST_BYTES = 256 << 20
MAX_WHEEL_BYTES = 4 << 30
MAX_WHEEL_MEMBERS = 100_000


def unpack_sdist(archive: Path, destination: Path) -> None:
    """Unpacks a ``.tar.gz`` into an empty folder.

    Raises:
        FetchError: the archive is damaged, or holds a member that no source archive may hold.
    """
    with reading(lambda fault: damaged(archive, fault)):
        try:
            with tarfile.open(archive, "r:gz") as tar:
                members = _checked_members(archive, tar)
                for member in members:
                    stream = tar.extractfile(member)
                    assert stream is not None
                    _write(stream, destination / member.name, executable=bool(member.mode & stat.S_IXUSR))
        except tarfile.TarError as fault:
            raise damaged(archive, fault) from None


def _checked_members(archive: Path, tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """All regular files, after every member was checked."""
    files: list[tarfile.TarInfo] = []
    total = 0
    for number, member in enumerate(tar):
        _check_name(archive, member.name)
        if member.isdir():
            continue
        if not member.isreg():
            kind = {
                tarfile.SYMTYPE: f"a symbolic link to {member.linkname}",
                tarfile.LNKTYPE: f"a hard link to {member.linkname}",
                tarfile.CHRTYPE: "a character device",
                tarfile.BLKTYPE: "a block device",
                tarfile.FIFOTYPE: "a pipe",
            }.get(member.type, f"a member of type {member.type!r}")
            raise refused(archive, f"{member.name} is {kind}", "plain files and folders")
        total += member.size
        if total > MAX_SDIST_BYTES or number >= MAX_MEMBERS:
            raise refused(
                archive,
                f"more than {MAX_SDIST_BYTES >> 20} MiB or {MAX_MEMBERS} members",
                "the size of a source archive",
            )
        files.append(member)
    _check_unique(archive, (member.name for member in files))
    return files


def unpack_wheel(wheel: Path, destination: Path) -> None:
    """Unpacks a wheel's files into a folder (purelib and platlib alike; nothing is run).

    Raises:
        FetchError: the wheel is damaged, or holds a member that no wheel may hold.
    """
    with reading(lambda fault: damaged(wheel, fault)), zipfile.ZipFile(wheel) as archive:
        items = archive.infolist()
        for item in items:
            _check_name(wheel, item.filename)
            if stat.S_ISLNK(item.external_attr >> 16):
                raise refused(wheel, f"{item.filename} is a symbolic link", "plain files and folders")
        if sum(item.file_size for item in items) > MAX_WHEEL_BYTES or len(items) > MAX_WHEEL_MEMBERS:
            raise refused(wheel, f"more than {MAX_WHEEL_BYTES >> 30} GiB", "the size of a wheel")
        _check_unique(wheel, (item.filename for item in items if not item.is_dir()))
        for item in items:
            if item.is_dir():
                continue
            with archive.open(item) as stream:
                mode = item.external_attr >> 16
                _write(stream, destination / item.filename, executable=bool(mode & stat.S_IXUSR))


def _check_name(archive: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
        raise refused(archive, f"a member named {name!r}", "names that stay inside the archive's folder")
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.parts):
        raise refused(archive, f"a member named {name[:60]!r}...", f"names of up to {MAX_NAME_BYTES} bytes")


def _check_unique(archive: Path, names: Iterable[str]) -> None:
    """Refuses two files of one name, and a file whose name is also a folder's."""
    seen: set[str] = set()
    for name in names:
        key = str(PurePosixPath(name))
        if key in seen:
            raise refused(archive, f"{name} twice", "each file once")
        seen.add(key)
    for key in seen:
        for folder in PurePosixPath(key).parents:
            if str(folder) in seen:
                raise refused(archive, f"{folder} as a file and as a folder", "each name once")


def _write(stream: IO[bytes], path: Path, *, executable: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as out:
        while chunk := stream.read(1 << 20):
            out.write(chunk)
    path.chmod(0o755 if executable else 0o644)


def refused(archive: Path, found: str, expected: str) -> FetchError:
    """The error for an archive with a member that is refused."""
    return FetchError(
        f"{archive.name} is refused",
        found=found,
        expected=expected,
        hint="nothing was unpacked; get the archive from its publisher; if that is refused too, tell them",
    )


def damaged(archive: Path, fault: Exception) -> FetchError:
    """The error for an archive that cannot be read."""
    return FetchError(
        f"{archive.name} is damaged",
        found=f"{type(fault).__name__}: {fault}",
        expected="a whole archive",
        hint="remove the archive and fetch it again",
    )
