"""The commit of the checkout that mambaport runs from."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mambaport import __version__, process
from mambaport.resources import patches_dir

REPOSITORY = "https://github.com/mambaport/mambaport"
_SHA1 = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
DATA = ("patches", "kernels", "profiles", "toolchain")
"""The folders of a checkout that decide what is built."""


@dataclass(frozen=True)
class Commit:
    """A commit, and the files of :data:`DATA` that differ from it."""

    sha1: str
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Builder:
    """The mambaport that has built a wheel."""

    version: str
    commit: Commit | None
    """None for an installed mambaport, which has no checkout."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Any) -> Builder:
        """The builder of a record.

        Raises:
            KeyError, TypeError, ValueError: the data is no such record.
        """
        commit = data["commit"]
        if not isinstance(data["version"], str) or (commit and not _SHA1.fullmatch(commit["sha1"])):
            raise ValueError("a version and a commit are texts")
        changed = tuple(map(str, commit["changed"])) if commit else ()
        return Builder(data["version"], Commit(commit["sha1"], changed) if commit else None)


def this_builder() -> Builder:
    """The mambaport that runs."""
    return Builder(__version__, read_commit())


def read_commit() -> Commit | None:
    """The commit; None for an installed mambaport, and where git is missing or refuses the checkout."""
    root = patches_dir().parent
    if patches_dir().name != "patches" or not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *DATA)
    if head is None or status is None:
        return None
    return Commit(head.strip(), tuple(sorted(line[3:] for line in status.splitlines() if line.strip())))


def _git(root: Path, *words: str) -> str | None:
    try:
        finished = process.run(["git", "-C", str(root), *words])
    except OSError:
        return None
    return finished.output if finished.ok else None
