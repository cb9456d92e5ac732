"""Reading a patch file: strictly, and as hunks of lines.

patch-ng applies patches but is lenient in what it reads, so a patch file must first pass here: plain
unified diffs that change existing files inside the tree, and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath

from mambaport.errors import PatchError

_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_FOREIGN = (
    ("diff --git", "a git header"),
    ("rename from", "a rename"),
    ("rename to", "a rename"),
    ("copy from", "a copy"),
    ("old mode", "a mode change"),
    ("new mode", "a mode change"),
    ("new file mode", "a new file"),
    ("deleted file mode", "a deleted file"),
    ("GIT binary patch", "binary content"),
    ("Binary files", "binary content"),
    ("From ", "a mail header"),
    ("Subject:", "a mail header"),
    ("-- ", "a mail signature"),
)


@dataclass(frozen=True)
class Hunk:
    """One hunk. ``start`` counts from 1 in the file before the patch."""

    number: int
    start: int
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass
class FileDiff:
    """The hunks of one file, in order."""

    name: str
    hunks: list[Hunk] = field(default_factory=list)


def read_patch(path: Path) -> list[FileDiff]:
    """A patch file's diffs.

    Raises:
        PatchError: it is not a plain unified diff, or names a file outside the tree.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as fault:
        raise _refused(path, 1, f"bytes that are not UTF-8 ({fault.reason})") from None
    if "\r" in text:
        raise _refused(path, text[: text.index("\r")].count("\n") + 1, "a carriage return")
    if not text.endswith("\n"):
        raise _refused(path, text.count("\n") + 1, "no newline at the end: the file may be cut off")
    return _Reader(path, text.split("\n")[:-1]).read()


class _Reader:
    def __init__(self, path: Path, lines: list[str]) -> None:
        self.path = path
        self.lines = lines
        self.at = 0

    def read(self) -> list[FileDiff]:
        diffs: list[FileDiff] = []
        while self.at < len(self.lines):
            diffs.append(self._file())
        if not diffs:
            raise _refused(self.path, 1, "no diff")
        names = [diff.name for diff in diffs]
        if len(set(names)) != len(names):
            raise _refused(self.path, 1, "the same file twice")
        return diffs

    def _file(self) -> FileDiff:
        line = self.lines[self.at]
        for start, kind in _FOREIGN:
            if line.startswith(start):
                raise _refused(self.path, self.at + 1, kind)
        if not line.startswith("--- ") or not self._peek(1).startswith("+++ "):
            raise _refused(self.path, self.at + 1, f"{line[:60]!r}, where `--- a/<file>` should stand")
        old, new = self._name(line, "a/"), self._name(self._peek(1), "b/")
        if old != new:
            raise _refused(self.path, self.at + 1, f"two names, {old} and {new}: a rename")
        self.at += 2
        diff = FileDiff(old)
        while self.at < len(self.lines) and self.lines[self.at].startswith("@@"):
            diff.hunks.append(self._hunk(len(diff.hunks) + 1))
        if not diff.hunks:
            raise _refused(self.path, self.at, f"no hunk for {old}")
        for one, other in pairwise(diff.hunks):
            if other.start < one.start + len(one.before):
                raise _refused(self.path, self.at, f"hunks of {old} out of order, or one over another")
        return diff

    def _name(self, line: str, prefix: str) -> str:
        name = line[4:].partition("\t")[0]
        if name == "/dev/null":
            raise _refused(self.path, self.at + 1, "a file made or deleted; whole files belong in overlay/")
        inside = name.removeprefix(prefix)
        parts = PurePosixPath(inside).parts
        if inside == name or not parts or inside.startswith("/") or ".." in parts or "\\" in inside:
            raise _refused(self.path, self.at + 1, f"the name {name!r}, which may leave the tree")
        return inside

    def _hunk(self, number: int) -> Hunk:
        head = _HUNK.match(self.lines[self.at])
        if head is None:
            raise _refused(self.path, self.at + 1, "a hunk header that cannot be read")
        start, old_count, _, new_count = (int(group) if group else 1 for group in head.groups())
        self.at += 1
        before: list[str] = []
        after: list[str] = []
        while len(before) < old_count or len(after) < new_count:
            line = self._peek(0)
            sign, text = line[:1], line[1:]
            if sign not in (" ", "-", "+"):
                raise _refused(
                    self.path,
                    self.at + 1,
                    f"{line[:60]!r} inside a hunk of {old_count} and {new_count} lines",
                )
            if sign != "+":
                before.append(text)
            if sign != "-":
                after.append(text)
            self.at += 1
        if len(before) != old_count or len(after) != new_count:
            raise _refused(self.path, self.at, "a hunk whose line counts are wrong")
        if self._peek(0).startswith("\\"):
            raise _refused(self.path, self.at + 1, "a file without a newline at its end")
        if not before:
            raise _refused(self.path, self.at, "a hunk without context; whole files belong in overlay/")
        return Hunk(number, start, tuple(before), tuple(after))

    def _peek(self, ahead: int) -> str:
        index = self.at + ahead
        return self.lines[index] if index < len(self.lines) else ""


def _refused(path: Path, line: int, found: str) -> PatchError:
    return PatchError(
        f"{path.name} is refused",
        found=f"line {line}: {found}",
        expected="a plain unified diff (`--- a/<file>`, `+++ b/<file>`, hunks) of files inside the tree",
        hint=f"correct {path}; docs/how-to/write-a-patch.md shows how one is made",
    )
