"""The layout of an index of wheels: what ``mambaport index`` writes and ``mambaport install --index`` reads.

Each folder of an index (``rpi``, ``jetson-jetpack6``) is a package index of its own, for one kind of device:
pip cannot choose a wheel for another device. ``SHA256SUMS`` at the top names every file with its digest.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

SUMS = "SHA256SUMS"
"""The list of all files of an index, in the form of ``sha256sum``."""
FILES = "files"
SIMPLE = "simple"
JSON_PAGE = "index.json"
API_VERSION = "1.1"
"""The version of the simple repository API that the pages follow."""
ATTESTED_API_VERSION = "1.3"
"""The version of pages that link attestations (PEP 740)."""
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def project_page(folder: str, name: str) -> str:
    """The path of a project's JSON page, relative to the index."""
    return f"{folder}/{SIMPLE}/{name}/{JSON_PAGE}"


def wheel_file(folder: str, filename: str) -> str:
    """The path of a wheel, relative to the index."""
    return f"{folder}/{FILES}/{filename}"


def sums_text(digests: dict[str, str]) -> str:
    """``SHA256SUMS`` of files: relative path -> sha256."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def read_sums(text: str) -> dict[str, str]:
    """The files of a ``SHA256SUMS``: relative path -> sha256.

    Raises:
        ValueError: a line is not a digest and a relative path below the index, or a path stands twice.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None or not is_below(match[2]) or match[2] in found:
            raise ValueError(f"line {number} is {line[:120]!r}")
        found[match[2]] = match[1]
    return found


def is_below(name: str) -> bool:
    """Whether a relative path stays below its folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and str(path) == name and name != "."
