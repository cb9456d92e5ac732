"""``mambaport patches``: the upkeep of patch sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from mambaport.checkouts import checkout_sets, commit_of, known_checkouts, recognise
from mambaport.cli.options import FOLDER, Session, output_options, source_options
from mambaport.cli.reasons import print_reasons
from mambaport.digests import file_sha256
from mambaport.errors import PatchError, UsageError
from mambaport.patching import PatchState, apply_sets, check_against, refresh_checkout_lock, refresh_lock
from mambaport.patchset import PatchSet, Source, all_sets, known_versions, read_source
from mambaport.plan import set_json
from mambaport.report import counted
from mambaport.sources import assemble, unpack_sdist
from mambaport.sources.fetch import download, find_sdist

STYLES = {"applies": "good", "moved": "warn", "drifted": "bad", "already upstream": "stage"}


@click.group()
def patches() -> None:
    """Look after the patch sets: list, check, refresh."""


@patches.command(name="list")
@output_options
def list_(session: Session) -> None:
    """List every patch, in order, with its reason."""
    versions = [(name, version, all_sets(name, version)) for name, version in known_versions()]
    checkouts = [(item.repository, checkout_sets(name)) for name, item in known_checkouts().items()]
    if session.emit(
        {
            "packages": [
                {"name": name, "version": version, "sets": [set_json(item) for item in sets]}
                for name, version, sets in versions
            ],
            "checkouts": [
                {"repository": repository, "sets": [set_json(item) for item in sets]}
                for repository, sets in checkouts
            ],
        }
    ):
        return
    console = session.report.results
    for name, version, sets in versions:
        console.print(f"[bold]{name} {version}[/bold]")
        for item in sets:
            print_reasons(console, item)
    for repository, sets in checkouts:
        console.print(f"[bold]checkouts of {repository}[/bold]")
        for item in sets:
            print_reasons(console, item)


@patches.command()
@click.argument("package", required=False)
@click.option("--against", metavar="VERSION", help="Another version of the package, from the index.")
@source_options
def check(session: Session, package: str | None, against: str | None) -> None:
    """Say of each patch whether it applies, has drifted, or is already upstream.

    \b
    Without --against, every set is held against its own pinned source and lock. With it:
      mambaport patches check mamba-ssm --against 2.3.0
    """
    if against is None:
        states = _check_pinned(session, package)
    elif package is None:
        raise UsageError(
            "--against needs a package", hint="mambaport patches check mamba-ssm --against 2.3.0"
        )
    else:
        states = _check_version(session, package, against)
    data = {"against": against, "patches": [_state_json(name, state) for name, state in states]}
    if not session.as_json:
        _print(session.report.results, states)
    drifted = sum(state.verdict == "drifted" for _name, state in states)
    if drifted:
        raise PatchError(
            f"{drifted} of {len(states)} patches have drifted",
            found=f"against {against}",
            hint="make each anew for that version (docs/how-to/write-a-patch.md); the others can be kept",
            data=data,
        )
    session.emit(data)


@patches.command()
@click.argument("package", required=False)
@click.option(
    "--checkout", type=FOLDER, metavar="DIR", help="A pristine checkout, for the lock of its patch set."
)
@source_options
def refresh(session: Session, package: str | None, checkout: Path | None) -> None:
    """Rewrite the locks from the pinned sources and the patches; nothing else is written.

    \b
    The lock of a checkout's patch set is made from a pristine checkout:
      mambaport patches refresh --checkout ~/Vim
    """
    changed: list[PatchSet] = []
    if checkout is not None:
        changed += _refresh_checkout(checkout, package)
    for source in _sources(package) if checkout is None else []:
        with session.store.scratch() as scratch:
            tree = scratch / "src"
            _assemble(session, source, tree)
            changed += refresh_lock(tree, all_sets(source.package, source.version))
    names = [str(item.folder / "lock.json") for item in changed]
    if session.emit({"changed": names}):
        return
    rewritten = f"{counted(len(names), 'lock')} rewritten"
    session.report.success(rewritten if names else "every lock is up to date")
    for name in names:
        session.report.result("lock", name)


def _refresh_checkout(root: Path, name: str | None) -> list[PatchSet]:
    """The lock of the set whose name is the commit that is checked out, or of the only set."""
    found, _checkout = recognise(root.resolve())
    sets = checkout_sets(found)
    commit = commit_of(root) or ""
    named = [item for item in sets if item.name == (name or commit[:12])]
    if not named:
        raise UsageError(
            f"There is no patch set for this commit of {root}",
            found=commit or "no commit",
            expected=f"one of: {', '.join(item.name for item in sets)}",
            hint="check one of these out, or name the set: `mambaport patches refresh SET --checkout DIR`",
        )
    return refresh_checkout_lock(root, named[0])


def _sources(package: str | None) -> list[Source]:
    found = [read_source(name, version) for name, version in known_versions() if package in (None, name)]
    if not found:
        known = ", ".join(sorted({name for name, _ in known_versions()}))
        raise UsageError(
            f"There are no patch sets for {package}",
            expected=f"one of: {known}",
            hint="`mambaport patches list` names the packages",
        )
    return found


def _assemble(session: Session, source: Source, tree: Path) -> None:
    assemble(source, [session.fetcher.fetch(archive) for archive in source.archive], tree)


def _check_pinned(session: Session, package: str | None) -> list[tuple[str, PatchState]]:
    """Each set applied for real, with its lock; and each patch's verdict."""
    states: list[tuple[str, PatchState]] = []
    for source in _sources(package):
        sets = all_sets(source.package, source.version)
        with session.store.scratch() as scratch:
            tree = scratch / "src"
            _assemble(session, source, tree)
            states += [(source.package, state) for state in check_against(tree, sets)]
            apply_sets(tree, sets)
    return states


def _check_version(session: Session, package: str, version: str) -> list[tuple[str, PatchState]]:
    """The sets against an sdist that is not pinned: read, held against the patches, and thrown away."""
    (source,) = _sources(package)[-1:]
    with session.store.scratch() as scratch:
        if session.fetcher.index.mirror is not None or session.fetcher.offline:
            raise UsageError("--against asks the package index", hint="drop --offline and --mirror")
        item = find_sdist(session.fetcher.index, package, version)
        archive = scratch / item.filename
        download(session.fetcher.index, package, item.filename, archive, session.report)
        digest = file_sha256(archive)
        session.report.line("fetch", item.filename, f"not pinned, read only; sha256 {digest[:16]}…")
        unpack_sdist(archive, scratch / "unpacked")
        (tree,) = [path for path in (scratch / "unpacked").iterdir() if path.is_dir()]
        return [(package, state) for state in check_against(tree, all_sets(package, source.version), version)]


def _state_json(package: str, state: PatchState) -> dict[str, Any]:
    return {
        "package": package,
        "set": state.set,
        "patch": state.patch,
        "verdict": state.verdict,
        "where": state.where,
    }


def _print(console: Console, states: list[tuple[str, PatchState]]) -> None:
    for package, state in states:
        verdict = f"[{STYLES[state.verdict]}]{state.verdict:<16}[/]"
        console.print(f"{verdict} {package}/{state.set}/{state.patch.removesuffix('.patch')}", soft_wrap=True)
        if state.verdict == "drifted" or state.where.startswith("since"):
            for place in state.where.split("; "):
                console.print(
                    f"{'':16} [quiet]{escape(place.removesuffix(' drifted'))}[/quiet]", soft_wrap=True
                )
