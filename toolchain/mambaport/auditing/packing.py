"""A wheel as a zip archive, and what it would install: nothing that another package or the system has."""

from __future__ import annotations

import stat
import zipfile
from collections import Counter

from mambaport.auditing.findings import Finding, judge
from mambaport.contents import owned_modules
from mambaport.wheels import Wheel

LARGEST = 4 << 30
"""Bytes of all files of a wheel, unpacked."""
_INFO_FILES = frozenset({"METADATA", "WHEEL", "RECORD", "top_level.txt", "provenance.json"})
_INFO_FOLDERS = ("licenses/", "sboms/")
_MODULE_ENDS = (".py", ".so")
_ENCRYPTED = 0x1
_LOCAL_HEADER = 30
_SHOWN = 8


def archive_finding(archive: zipfile.ZipFile) -> Finding:
    """Whether every tool reads the same files out of the archive."""
    entries = archive.infolist()
    faults = [fault for item in entries for fault in _entry_faults(item)]
    names = [item.filename.rstrip("/") for item in entries]
    faults += [f"{name} stands twice in the wheel" for name, times in Counter(names).items() if times > 1]
    folded = Counter(name.casefold() for name in set(names))
    faults += [
        f"{name} differs from another name only by case" for name in names if folded[name.casefold()] > 1
    ]
    files = {item.filename for item in entries if not item.is_dir()}
    parents = {"/".join(name.split("/")[:depth]) for name in files for depth in range(1, name.count("/") + 1)}
    faults += [f"{name} is a file and a folder" for name in sorted(files & parents)]
    size = sum(item.file_size for item in entries)
    if size > LARGEST:
        faults.append(f"{size} bytes unpacked")
    end = 0
    for item in sorted(entries, key=lambda entry: entry.header_offset):
        if item.header_offset < end or (end == 0 and item.header_offset != 0):
            faults.append(f"{item.filename} does not begin where the file before it ends")
        end = item.header_offset + _LOCAL_HEADER + item.compress_size
    if archive.comment:
        faults.append("the archive has a comment")
    expected = "plain files, each once, stored or deflated, under relative ASCII names"
    return judge("archive", _short(faults), f"{len(files)} files", expected)


def _entry_faults(item: zipfile.ZipInfo) -> list[str]:
    name, mode = item.filename, item.external_attr >> 16
    parts = name.rstrip("/").split("/")
    faults = []
    if (
        name != item.orig_filename
        or not all(" " <= letter <= "~" for letter in name)
        or set(name) & set('\\:*?"<>|')
    ):
        faults.append(f"{name!r} has letters that a file name of a wheel does not have")
    if name.startswith("/") or {"", ".", ".."} & set(parts):
        faults.append(f"{name} leaves the wheel's folder")
    if item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        faults.append(f"{name} is compressed by method {item.compress_type}")
    if item.flag_bits & _ENCRYPTED:
        faults.append(f"{name} is encrypted")
    if stat.S_IFMT(mode) not in (0, stat.S_IFDIR if item.is_dir() else stat.S_IFREG) or mode & 0o7000:
        faults.append(f"{name} is no plain file (mode {mode:o})")
    return faults


def contents_finding(wheel: Wheel, names: list[str], info: str) -> Finding:
    """Whether a wheel installs its modules and its .dist-info, and nothing else.

    Args:
        info: the name of the .dist-info folder.
    """
    owned = owned_modules(wheel.name)
    faults = [f"{name} is not the wheel's to install" for name in names if not _belongs(name, owned, info)]
    faults += [
        f"{name} is compiled Python, which need not be what its source says"
        for name in names
        if _cached(name)
    ]
    there = sorted({name.split("/")[0].split(".")[0] for name in names if not name.startswith(f"{info}/")})
    expected = f"{', '.join(owned)} and {info}"
    return judge("contents", _short(faults), ", ".join([*there, info]), expected)


def _belongs(name: str, owned: tuple[str, ...], info: str) -> bool:
    top, _, rest = name.partition("/")
    if top == info:
        return rest in _INFO_FILES or rest.startswith(_INFO_FOLDERS)
    if rest:
        return top in owned
    return top.split(".")[0] in owned and top.endswith(_MODULE_ENDS)


def _cached(name: str) -> bool:
    return name.endswith((".pyc", ".pyo")) or "__pycache__" in name.split("/")


def _short(faults: list[str]) -> list[str]:
    return faults if len(faults) <= _SHOWN else [*faults[:_SHOWN], f"and {len(faults) - _SHOWN} more"]
