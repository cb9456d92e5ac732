"""Wheels as files: their names, their digests, and the wheelhouse, the folder of finished wheels."""

from __future__ import annotations

import contextlib
import errno
import json
import lzma
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from mambaport.digests import file_sha256
from mambaport.errors import InstallError, MambaportError, UsageError
from mambaport.temporary import temporary_file

# What Python raises for damaged archives and their members. RuntimeError is a compression that Python does
# not know, or a member with a password; ValueError, struct.error and the others are invalid fields;
# MemoryError is a size that no machine has.
UNREADABLE_ZIP = (
    *(zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, RuntimeError, ValueError, struct.error),
    *(KeyError, IndexError, OverflowError, MemoryError),
)

STATEMENT = ".intoto.json"
"""The end of the name of the statement beside a wheel, after the wheel's file name."""

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"


@contextlib.contextmanager
def reading(error: Callable[[Exception], MambaportError]) -> Iterator[None]:
    """Turns what Python raises for a damaged archive into ``error``; faults of the disk are passed on."""
    try:
        yield
    except UNREADABLE_ZIP as fault:
        raise error(fault) from None
    except OSError as fault:
        # bz2 raises OSError without a number; damaged fields give EINVAL (a seek) and ENAMETOOLONG (a name).
        if fault.errno in (None, errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ):
            raise error(fault) from None
        raise


@dataclass(frozen=True)
class Wheel:
    """A wheel file, and the facts that its name states."""

    path: Path
    name: str
    """Normalised project name: ``causal-conv1d``."""
    version: str
    tag: str
    """The wheel's one compatibility tag: ``py3-none-linux_aarch64``."""

    @property
    def arch(self) -> str:
        """The architecture of the tag, ``aarch64``; ``any`` for a wheel without compiled files."""
        return next((arch for arch in ("aarch64", "x86_64") if self.tag.endswith(arch)), "any")

    @property
    def sha256(self) -> str:
        return file_sha256(self.path)

    def provenance(self) -> dict[str, Any]:
        """The build's record inside the wheel; empty for a wheel that mambaport did not build.

        Raises:
            InstallError: the wheel is damaged.
        """
        with reading(self._damaged), zipfile.ZipFile(self.path) as archive:
            for name in archive.namelist():
                if name.endswith(".dist-info/provenance.json"):
                    record = json.loads(archive.read(name))
                    return record if isinstance(record, dict) else {}
        return {}

    def _damaged(self, fault: Exception) -> InstallError:
        return InstallError(
            f"{self.path.name} is damaged",
            found=f"{type(fault).__name__}: {fault}",
            expected="a whole wheel",
            hint="copy it again, or build it again with `mambaport build`",
        )


def read_wheel(path: Path) -> Wheel:
    """A wheel by its path.

    Raises:
        UsageError: there is no such file, or its name is not that of a wheel.
    """
    if not path.is_file():
        inside = sorted(item.name for item in path.glob("*.whl")) if path.is_dir() else []
        raise UsageError(
            f"There is no wheel {path}",
            found="a folder" + (f" with {', '.join(inside)}" if inside else "") if path.is_dir() else None,
            hint="name a wheel in the folder" if inside else "check the path; `mambaport build` makes wheels",
        )
    try:
        name, version, _build, _tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename as fault:
        raise UsageError(
            f"{path.name} is not a wheel's name",
            found=str(fault),
            expected="name-version-python-abi-platform.whl",
            hint="restore the file's original name: a wheel's name says what it is for",
        ) from None
    return Wheel(path, str(name), str(version), "-".join(path.stem.split("-")[-3:]))


def put(wheel: Path, wheelhouse: Path) -> Path:
    """Copies a finished wheel into the wheelhouse; the wheel appears there whole or not at all."""
    wheelhouse.mkdir(parents=True, exist_ok=True)
    target = wheelhouse / wheel.name
    new = read_wheel(wheel)
    if not (target.is_file() and file_sha256(target) == new.sha256):
        with temporary_file(target) as partial:
            shutil.copyfile(wheel, partial)
            partial.chmod(0o644)
            partial.replace(target)
    return target


def drop_replaced(wheel: Wheel) -> list[str]:
    """Removes, from the folder of a wheel, the wheels that this wheel replaces: of the same package, version
    and architecture under another tag, such as that of another glibc. pip would choose between them by tag.

    Returns:
        the names of the removed files
    """
    removed = []
    for path in sorted(wheel.path.parent.glob("*.whl")):
        with contextlib.suppress(UsageError):
            other = read_wheel(path)
            same = (other.name, other.version, other.arch) == (wheel.name, wheel.version, wheel.arch)
            if same and path.name != wheel.path.name:
                path.unlink(missing_ok=True)
                removed.append(path.name)
    return removed


def wheels_in(wheelhouse: Path) -> list[Wheel]:
    """Every wheel of a folder and of its subfolders, one for each profile. Other files are ignored."""
    found = []
    for path in [*sorted(wheelhouse.glob("*.whl")), *sorted(wheelhouse.glob("*/*.whl"))]:
        with contextlib.suppress(UsageError):
            found.append(read_wheel(path))
    return found


def find(wheelhouse: Path, name: str, version: str) -> Wheel:
    """The wheel of exactly this version.

    Raises:
        InstallError: the wheelhouse does not have it.
    """
    available = wheels_in(wheelhouse)
    for wheel in available:
        if wheel.name == name and wheel.version == version:
            return wheel
    others = ", ".join(str(wheel.path.relative_to(wheelhouse)) for wheel in available) or "no wheels"
    raise InstallError(
        f"The wheelhouse has no {name} {version}",
        found=f"{others} in {wheelhouse}" if wheelhouse.is_dir() else f"no folder {wheelhouse}",
        expected=f"{name}-{version} in {wheelhouse}, or in a subfolder",
        hint="`mambaport build` with the same profile makes it, in wheelhouse/PROFILE; --wheelhouse names "
        "that folder or the one above it",
    )
