"""``--report``: the results of a command as one page of HTML, also where the command fails."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import click

from mambaport import __version__
from mambaport.cli.options import FILE, Session
from mambaport.errors import MambaportError, UsageError
from mambaport.pages import render_alone
from mambaport.redaction import redact_all
from mambaport.temporary import temporary_file

F = TypeVar("F", bound=Callable[..., Any])
STAGES = {
    "usage": "the command line, or a file of the user",
    "fetch": "fetch",
    "patch": "patch",
    "host": "this machine and its tools",
    "build": "build",
    "audit": "audit",
    "install": "the environment",
    "verify": "verify",
    "run": "run",
    "interrupted": "interrupted by the user",
}
"""The kind of an error -> the stage that failed."""


def report_option(function: F) -> F:
    """``--report``."""
    return click.option(
        "--report",
        "report_file",
        type=FILE,
        metavar="FILE",
        help="Write the results to this file as a page of HTML, also when the command fails.",
    )(function)


@dataclass
class Page:
    """The contents of a page, as far as the command has come."""

    template: str
    title: str
    values: Callable[[MambaportError | None], dict[str, Any]] = lambda _error: {}
    """Makes the values of the template from the command's results, and from its error."""
    finish: Callable[[], None] = lambda: None
    """Writes the page now, before the command prints its results."""


@contextlib.contextmanager
def results_page(session: Session, file: Path | None, page: Page) -> Iterator[Page]:
    """Writes the page when the block ends or fails, or calls ``finish``. Without a file, nothing is written.

    Raises:
        UsageError: the file cannot be written. This is found before the block begins.
    """
    if file is None:
        yield page
        return
    _refuse(file)
    written: list[Path] = []

    def finish() -> None:
        _write(session, file, page, None)
        written.append(file)
        session.report.line("report", str(file))

    page.finish = finish
    try:
        yield page
    except (Exception, KeyboardInterrupt) as fault:
        from mambaport.cli import error_of  # noqa: PLC0415 - the package imports its commands when they run

        try:
            _write(session, file, page, error_of(fault))
        except (Exception, KeyboardInterrupt) as second:  # the first error is what the user must see
            session.report.warn(f"the report {file} could not be written: {second}")
        raise
    if not written:
        finish()


def paged(template: str, title: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """``--report``; in its place the command gets a ``Page``, ``page``."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @report_option
        @functools.wraps(function)
        def command(session: Session, *, report_file: Path | None, **rest: Any) -> None:
            with results_page(session, report_file, Page(template, title)) as page:
                function(session, page=page, **rest)

        return command

    return decorate


def _refuse(file: Path) -> None:
    """Refuses a file that could not be written after minutes of work."""
    parent = file.absolute().parent
    found = None
    if not parent.is_dir():
        found = f"{parent} is not a folder"
    elif file.exists() and not file.is_file():
        found = f"{file} is not a file"
    elif not os.access(parent, os.W_OK):
        found = f"{parent} may not be written to"
    if found:
        raise UsageError(
            f"The report cannot be written to {file}",
            found=found,
            expected="a new or an old file in a folder that you may write to",
            hint="make the folder, or name another file with --report",
        )


def _write(session: Session, file: Path, page: Page, error: MambaportError | None) -> None:
    report = session.report
    failure = None
    if error is not None:
        names = ("what", "found", "expected", "hint", "detail", "exit_code")
        failure = {name: getattr(error, name) for name in names}
        failure["stage"] = STAGES.get(error.kind, error.kind)
    values = {
        "verdict": "",
        "title": page.title,
        **page.values(error),
        "error": failure,
        "command": shlex.join(["mambaport", *sys.argv[1:]]),
        "version": __version__,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": time.monotonic() - report.started,
        "steps": [vars(step) for step in report.steps_done],
    }
    text = render_alone(page.template, **redact_all(values))
    with temporary_file(file) as part:
        part.write_bytes(text)
        part.chmod(0o644)
        part.replace(file)
