"""``mambaport cache``: the store."""

from __future__ import annotations

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mambaport.cli.options import Session, output_options
from mambaport.report import counted, size_text
from mambaport.store import KINDS, Entry


@click.group()
def cache() -> None:
    """Show the store, or empty it."""


@cache.command()
@output_options
def info(session: Session) -> None:
    """List the store's entries and their size."""
    store = session.store
    entries = store.entries()
    if session.emit(
        {
            "root": str(store.root),
            "size": sum(entry.size for entry in entries),
            "entries": [
                {"kind": entry.kind, "key": entry.key, "size": entry.size, "path": str(entry.path)}
                for entry in entries
            ],
        }
    ):
        return
    report = session.report
    table = Table(
        title=str(store.root), title_justify="left", title_style="bold", header_style="quiet", box=SIMPLE_HEAD
    )
    for name in ("kind", "entries", "size"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for kind in KINDS:
        chosen = [entry for entry in entries if entry.kind == kind]
        table.add_row(kind, str(len(chosen)), size_text(sum(entry.size for entry in chosen)))
    report.show(table)
    report.success(f"{size_text(sum(entry.size for entry in entries))} in all")


@cache.command()
@click.option(
    "--kind", type=click.Choice(KINDS), multiple=True, help="Only entries of this kind; may be repeated."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_options
def clean(session: Session, kind: tuple[str, ...], yes: bool) -> None:
    """Remove entries; without --kind, the builds' logs too. Everything can be made or fetched again.

    \b
    Examples:
      mambaport cache clean --kind wheels --yes     build again next time
      mambaport cache clean                         everything, after asking
    """
    store = session.store
    chosen: list[Entry] = [entry for entry in store.entries() if not kind or entry.kind in kind]
    size = sum(entry.size for entry in chosen)
    if chosen and not yes:
        question = f"Remove {counted(len(chosen), 'entry', 'entries')}, {size_text(size)}, from {store.root}?"
        if not click.confirm(question, err=True):
            session.report.line("cache", "nothing removed")
            return
    for entry in chosen:
        store.discard(entry.kind, entry.key)
    logs = store.clear_logs() if not kind else 0
    if session.emit({"removed": len(chosen), "size": size, "logs": logs}):
        return
    also = f" and {counted(logs, 'log')}" if logs else ""
    session.report.success(f"{counted(len(chosen), 'entry', 'entries')}{also} removed, {size_text(size)}")
