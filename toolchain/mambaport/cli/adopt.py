"""``mambaport adopt``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from mambaport.checkouts import Checkout, checkout_sets, commit_of, recognise
from mambaport.cli.options import FOLDER, Session, complete_profile, output_options
from mambaport.cli.reasons import print_reasons
from mambaport.errors import PatchError, UsageError
from mambaport.patching import Adoption, check_against, survey
from mambaport.patching import adopt as apply_set
from mambaport.patching import undo as undo_set
from mambaport.plan import set_json
from mambaport.profile import find_profile
from mambaport.release_lines import choose_releases
from mambaport.releases import choose_sets
from mambaport.report import counted

_STATES = {
    "pristine": "unchanged since its commit",
    "adopted": "adopted",
    "interrupted": "partly adopted: interrupted, or adopted by an older mambaport",
    "changed": "has files that differ from the patch set's",
}


@click.command()
@click.argument("path", type=FOLDER)
@click.option(
    "-p",
    "--profile",
    "profile_name",
    metavar="P",
    help="The profile whose wheels the checkout will run on.",
    shell_complete=complete_profile,
)
@click.option("--dry-run", is_flag=True, help="List the files that would be written; write nothing.")
@click.option("--undo", "undoing", is_flag=True, help="Restore the files as they were before.")
@output_options
def adopt(session: Session, path: Path, profile_name: str | None, dry_run: bool, undoing: bool) -> None:
    """Make a checkout of a repository that uses Mamba run on this machine's wheels.

    Known repositories: hustvl/Vim, HZAI-ZJNU/Mamba-YOLO, MzeroMiko/VMamba and kuleshov-group/caduceus.
    NVlabs/MambaVision, OpenGVLab/VideoMamba and Mamba-YOLO modules in another project's
    ultralytics/nn/AddModules need no changes, and the command says so.

    Applies the patch set that fits the checkout: exactly, all of it or nothing. Git's records are not
    touched, and a file that you have changed is never written over.

    \b
      mambaport adopt ~/Vim -p rpi --dry-run
      mambaport adopt ~/Vim -p rpi
      mambaport adopt ~/Vim --undo
    """
    root = path.resolve()
    name, checkout = recognise(root)
    if profile_name is not None:
        _check_profile(profile_name, checkout)
    sets = checkout_sets(name)
    if not sets:
        _runs_unchanged(session, root, name, checkout, profile_name)
        return
    adoption = survey(root, sets)
    data = _json(adoption, name, checkout)
    _show(session, adoption, checkout, data)
    try:
        written = (undo_set if undoing else apply_set)(adoption, dry_run=dry_run)
    except PatchError as error:
        error.data = {**data, "patches": _verdicts(adoption)} if adoption.state == "changed" else data
        raise
    data |= {"written": written, "dry_run": dry_run}
    data["state"] = adoption.state if dry_run else ("pristine" if undoing else "adopted")
    if session.emit(data):
        return
    _print_result(session, adoption, checkout, written, profile_name, dry_run, undoing)


def _check_profile(profile_name: str, checkout: Checkout) -> None:
    """Checks that the profile's mamba_ssm has the patch sets that the checkout needs.

    Raises:
        UsageError: the profile leaves out a patch set that the checkout needs.
    """
    profile = find_profile(profile_name)
    releases = choose_releases(profile)
    sets = {
        item.name
        for package in profile.package
        if package.name == "mamba-ssm"
        for item in choose_sets(package.name, releases[package.name], package.patches)
    }
    if missing := [name for name in checkout.needs if name not in sets]:
        raise UsageError(
            f"{checkout.title} does not run on the wheels of profile {profile.name}",
            found=f"its mamba-ssm has the patch sets {', '.join(sorted(sets)) or 'none'}",
            expected=f"{', '.join(missing)} too",
            hint="name the set in the profile's mamba-ssm, or choose another profile",
        )


def _runs_unchanged(
    session: Session, root: Path, name: str, checkout: Checkout, profile_name: str | None
) -> None:
    """Reports a repository without patch sets: why its code needs none, and the command to run."""
    data = {"path": str(root), "checkout": name, "repository": checkout.repository, "commit": commit_of(root)}
    if session.emit({**data, "state": "unchanged", "files": {}, "written": [], "reason": checkout.unchanged}):
        return
    session.report.result("checkout", f"{checkout.title} ({checkout.repository})", str(root))
    session.report.success(f"{checkout.title} runs on the wheels as it is: {checkout.unchanged}")
    _print_next(session, root, checkout, profile_name)


def _json(adoption: Adoption, name: str, checkout: Checkout) -> dict[str, Any]:
    return {
        "path": str(adoption.root),
        "checkout": name,
        "repository": checkout.repository,
        "commit": commit_of(adoption.root),
        "state": adoption.state,
        "set": set_json(adoption.set),
        "files": adoption.files,
    }


def _show(session: Session, adoption: Adoption, checkout: Checkout, data: dict[str, Any]) -> None:
    commit = f"commit {data['commit'][:12]}" if data["commit"] else "no git records"
    session.report.result(
        "checkout", f"{checkout.title} ({checkout.repository})", f"{commit}; {adoption.root}"
    )
    session.report.result("state", _STATES[adoption.state])
    if not session.as_json and not session.report.quiet:
        print_reasons(session.report.results, adoption.set)
    for name in adoption.named("changed", "missing", "link"):
        session.report.warn(f"{name}: {adoption.files[name]}")


def _verdicts(adoption: Adoption) -> list[dict[str, str]]:
    """The verdict of each patch on the present files."""
    return [
        {"patch": state.patch, "verdict": state.verdict, "where": state.where}
        for state in check_against(adoption.root, [adoption.set])
    ]


def _print_result(
    session: Session,
    adoption: Adoption,
    checkout: Checkout,
    written: list[str],
    profile_name: str | None,
    dry_run: bool,
    undoing: bool,
) -> None:
    report = session.report
    before = adoption.touched
    for name in written:
        kind = "patch" if before[name].before else "file"
        report.result("undo" if undoing else kind, name, "removed" if undoing and kind == "file" else "")
    where = shlex.quote(str(adoption.root))
    if not written:
        report.success(f"{where} is {'not adopted' if undoing else 'adopted'} already; nothing was written")
    elif dry_run:
        report.success(f"{counted(len(written), 'file')} would be written; nothing was (--dry-run)")
    elif undoing:
        report.success(f"{where} is as it was before")
    else:
        report.success(f"{where} is adopted; `mambaport adopt {where} --undo` restores it")
    if not undoing:
        _print_next(session, adoption.root, checkout, profile_name)


def _print_next(session: Session, root: Path, checkout: Checkout, profile_name: str | None) -> None:
    report = session.report
    report.result("next", f"mambaport install -p {profile_name or 'PROFILE'} --python PYTHON", "its wheels")
    report.result("", f"cd {shlex.quote(str(root))} && {checkout.run}")
