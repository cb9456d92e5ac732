"""``mambaport patches``: maintenance of patch sets."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import click
from packaging.utils import canonicalize_name
from rich.console import Console
from rich.markup import escape

from mambaport.checkouts import checkout_sets, commit_of, known_checkouts, recognise
from mambaport.cli.options import FOLDER, Session, output_options, source_options
from mambaport.cli.reasons import print_reasons
from mambaport.errors import PatchError, UsageError
from mambaport.patching import (
    PatchState,
    Verdict,
    apply_sets,
    check_against,
    lay_ground,
    refresh_checkout_lock,
    refresh_lock,
)
from mambaport.plan import set_json
from mambaport.releases import (
    Source,
    all_sets,
    combinations,
    known_versions,
    lock_for,
    read_package,
    read_source,
    release_folder,
    revision_faults,
)
from mambaport.report import counted
from mambaport.sources import LATEST, Sdist, assemble, bring_sdist, known_sdists, unpack_sdist

STYLES: dict[Verdict, str] = {
    "applies": "good",
    "moved": "warn",
    "upstream": "stage",
    "drifted": "bad",
    "replaced-file-changed": "bad",
}


@click.group()
def patches() -> None:
    """Maintain the patch sets: list, check, refresh, and begin a new release."""


@patches.command(name="list")
@click.argument("package", required=False)
@output_options
def list_(session: Session, package: str | None) -> None:
    """List every patch, in order, with its reason; with PACKAGE, those of one package.

    \b
    Examples:
      mambaport patches list
      mambaport patches list mamba-ssm
    """
    versions = [
        (source.package, source.version, all_sets(source.package, source.version))
        for source in _sources(package)
    ]
    known = known_checkouts() if package is None else {}
    checkouts = [(item.repository, checkout_sets(name)) for name, item in known.items()]
    if session.emit(
        {
            "packages": [
                {
                    "name": name,
                    "version": version,
                    "revision": read_package(name).revision,
                    "sets": [set_json(item) for item in sets],
                }
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
        console.print(f"[bold]{name} {version}[/bold]  revision {read_package(name).revision}")
        for item in sets:
            print_reasons(console, item)
    for repository, sets in checkouts:
        console.print(f"[bold]checkouts of {repository}[/bold]")
        for item in sets:
            print_reasons(console, item)


@patches.command()
@click.argument("package", required=False)
@click.option(
    "--against", metavar="VERSION", help="A release on the package index, or latest for the newest release."
)
@source_options
def check(session: Session, package: str | None, against: str | None) -> None:
    """Check whether each patch applies, has moved or drifted, or is upstream.

    \b
    Without --against, every set is checked against its pinned sources and locks. With --against:
      mambaport patches check --against latest
      mambaport patches check mamba-ssm --against 2.3.0
    """
    if against is None:
        found = [(source, _check_pinned(session, source)) for source in _sources(package)]
        rows = [(source.package, source.version, states) for source, states in found]
    elif package is None and against != LATEST:
        raise UsageError(
            f"The package of release {against} is not clear",
            hint=f"mambaport patches check PACKAGE --against {against}",
        )
    else:
        names = dict.fromkeys(source.package for source in _sources(package))
        rows = [_check_version(session, name, against) for name in names]
    data = {
        "against": against,
        "patches": [_state_json(name, version, state) for name, version, states in rows for state in states],
    }
    if not session.as_json:
        for name, version, states in rows:
            _print(session.report.results, name, version, states)
    unfit = sum(not state.fits for _name, _version, states in rows for state in states)
    if unfit:
        raise PatchError(
            f"{unfit} of {sum(len(states) for *_row, states in rows)} patches and replaced files do not fit",
            found=f"against {', '.join(f'{name} {version}' for name, version, _states in rows)}",
            hint="make these anew for that release (docs/how-to/when-upstream-releases.md); "
            "the others can be kept",
            data=data,
        )
    session.emit(data)


@patches.command()
@click.argument("version")
@click.option("-p", "--package", metavar="NAME", help="By default the only package that has such a release.")
@source_options
def new(session: Session, version: str, package: str | None) -> None:
    """Begin a release: write its pins, and check each patch against it.

    Writes patches/<package>/releases/<version>/: source.toml, and the lock when every patch fits. Writes
    nothing when the lock cannot be made.

    \b
    Examples:
      mambaport patches new 1.6.1 -p causal-conv1d
      mambaport patches new latest -p mamba-ssm
    """
    name = package or _package_of(session, version)
    _sources(name)
    with session.store.scratch() as scratch:
        sdist = bring_sdist(session.fetcher, name, version, scratch)
        tree = _unpacked(sdist, scratch)
        states = check_against(tree, all_sets(name, sdist.version), sdist.version)
        written = [lay_ground(name, sdist.version, sdist.path, sdist.sha256, sdist.epoch, tree.name)]
        try:
            if all(state.fits for state in states):
                source, pristine = read_source(name, sdist.version), scratch / "pristine"
                assemble(source, [sdist.path], pristine)
                refresh_lock(pristine, name, sdist.version)
                written.append(release_folder(name, sdist.version) / "lock.json")
        except BaseException:
            shutil.rmtree(release_folder(name, sdist.version))  # made by lay_ground: nothing else is inside
            raise
    data = {
        "package": name,
        "version": sdist.version,
        "written": [str(path) for path in written],
        "patches": [_state_json(name, sdist.version, state) for state in states],
    }
    if session.emit(data):
        return
    _print(session.report.results, name, sdist.version, states)
    for path in written:
        session.report.result("write", str(path))
    unfit = sum(not state.fits for state in states)
    if unfit:
        session.report.line(
            "next",
            f"{unfit} patches and replaced files do not fit",
            "docs/how-to/when-upstream-releases.md",
        )
    session.report.success(f"{name} {sdist.version} is begun")


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
    changed: list[Path | None] = []
    if checkout is not None:
        changed.append(_refresh_checkout(checkout, package))
    sources = _sources(package) if checkout is None else []
    for source in sources:
        with session.store.scratch() as scratch:
            tree = scratch / "src"
            _assemble(session, source, tree)
            changed.append(refresh_lock(tree, source.package, source.version))
    for name in dict.fromkeys(source.package for source in sources):
        for fault in revision_faults(name):
            session.report.warn(f"{fault}: raise `revision` in patches/{name}/package.toml")
    names = [str(path) for path in changed if path is not None]
    if session.emit({"changed": names}):
        return
    rewritten = f"{counted(len(names), 'lock')} rewritten"
    session.report.success(rewritten if names else "every lock is up to date")
    for text in names:
        session.report.result("lock", text)


def _refresh_checkout(root: Path, name: str | None) -> Path | None:
    """Refreshes the lock of the set ``name``, by default of the set named after the checked-out commit."""
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
    """The pinned sources of a package, or of all packages."""
    wanted = None if package is None else canonicalize_name(package)
    if wanted is not None:
        read_package(wanted)
    return [read_source(name, version) for name, version in known_versions() if wanted in (None, name)]


def _assemble(session: Session, source: Source, tree: Path) -> None:
    assemble(source, [session.fetcher.fetch(archive) for archive in source.archive], tree)


def _package_of(session: Session, version: str) -> str:
    """The only package of which the index has a version."""
    names = list(dict.fromkeys(name for name, _version in known_versions()))
    packages_with_version = [
        name for name in names if version in map(str, known_sdists(session.fetcher, name))
    ]
    if len(packages_with_version) != 1:
        raise UsageError(
            f"The package of release {version} is not clear",
            found=f"releases {version} of: {', '.join(packages_with_version) or 'none'}",
            expected=f"one of: {', '.join(names)}",
            hint=f"mambaport patches new {version} -p PACKAGE",
        )
    return packages_with_version[0]


def _check_pinned(session: Session, source: Source) -> list[PatchState]:
    """The verdict of each patch. If all fit, each combination of sets is applied and checked by its lock."""
    name, version = source.package, source.version
    with session.store.scratch() as scratch:
        tree = scratch / "src"
        _assemble(session, source, tree)
        states = check_against(tree, all_sets(name, version))
        for number, sets in enumerate(combinations(name, version).values() if _fit(states) else ()):
            lock = lock_for(name, version, sets)
            if lock is None:
                raise PatchError(
                    f"The lock of {name} {version} lacks a combination of sets that a profile uses",
                    expected="+".join(item.name for item in sets),
                    hint="`mambaport patches refresh` renews the lock",
                )
            apply_sets(shutil.copytree(tree, scratch / f"src-{number}"), sets, lock)
    return states


def _fit(states: list[PatchState]) -> bool:
    return all(state.fits for state in states)


def _check_version(session: Session, package: str, wanted: str) -> tuple[str, str, list[PatchState]]:
    """Checks the sets against an sdist that is not pinned; the sdist is not kept."""
    with session.store.scratch() as scratch:
        sdist = bring_sdist(session.fetcher, package, wanted, scratch)
        tree = _unpacked(sdist, scratch)
        states = check_against(tree, all_sets(package, sdist.version), sdist.version)
        return package, sdist.version, states


def _unpacked(sdist: Sdist, scratch: Path) -> Path:
    unpack_sdist(sdist.path, scratch / "unpacked")
    folders = [path for path in (scratch / "unpacked").iterdir() if path.is_dir()]
    if len(folders) != 1:
        raise PatchError(
            f"{sdist.path.name} does not have exactly one top folder",
            found=", ".join(path.name for path in folders) or "none",
            hint="mambaport takes sdists as PEP 625 describes them; report this archive",
        )
    return folders[0]


def _state_json(package: str, version: str, state: PatchState) -> dict[str, Any]:
    return {"package": package, "version": version, **state.to_json()}


def _print(console: Console, package: str, version: str, states: list[PatchState]) -> None:
    counts = Counter(state.verdict for state in states)
    summary = ", ".join(f"{counts[verdict]} {verdict}" for verdict in STYLES if counts[verdict])
    console.print(f"[bold]{package} {version}[/bold]  {summary}", soft_wrap=True)
    for state in states:
        verdict = f"[{STYLES[state.verdict]}]{state.verdict:<21}[/]"
        console.print(f"{verdict} {state.set}/{state.patch.removesuffix('.patch')}", soft_wrap=True)
        for place in state.where.split("; ") if state.where else ():
            console.print(f"{'':21} [quiet]{escape(place)}[/quiet]", soft_wrap=True)
