"""``mambaport audit``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from mambaport.auditing import TargetSymbols, WheelAudit, audit_wheel
from mambaport.building.target_torch import given_exports, stored_exports
from mambaport.cli.options import FILE, Session, complete_profile, output_options, variant_option
from mambaport.errors import AuditError
from mambaport.goal import Goal
from mambaport.host import read_host
from mambaport.plan import choose_variant, resolve_goal
from mambaport.profile import find_profile
from mambaport.report import counted
from mambaport.wheels import read_wheel

MARKS = {"pass": "[good]✓[/good]", "fail": "[bad]✗[/bad]", "skip": "[quiet]-[/quiet]"}


@click.command()
@click.argument("wheels", nargs=-1, required=True, type=FILE, metavar="WHEEL...")
@click.option(
    "-p",
    "--profile",
    "profile_name",
    metavar="P",
    help="Audit against this profile's target.",
    shell_complete=complete_profile,
)
@variant_option
@click.option(
    "--torch",
    type=FILE,
    metavar="FILE",
    help="CUDA: hold the wheels' symbols against this torch, a wheel or the Python of an environment.",
)
@output_options
def audit(
    session: Session,
    wheels: tuple[Path, ...],
    profile_name: str | None,
    variant: str | None,
    torch: Path | None,
) -> None:
    """Check that wheels are what their tags, a profile and their own records say.

    \b
    Examples:
      mambaport audit wheelhouse/rpi/*.whl -p rpi
      mambaport audit mamba_ssm-*.whl --torch ~/mamba/bin/python    does this torch load it?
    """
    goal = _goal(profile_name, variant) if profile_name is not None else None
    report = session.report
    symbols = _symbols(session, torch) if torch is not None else None
    audits = [audit_wheel(read_wheel(path), goal, symbols) for path in wheels]
    data = {"audits": [item.to_json() for item in audits]}
    for item in audits:
        if not session.as_json:
            report.show(_table(item))
    failed = [item for item in audits if not item.ok]
    if failed:
        raise AuditError(
            f"{len(failed)} of {counted(len(audits), 'wheel')} refused",
            found="\n".join(
                f"{item.wheel}: {finding.rule}: {finding.found}"
                for item in failed
                for finding in item.failures
            ),
            hint="do not install them; `mambaport build` makes wheels that pass",
            data=data,
        )
    if session.emit(data):
        return
    report.success(
        f"{counted(len(audits), 'wheel')} {'passes' if len(audits) == 1 else 'pass'}"
        + ("" if goal else "; with -p PROFILE, its instructions, glibc and GPUs are checked too")
    )


def _goal(profile_name: str, variant: str | None) -> Goal:
    """The target of the variant named; else, on a Jetson, of the variant for the device's JetPack."""
    profile, host = find_profile(profile_name), read_host()
    return resolve_goal(profile.with_variant(variant or choose_variant(profile, host, None)), host)


def _symbols(session: Session, torch: Path) -> TargetSymbols:
    with session.store.scratch() as scratch:
        version, exports = given_exports(torch, scratch)
    return TargetSymbols(version, exports, stored_exports(session.store))


def _table(item: WheelAudit) -> Table:
    table = Table(
        title=item.wheel, title_justify="left", title_style="bold", header_style="quiet", box=SIMPLE_HEAD
    )
    for name in ("rule", "", "found", "expected"):
        table.add_column(name)
    for finding in item.findings:
        table.add_row(finding.rule, MARKS[finding.verdict], escape(finding.found), escape(finding.expected))
    return table
