"""``mambaport show``."""

from __future__ import annotations

import click
from rich.markup import escape

from mambaport.cli.options import Session, complete_profile, output_options, release_options, variant_option
from mambaport.cli.reasons import print_reasons
from mambaport.host import read_host
from mambaport.plan import Plan, make_plan
from mambaport.profile import find_profile
from mambaport.release_lines import ReleaseChoice
from mambaport.report import Report, print_indented


@click.command()
@click.argument("profile_name", metavar="PROFILE", shell_complete=complete_profile)
@variant_option
@release_options
@output_options
def show(session: Session, profile_name: str, variant: str | None, releases: ReleaseChoice) -> None:
    """Show one profile resolved for this machine: sources, patches with their reasons, environment."""
    plan = make_plan(find_profile(profile_name), read_host(), variant=variant, releases=releases)
    if session.emit(plan.to_json()):
        return
    _print(plan, session.report)


def _print(plan: Plan, report: Report) -> None:
    console, goal, profile = report.results, plan.goal, plan.profile
    console.print(f"[bold]{profile.name}[/bold]  {escape(profile.summary)}")
    console.print(f"target     {goal.arch}, {goal.cpu}, glibc {goal.glibc}")
    console.print(
        f"python     {profile.python.minimum} or newer; proven on {', '.join(profile.python.tested)}"
    )
    console.print(f"toolchain  {', '.join(plan.toolchain.identity(plan.host).values())}")
    for package in plan.packages:
        console.print(f"\n[bold]{package.name} {package.version}[/bold]")
        for archive in package.source.archive:
            console.print(
                f"  source {archive.filename}  [quiet]sha256 {archive.sha256}[/quiet]", soft_wrap=True
            )
            if archive.why:
                print_indented(console, f"[quiet]{escape(archive.why)}[/quiet]", 9)
        for item in package.sets:
            print_reasons(console, item)
        for name, value in package.environment:
            console.print(f"  [stage]build[/stage] {name}={value}")
