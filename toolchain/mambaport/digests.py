"""sha256 of files, of folders and of plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


def data_sha256(data: Any) -> str:
    """The sha256 of plain data written as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def tree_files(root: Path) -> Iterator[str]:
    """The files below ``root`` as sorted POSIX paths relative to it."""
    yield from sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def tree_sha256(root: Path) -> str:
    """The sha256 of a folder's file paths and file contents; modes and times do not count."""
    return data_sha256([[name, file_sha256(root / name)] for name in tree_files(root)])
