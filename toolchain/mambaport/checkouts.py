"""Repositories that use Mamba and that mambaport can adapt where a user has cloned them.

``patches/checkouts/<name>/checkout.toml`` says how a checkout is recognised. Each folder beside it is a patch
set for one commit; its lock names the files that it touches, and these files decide whether it fits.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mambaport import process
from mambaport.errors import PatchError, UsageError
from mambaport.models import Model, read_toml, validate
from mambaport.patchset import PatchSet
from mambaport.resources import patches_dir

_MARK_BYTES = 1 << 20  # marks are texts near the top of source files


class Checkout(Model):
    """``checkout.toml``: one repository."""

    title: str
    repository: str
    """``owner/name``."""
    license: str
    """SPDX expression."""
    needs: tuple[str, ...]
    """The patch sets of mamba-ssm that its code needs."""
    run: str
    """The command to run in the checkout after ``adopt``."""
    unchanged: str | None = None
    """Why the repository's code needs no patches; only for a repository without patch sets."""
    marks: dict[str, str] = Field(min_length=1)
    """File -> a text in it; a folder with all of them is a checkout. ``*`` stands for one name of a path."""

    def is_at(self, root: Path) -> bool:
        """Whether ``root`` is a checkout of this repository, whatever its commit."""
        return all(
            any(text in _head(path) for path in root.glob(name))
            if "*" in name
            else text in _head(root / name)
            for name, text in self.marks.items()
        )


def known_checkouts() -> dict[str, Checkout]:
    """Name -> repository, for every folder with a checkout.toml.

    Raises:
        PatchError: one of them is not valid.
    """
    paths = sorted(patches_dir().glob("checkouts/*/checkout.toml"))
    return {path.parent.name: validate(Checkout, read_toml(path), path, PatchError) for path in paths}


def checkout_sets(name: str) -> list[PatchSet]:
    """A repository's patch sets, each made for one commit and named after it."""
    paths = sorted((patches_dir() / "checkouts" / name).glob("*/patchset.toml"))
    return [PatchSet(path.parent) for path in paths]


def recognise(root: Path) -> tuple[str, Checkout]:
    """The name and the repository that ``root`` is a checkout of.

    Raises:
        UsageError: ``root`` is not a checkout of a known repository.
    """
    known = known_checkouts()
    for name, checkout in known.items():
        if checkout.is_at(root):
            return name, checkout
    folders = [*root.parents, *_folders_in(root)]
    nearby = next((folder for folder in folders if any(item.is_at(folder) for item in known.values())), None)
    repositories = " or ".join(item.repository for item in known.values())
    raise UsageError(
        f"{root} is not a checkout of {repositories}",
        found="a folder without " + " and without ".join(next(iter(item.marks)) for item in known.values())
        if root.is_dir()
        else "no such folder",
        expected="the top folder of such a checkout",
        hint=f"mambaport adopt {nearby}" if nearby else "clone one of them, and give its folder",
    )


def _folders_in(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    except PermissionError:
        return []


def commit_of(root: Path) -> str | None:
    """The commit that is checked out, in hex; None for a folder without git's records."""
    if not (root / ".git").exists():
        return None
    try:
        finished = process.run(["git", "-C", root, "rev-parse", "--verify", "HEAD"])
    except FileNotFoundError:
        return None
    return finished.output.strip() if finished.ok else None


def _head(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        return stream.read(_MARK_BYTES).decode("utf-8", errors="replace")
