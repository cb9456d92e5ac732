"""``mambaport cache``: the store."""

from __future__ import annotations

import re

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mambaport.cli.options import Session, output_options
from mambaport.errors import UsageError
from mambaport.report import counted, size_text
from mambaport.sources.remote import REMOTE_KINDS, Remote, RemoteKind
from mambaport.store import KINDS, Entry


@click.group()
def cache() -> None:
    """Show the store, empty it, or share it with other machines."""


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


@cache.command()
@click.argument("url")
@click.option(
    "--kind",
    type=click.Choice(REMOTE_KINDS),
    multiple=True,
    help="Only entries of this kind; may be repeated.",
)
@output_options
def push(session: Session, url: str, kind: tuple[RemoteKind, ...]) -> None:
    """Upload the store's archives and wheels to an object store, a web server or a folder.

    The last line is the address to pull from, with the digest of everything that was pushed.

    \b
    Examples:
      mambaport cache push s3://my-bucket/mambaport     access by the AWS_ variables
      mambaport cache push https://host/store           a server that accepts PUT
      mambaport cache push /mnt/share/store
    """
    manifest, digest, sent = Remote(url, writing=True).push(session.store, kind or REMOTE_KINDS)
    address = f"{url}#sha256={digest}"
    counts = {name: len(entries) for name, entries in manifest.entries.items()}
    if session.emit({"url": url, "address": address, "sha256": digest, "entries": counts, "uploaded": sent}):
        return
    for name, count in counts.items():
        session.report.line("push", name, counted(count, "entry", "entries"))
    session.report.success(f"{counted(sent, 'new object')}; pull with: mambaport cache pull '{address}'")


@cache.command()
@click.argument("url")
@output_options
def pull(session: Session, url: str) -> None:
    """Bring archives and wheels that `cache push` has uploaded. Each file is compared with its digest.

    Without #sha256=DIGEST in the address, only archives are brought, whose digests mambaport has pinned: who
    can write to the place could exchange a wheel and the list of digests together.

    \b
    Examples:
      mambaport cache pull 's3://my-bucket/mambaport#sha256=DIGEST'
      mambaport cache pull https://host/store           archives alone
    """
    place, _, fragment = url.partition("#")
    if fragment and not re.fullmatch(r"sha256=[0-9a-f]{64}", fragment):
        raise UsageError(
            "The part of the address after # is no digest",
            found=f"#{fragment}",
            expected="#sha256= and 64 hexadecimal digits, as `mambaport cache push` prints them",
            hint="copy the whole address that `mambaport cache push` printed",
        )
    remote = Remote(place)
    new = remote.bring(session.store, remote.manifest(fragment.removeprefix("sha256=") or None))
    if session.emit({"url": place, "new": new}):
        return
    for name in new:
        session.report.line("pull", name)
    more = "" if fragment else "; wheels only with #sha256=DIGEST"
    session.report.success(f"{counted(len(new), 'new entry', 'new entries')} in {session.store.root}{more}")
