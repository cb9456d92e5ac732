"""What people read: results on stdout; progress, warnings and errors on stderr.

Stages take a :class:`Report` and know nothing of the command line. With ``--json``, stdout holds one JSON
object and what is for people goes to stderr.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape as rich_escape
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text
from rich.theme import Theme

from mambaport.redaction import redact

THEME = Theme(
    {"stage": "bold cyan", "good": "green", "bad": "bold red", "warn": "yellow", "quiet": "bright_black"}
)
UNBOUNDED = 4000
"""The width, in columns, of output to a file or a pipe: nothing is wrapped or cut."""
EVERY = 30.0
"""Seconds between the lines of a long step where there is no terminal."""
_COUNTER = re.compile(r"^\[(\d+)/(\d+)\]")


def escape(text: str) -> str:
    """``text`` escaped for rich, with passwords hidden."""
    return rich_escape(redact(text))


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """``1 wheel``, ``2 wheels``."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def open_console(*, stderr: bool) -> Console:
    """A console as wide as the terminal; without one, so wide that nothing is wrapped."""
    kind = _Errors if stderr else _Console
    console = kind(stderr=stderr, theme=THEME, highlight=False)
    if console.is_terminal:
        return console
    return kind(stderr=stderr, theme=THEME, highlight=False, width=UNBOUNDED)


def print_indented(console: Console, text: str, columns: int) -> None:
    """Prints a paragraph whose lines all begin at column `columns`; on a terminal it is wrapped."""
    if console.is_terminal:
        console.print(Padding(text, (0, 2, 0, columns), expand=False))
    else:
        console.print(" " * columns + text)


class _Console(Console):
    """A console that raises BrokenPipeError for a closed pipe; the command line sets the exit code."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _Errors(_Console):
    """A console on stderr. Text that stderr cannot take (full device, closed pipe) is lost; work goes on."""

    def print(self, *objects: Any, **options: Any) -> None:
        with contextlib.suppress(OSError):
            super().print(*objects, **options)


@dataclass(frozen=True)
class Step:
    """A finished step, or a warning, for a report of the whole command."""

    seconds: float
    """Since the command began."""
    stage: str
    text: str
    note: str = ""


class Report:
    """One line per finished step, live progress between lines where a terminal shows it, and results.

    Args:
        quiet: only warnings and errors.
        as_json: stdout is for one JSON object; results for people go to stderr.
        every: seconds between the lines of a long step where there is no terminal.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False, every: float = EVERY) -> None:
        self.console = open_console(stderr=True)
        self.results = self.console if as_json else open_console(stderr=False)
        self.quiet = quiet
        self.every = every
        self.started = time.monotonic()
        self.steps_done: list[Step] = []
        """Every finished step and every warning so far, with ``quiet`` too."""

    def line(self, stage: str, text: str, note: str = "") -> None:
        """A finished step: ``stage`` in a column of its own, then ``text``, then a dim ``note``."""
        self._keep(stage, text, note)
        if not self.quiet:
            self._print(self.console, stage, text, note)

    def _keep(self, stage: str, text: str, note: str = "") -> None:
        self.steps_done.append(Step(time.monotonic() - self.started, stage, text, note))

    def result(self, stage: str, text: str, note: str = "") -> None:
        """A result of the command, in the form of :meth:`line`."""
        if not self.quiet:
            self._print(self.results, stage, text, note)

    @staticmethod
    def _print(console: Console, stage: str, text: str, note: str) -> None:
        tail = f"  [quiet]{escape(note)}[/quiet]" if note else ""
        console.print(f"[stage]{stage:<8}[/stage] {escape(text)}{tail}", soft_wrap=True)

    def warn(self, text: str) -> None:
        """A line that the user should see even when quiet."""
        self._keep("warning", text)
        self.console.print(f"[warn]warning[/warn]  {escape(text)}", soft_wrap=True)

    def show(self, renderable: RenderableType) -> None:
        """A table of results. In a file or a pipe, its lines have no spaces at the end."""
        if self.quiet:
            return
        if self.results.is_terminal:
            self.results.print(renderable)
            return
        rendered = self.results.render_lines(renderable, pad=False)
        lines = ("".join(segment.text for segment in line).rstrip() for line in rendered)
        self.results.print(Text("\n".join(lines)), soft_wrap=True)

    def success(self, text: str) -> None:
        """The last line of a command that did its work."""
        if not self.quiet:
            self.console.print(f"[good]✓[/good] {escape(text)}", soft_wrap=True)

    @contextmanager
    def download(self, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """A progress bar in bytes. Yields a function that advances it."""
        if self.quiet or not self.console.is_terminal:
            yield lambda _count: None
            return
        columns = (TextColumn("[stage]{task.description:<8}"), TextColumn("{task.fields[name]}"), BarColumn())
        with Progress(
            *columns, DownloadColumn(), TransferSpeedColumn(), console=self.console, transient=True
        ) as bar:
            task = bar.add_task("fetch", total=total, name=label)
            yield lambda count: bar.advance(task, count)

    @contextmanager
    def working(self, stage: str, text: str) -> Iterator[Callable[[str], None]]:
        """Shows that a program runs. Yields a function that takes each line that the program prints.

        On a terminal a spinner shows the latest line, and the count of a line that begins with ``[n/m]``.
        Without a terminal, a line every ``every`` seconds gives the time and the progress of the step.
        """
        if self.quiet:
            yield lambda _line: None
            return
        state = _Running()
        if not self.console.is_terminal:
            ended = threading.Event()
            beat = threading.Thread(target=self._beat, args=(stage, text, state, ended), daemon=True)
            beat.start()
            try:
                yield state.take
            finally:
                ended.set()
                beat.join()
            return
        head = f"[stage]{stage:<8}[/stage] {escape(text)}"
        with self.console.status(head) as status:

            def latest(line: str) -> None:
                state.take(line)
                room = max(10, self.console.width - len(text) - len(state.count) - 20)
                status.update(f"{head} {state.count} [quiet]{escape(state.line[:room])}[/quiet]")

            yield latest

    def _beat(self, stage: str, text: str, state: _Running, ended: threading.Event) -> None:
        started = time.monotonic()
        while not ended.wait(self.every):
            done = "  ".join(part for part in (state.count, state.line[:200]) if part)
            self.line(stage, f"{text}: {time.monotonic() - started:.0f} s", done)

    @contextmanager
    def steps(self, stage: str, text: str) -> Iterator[Callable[[str, float | None, float | None], None]]:
        """A bar for work that counts its steps. Yields a function ``(step, steps done, all steps)``."""
        if self.quiet or not self.console.is_terminal:
            yield lambda _now, _done, _total: None
            return
        columns = (
            TextColumn("[stage]{task.description:<8}"),
            TextColumn(escape(text)),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("[quiet]{task.fields[now]}"),
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(stage, total=None, now="")
            yield lambda now, done, total: bar.update(task, now=escape(now), completed=done or 0, total=total)


class _Running:
    """How far a running program is, by the lines that it prints."""

    def __init__(self) -> None:
        self.line = ""
        self.count = ""
        """``3 of 29 files``, from a line that begins with ``[3/29]``."""

    def take(self, line: str) -> None:
        text = line.strip()
        if text.startswith("{"):  # a program's answer in JSON, for mambaport
            return
        if found := _COUNTER.match(text):
            self.count = f"{found[1]} of {found[2]} files"
            text = text[found.end() :].strip()
        self.line = text or self.line


def size_text(count: int) -> str:
    """A number of bytes for people: ``29 kB``, ``101 MB``."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
