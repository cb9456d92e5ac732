"""The commit of the checkout that mambaport runs from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mambaport import process
from mambaport.resources import patches_dir

REPOSITORY = "https://github.com/mambaport/mambaport"
DATA = ("patches", "kernels", "profiles", "toolchain")
"""The folders of a checkout that decide what is built."""


@dataclass(frozen=True)
class Commit:
    """A commit, and the files of :data:`DATA` that differ from it."""

    sha1: str
    changed: tuple[str, ...]


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
