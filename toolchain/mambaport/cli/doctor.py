"""``mambaport doctor``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from mambaport.cli.options import Session, default_python, output_options, python_option
from mambaport.doctor import Check, examine, facts
from mambaport.errors import HostError
from mambaport.host import read_host
from mambaport.profile import find_profile

MARKS = {"good": "[good]✓[/good]", "optional": "[warn]![/warn]", "missing": "[bad]✗[/bad]"}


@click.command()
@click.option("-p", "--profile", "profile_name", metavar="P", help="What this profile lacks here.")
@click.option("--variant", metavar="V", help="A variant of the profile.")
@python_option
@output_options
def doctor(session: Session, profile_name: str | None, variant: str | None, python: Path | None) -> None:
    """Say what this machine is, and what a profile lacks here, with the command that mends it."""
    host, store, report = read_host(), session.store, session.report
    known = facts(host, store)
    checks: list[Check] = []
    if profile_name:
        profile = find_profile(profile_name).with_variant(variant)
        checks = examine(profile, host, store, default_python(python))
    missing = [check for check in checks if check.state == "missing"]
    data = {"host": host.to_json(), "checks": [check.to_json() for check in checks], "ok": not missing}
    if not session.as_json:
        report.show(_facts(known))
        if checks:
            report.show(_checks(checks))
    if missing:
        raise HostError(
            f"{len(missing)} of {len(checks)} checks fail for {profile_name}",
            found="\n".join(f"{check.name}: {check.found}" for check in missing),
            mend="\n".join(check.mend for check in missing),
            data=data,
        )
    if not session.emit(data) and checks:
        report.success(f"{profile_name} works here")


def _facts(known: dict[str, str]) -> Table:
    table = Table(show_header=False)
    table.add_column(style="quiet")
    table.add_column()
    for name, value in known.items():
        table.add_row(name, escape(value))
    return table


def _checks(checks: list[Check]) -> Table:
    table = Table(header_style="quiet", box=SIMPLE_HEAD)
    for name in ("check", "", "found", "mend"):
        table.add_column(name)
    for check in checks:
        table.add_row(check.name, MARKS[check.state], escape(check.found), escape(check.mend))
    return table
