"""One error base; one class, and one exit code, for each kind of failure.

An error says what went wrong, what was found, what was expected, and how to mend it. The command line
catches :class:`MambaportError` once and prints it; nothing else in the package prints errors.
"""

from __future__ import annotations

import errno
from typing import Any


class MambaportError(Exception):
    """A failure that the user can act on.

    Args:
        what: one sentence that says what went wrong.
        found: the state that mambaport found.
        expected: the state that is needed.
        hint: how to mend the failure; a command where one exists.
        detail: longer evidence, such as the tail of a log or the lines of a hunk.
        data: the results that a command has despite the failure; printed with the error by ``--json``.
    """

    exit_code = 1
    kind = "error"

    def __init__(
        self,
        what: str,
        *,
        found: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
        detail: str | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.found = found
        self.expected = expected
        self.hint = hint
        self.detail = detail
        self.data = data or {}

    def to_json(self) -> dict[str, Any]:
        """The error as plain data, for ``--json``."""
        fields = {
            "kind": self.kind,
            "what": self.what,
            "found": self.found,
            "expected": self.expected,
            "hint": self.hint,
            "detail": self.detail,
            "exit_code": self.exit_code,
        }
        return {key: value for key, value in fields.items() if value is not None}


class UsageError(MambaportError):
    """The command line or a file that the user wrote asks for something that does not exist."""

    exit_code = 2
    kind = "usage"


class FetchError(MambaportError):
    """An archive cannot be fetched, or differs from the pinned one."""

    exit_code = 10
    kind = "fetch"


class PatchError(MambaportError):
    """A patch set is not valid, or does not fit its source exactly."""

    exit_code = 11
    kind = "patch"


class HostError(MambaportError):
    """This machine lacks something: a compiler, an emulator, a Python, disk space."""

    exit_code = 12
    kind = "host"


class BuildError(MambaportError):
    """A package's own build failed."""

    exit_code = 13
    kind = "build"


class AuditError(MambaportError):
    """A wheel does not match its tag, its profile or its records."""

    exit_code = 14
    kind = "audit"


class InstallError(MambaportError):
    """The wheels do not fit the environment, or their installation failed."""

    exit_code = 15
    kind = "install"


class VerifyError(MambaportError):
    """The installed packages do not give right numbers."""

    exit_code = 16
    kind = "verify"


class RunError(MambaportError):
    """A model cannot be run with the given image, checkpoint or folder of classes."""

    exit_code = 17
    kind = "run"


class IndexFault(MambaportError):  # noqa: N818 - the fault of an index of wheels; IndexError is Python's
    """An index of wheels is damaged, or would hold two different files where pip sees one."""

    exit_code = 18
    kind = "index"


class Interrupted(MambaportError):  # noqa: N818 - the user's own wish, not a fault
    """Stopped by the user."""

    exit_code = 130
    kind = "interrupted"


DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def disk_full(where: str) -> HostError:
    """The error for a full disk. ``where``: the file or the step that was being written."""
    return HostError(
        "The disk is full",
        found=f"no space left while writing {where}",
        expected="room for the store and the build (rpi-cpu 1 GB, jetson-orin 2 GB, emulation 1.5 GB more)",
        hint="free space, or remove what can be made again with `mambaport cache clean`, "
        "or point MAMBAPORT_CACHE at another disk; then run the same command again",
    )
