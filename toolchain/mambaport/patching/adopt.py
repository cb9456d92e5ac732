"""Adopting a checkout: a patch set goes into a folder that is the user's own, and comes out of it again.

The folder holds more than the patch set knows: data, results, git's records, files that the user has
changed. So only the files that the lock names are copied out; they are patched as any source is, with all
its guards; and each then takes its file's place by a rename. Nothing records that a checkout is adopted: the
digests say so.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from mambaport.digests import file_sha256
from mambaport.errors import PatchError
from mambaport.interruption import postponed
from mambaport.locking import locked
from mambaport.patching.apply import apply_sets
from mambaport.patching.diff import read_patch
from mambaport.patching.hunks import place_all, reverse
from mambaport.patchset import PatchSet, TouchedFile
from mambaport.temporary import sweep, temporary_file

FileState = Literal["before", "after", "changed", "crlf", "missing", "link"]
"""``crlf``: as before or after but for its line ends, which are CRLF."""
State = Literal["pristine", "adopted", "interrupted", "changed"]

_KEEP = (
    "nothing was changed. Put your own changes aside (`git stash`), run this again, and bring them back "
    "(`git stash pop`); or check out the commit that the patch set is named after. What another release of "
    "mambaport adopted, that release undoes, or `git checkout -- FILE`"
)


@dataclass(frozen=True)
class Adoption:
    """How one patch set stands in one checkout."""

    root: Path
    """Resolved."""
    set: PatchSet
    touched: dict[str, TouchedFile]
    files: dict[str, FileState]

    @property
    def state(self) -> State:
        """``interrupted``: some files are as before and some as after; adopting or undoing completes it."""
        states = set(self.files.values())
        if states <= {"before"}:
            return "pristine"
        if states <= {"after"}:
            return "adopted"
        return "interrupted" if states <= {"before", "after"} else "changed"

    def named(self, *states: FileState) -> list[str]:
        """The files in one of ``states``."""
        return [name for name, state in self.files.items() if state in states]


def survey(root: Path, sets: Sequence[PatchSet]) -> Adoption:
    """The set that fits the checkout at ``root``, or else the one that comes nearest. Reads only."""
    root = root.resolve()
    adoptions = []
    for item in sets:
        touched = item.touched()
        states = {name: _state(root, name, file) for name, file in touched.items()}
        adoptions.append(Adoption(root, item, touched, states))
    return max(adoptions, key=lambda each: len(each.named("before", "after", "crlf")) / len(each.files))


def adopt(adoption: Adoption, *, dry_run: bool = False) -> list[str]:
    """Applies the set to the checkout. Returns the files that it wrote; none when it was adopted before.

    With ``dry_run`` all is done but the writing.

    Raises:
        PatchError: a file is not the one that the set was made for, with the hunk that does not match.
            Nothing has been changed.
    """
    with _alone(adoption), TemporaryDirectory(prefix="mambaport-adopt-") as folder:
        adoption = survey(adoption.root, [adoption.set])
        _refuse(adoption, adoption.named("link"))
        _refuse(adoption, adoption.named("crlf"))
        tree = Path(folder) / "tree"
        _copy_before(adoption, tree)
        try:
            apply_sets(tree, [adoption.set], adoption.set.lock())
        except PatchError as fault:
            fault.hint = _KEEP
            raise
        _refuse(adoption, adoption.named("changed", "missing"))  # an overlay's name that is taken
        contents = {name: (tree / name).read_bytes() for name in adoption.named("before")}
        return list(contents) if dry_run else _write(adoption, contents)


def undo(adoption: Adoption, *, dry_run: bool = False) -> list[str]:
    """Puts back what was there before :func:`adopt`. Returns the files that it wrote or removed.

    Raises:
        PatchError: a file was changed since. Nothing has been changed.
    """
    with _alone(adoption):
        adoption = survey(adoption.root, [adoption.set])
        _refuse(adoption, adoption.named("link", "crlf", "changed", "missing"))
        before = _reverted(adoption)
        contents = {name: before.get(name) for name in adoption.named("after")}
        return list(contents) if dry_run else _write(adoption, contents)


def _state(root: Path, name: str, file: TouchedFile) -> FileState:
    path = root
    for part in Path(name).parts:
        path /= part
        if path.is_symlink():  # it may lead out of the checkout
            return "link"
    if not path.exists():
        return "before" if file.before is None else "missing"
    if not path.is_file():
        return "changed"
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest == file.after:
        return "after"
    if digest == file.before:
        return "before"
    unix = hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()
    return "crlf" if unix in (file.before, file.after) else "changed"


def _refuse(adoption: Adoption, names: Sequence[str]) -> None:
    if not names:
        return
    name = names[0]
    state, file = adoption.files[name], adoption.touched[name]
    if state == "link":
        raise PatchError(
            f"{name} in {adoption.root} is a link, or lies behind one",
            found=f"it leads to {(adoption.root / name).resolve()}",
            expected="a file of the checkout itself; mambaport writes through no links",
            hint="nothing was changed; put the file itself there",
        )
    if state == "crlf":
        paths = [shlex.quote(str(adoption.root / each)) for each in adoption.named("crlf")]
        raise PatchError(
            f"{name} in {adoption.root} has CRLF line ends",
            found=f"{len(paths)} of {len(adoption.files)} files differ by their line ends alone",
            expected="LF, as in the repository; git on Windows, or core.autocrlf=true, writes CRLF",
            hint="nothing was changed. Give the files LF line ends, then run this again: "
            f"sed -i 's/\\r$//' {' '.join(paths)}",
        )
    path = adoption.root / name
    is_there = f"sha256 {file_sha256(path)}" if path.is_file() else "no file"
    raise PatchError(
        f"{name} in {adoption.root} is not as patch set {adoption.set.name} knows it",
        found=is_there,
        expected=f"sha256 {file.after} (adopted), or {file.before or 'no file'} (before)",
        hint=_KEEP,
    )


def _copy_before(adoption: Adoption, tree: Path) -> None:
    """The files that the patches change, as they are before them, in a folder of their own."""
    tree.mkdir()
    reverted = _reverted(adoption)
    for name, file in adoption.touched.items():
        if file.before is None or not (adoption.root / name).is_file():
            continue
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        if name in reverted:
            (tree / name).write_bytes(reverted[name])
        else:
            shutil.copyfile(adoption.root / name, tree / name)


def _reverted(adoption: Adoption) -> dict[str, bytes]:
    """Each patched file as it was, by taking the hunks back in memory; checked against the lock."""
    files = {
        name: (adoption.root / name).read_bytes().decode("utf-8").split("\n")
        for name in adoption.named("after")
        if adoption.touched[name].before is not None
    }
    for patch in reversed(adoption.set.patches):
        for diff in read_patch(adoption.set.path(patch)):
            if diff.name in files:
                _places, files[diff.name] = place_all(files[diff.name], reverse(diff))
    contents = {name: "\n".join(lines).encode() for name, lines in files.items()}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != adoption.touched[name].before:
            raise PatchError(f"The hunks do not lead back to {name} as it was", hint="this is a bug")
    return contents


def _write(adoption: Adoption, contents: Mapping[str, bytes | None]) -> list[str]:
    """Gives each file its new content; None removes the file. All of them, or none."""
    targets = {name: adoption.root / name for name in contents}
    with ExitStack() as stack:
        staged = {
            name: _stage(stack, targets[name], content)
            for name, content in contents.items()
            if content is not None
        }
        before = {
            name: _stage(stack, target, target.read_bytes())
            for name, target in targets.items()
            if target.exists()
        }
        if survey(adoption.root, [adoption.set]).files != adoption.files:
            raise PatchError(
                f"{adoption.root} was changed while mambaport worked on it",
                hint="nothing was changed; run this again",
            )
        try:
            for name, target in targets.items():
                _place(target, staged.get(name))
        except BaseException:
            with postponed():
                for name, target in targets.items():
                    _place(target, before.get(name))
            raise
    return list(contents)


def _stage(stack: ExitStack, target: Path, content: bytes) -> Path:
    """A temporary file beside ``target`` with ``content``, flushed, with the target's mode and owner."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = stack.enter_context(temporary_file(target))
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    like = target.stat() if target.exists() else None
    path.chmod(like.st_mode & 0o777 if like else 0o644)
    owner = like or target.parent.stat()
    with suppress(PermissionError):
        os.chown(path, owner.st_uid, owner.st_gid)
    return path


def _place(target: Path, staged: Path | None) -> None:
    if staged is None:
        target.unlink(missing_ok=True)
    else:
        staged.replace(target)


@contextmanager
def _alone(adoption: Adoption) -> Iterator[None]:
    """Holds the checkout's lock, and removes what a killed mambaport left beside the files."""
    refusal = PatchError(
        f"Another mambaport works on {adoption.root}", hint="run this again when it has finished"
    )
    with locked(adoption.root, refusal):
        for folder in {(adoption.root / name).parent for name in adoption.files}:
            sweep(folder)
        yield
