"""``mambaport audit``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from mambaport.auditing import WheelAudit, audit_wheel
from mambaport.cli.options import FILE, Session, output_options
from mambaport.errors import AuditError
from mambaport.host import read_host
from mambaport.plan import make_plan
from mambaport.profile import find_profile
from mambaport.wheels import read_wheel

MARKS = {"pass": "[good]✓[/good]", "fail": "[bad]✗[/bad]", "skip": "[quiet]-[/quiet]"}


@click.command()
@click.argument("wheels", nargs=-1, required=True, type=FILE, metavar="WHEEL...")
@click.option("-p", "--profile", "profile_name", metavar="P", help="Audit against this profile's target.")
@click.option("--variant", metavar="V", help="A variant of the profile.")
@output_options
def audit(session: Session, wheels: tuple[Path, ...], profile_name: str | None, variant: str | None) -> None:
    """Check that wheels are what their tags, a profile and their own records say.

    \b
    Example:
      mambaport audit wheelhouse/*.whl -p rpi
    """
    goal = make_plan(find_profile(profile_name), read_host(), variant=variant).goal if profile_name else None
    report = session.report
    audits = [audit_wheel(read_wheel(path), goal) for path in wheels]
    data = {"audits": [item.to_json() for item in audits]}
    for item in audits:
        if not session.as_json:
            report.show(_table(item))
    failed = [item for item in audits if not item.ok]
    if failed:
        raise AuditError(
            f"{len(failed)} of {len(audits)} wheels do not pass",
            found="\n".join(
                f"{item.wheel}: {finding.rule}: {finding.found}"
                for item in failed
                for finding in item.failures
            ),
            mend="do not install them; `mambaport build` makes wheels that pass",
            data=data,
        )
    session.emit(data)
    report.success(f"{len(audits)} wheels pass")


def _table(item: WheelAudit) -> Table:
    table = Table(
        title=item.wheel, title_justify="left", title_style="bold", header_style="quiet", box=SIMPLE_HEAD
    )
    for name in ("rule", "", "found", "expected"):
        table.add_column(name)
    for finding in item.findings:
        table.add_row(finding.rule, MARKS[finding.verdict], escape(finding.found), escape(finding.expected))
    return table
