"""What people read while mambaport works: plain lines on stderr, and progress on a terminal.

Stages take a :class:`Report` and know nothing of the command line. stdout stays free for ``--json``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.markup import escape as rich_escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.theme import Theme

from mambaport.redaction import redact

THEME = Theme(
    {"stage": "bold cyan", "good": "green", "bad": "bold red", "warn": "yellow", "quiet": "bright_black"}
)


def escape(text: str) -> str:
    """``text`` for rich, as it is, without passwords."""
    return rich_escape(redact(text))


class Report:
    """Writes one line per finished step, and live progress between lines where a terminal shows it."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, theme=THEME, highlight=False)
        self.quiet = quiet

    def line(self, stage: str, text: str, note: str = "") -> None:
        """``stage`` in a column of its own, then ``text``, then a dim ``note``."""
        if not self.quiet:
            tail = f"  [quiet]{escape(note)}[/quiet]" if note else ""
            self.console.print(f"[stage]{stage:<8}[/stage] {escape(text)}{tail}", soft_wrap=True)

    def warn(self, text: str) -> None:
        """A line that the user should see even when quiet."""
        self.console.print(f"[warn]warning[/warn]  {escape(text)}", soft_wrap=True)

    def show(self, renderable: RenderableType) -> None:
        """A table or a panel."""
        if not self.quiet:
            self.console.print(renderable)

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
        """A spinner while something runs. Yields a function that shows its latest line."""
        if self.quiet or not self.console.is_terminal:
            yield lambda _line: None
            return
        head = f"[stage]{stage:<8}[/stage] {escape(text)}"
        with self.console.status(head) as status:

            def latest(line: str) -> None:
                room = max(10, self.console.width - len(text) - 16)
                status.update(f"{head} [quiet]{escape(line.strip()[:room])}[/quiet]")

            yield latest

    @contextmanager
    def steps(self, stage: str, text: str) -> Iterator[Callable[[str, float | None, float | None], None]]:
        """A bar for work that counts its steps. Yields a function of what is done now, and of how much."""
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


def size_text(count: int) -> str:
    """A number of bytes for people: ``29 kB``, ``101 MB``."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
