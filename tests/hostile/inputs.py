"""The judge of hostile inputs: each ends right, or in a named error with its exit code, and in time."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from mambaport.cli import error_of

MODE = os.environ.get("MAMBAPORT_HOSTILE", "")
SHARE = {"short": 0.12, "": 1.0, "night": 20.0}[MODE]
"""The part of the inputs that this run tries."""
SEED = os.environ.get("MAMBAPORT_HOSTILE_SEED", "20261")
SECONDS = 20
"""An input that takes longer hangs."""
CODES = {2: "usage", 10: "fetch", 11: "patch", 12: "host", 13: "build", 14: "audit", 15: "install", 17: "run"}


class Wrong(Exception):  # noqa: N818 - the verdict on an input
    """An input was let in, or changed what it must not change."""


class _Hangs(BaseException):
    pass


@dataclass
class Area:
    """The attacks on one kind of input.

    Args:
        name: the area, as docs/reliability.md names it.
        arena: a folder that holds ``target`` and ``outside``; nothing may change outside ``target``.
        per_run: how many inputs a run without MAMBAPORT_HOSTILE tries.
    """

    name: str
    arena: Path
    per_run: int
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.arena / "target").mkdir(parents=True)
        (self.arena / "outside").write_text("outside\n")
        self.count = max(1, round(self.per_run * SHARE))
        self.seed = f"{SEED}-{self.name}"

    @property
    def target(self) -> Path:
        """The one folder that an input may change."""
        return self.arena / "target"

    @property
    def tried(self) -> int:
        return self.ends.total()

    def judge(self, number: int, attempt: Callable[[], object]) -> str:
        """Runs one input. Returns ``right`` or the kind of the error.

        ``attempt`` raises :class:`Wrong` where a result is not right.
        """
        end = "wrong"
        before = signal.signal(signal.SIGALRM, _hangs)
        signal.alarm(SECONDS)
        try:
            attempt()
            end = "right"
        except Wrong as verdict:
            self.wrong.append(f"{number}: {verdict}")
        except _Hangs:
            self.wrong.append(f"{number}: no end in {SECONDS} s")
        except Exception as fault:
            error = error_of(fault)
            if error.exit_code in CODES and error.what:
                end = error.kind
            else:
                self.wrong.append(f"{number}: {type(fault).__name__}: {fault}"[:300])
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        beside = sorted(path.name for path in self.arena.iterdir())
        if beside != ["outside", "target"]:
            end = "wrong"
            self.wrong.append(f"{number}: files outside: {beside}")
        elif (self.arena / "outside").read_text() != "outside\n":
            end = "wrong"
            self.wrong.append(f"{number}: a file outside was changed")
        self.ends[end] += 1
        return end

    def finish(self) -> None:
        """Fails the test where an input ended wrong, or where even the whole input was refused."""
        assert self.tried > self.count
        assert not self.wrong, [f"{len(self.wrong)} of {self.tried}", *self.wrong[:10]]
        assert self.ends["right"], self.ends


def _hangs(_number: int, _frame: FrameType | None) -> None:
    raise _Hangs
