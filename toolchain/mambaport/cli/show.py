"""``mambaport show``."""

from __future__ import annotations

import click
from rich.markup import escape

from mambaport.cli.options import Session, complete_profile, output_options, release_options, variant_option
from mambaport.cli.reasons import print_reasons
from mambaport.errors import UsageError
from mambaport.host import read_host
from mambaport.plan import Plan, make_plan
from mambaport.profile import find_profile
from mambaport.release_lines import ReleaseChoice
from mambaport.report import Report, print_indented


@click.command()
@click.argument("argument", metavar="[PROFILE]", required=False, shell_complete=complete_profile)
@click.option(
    "-p",
    "--profile",
    "profile_name",
    metavar="P",
    help="The same as PROFILE.",
    shell_complete=complete_profile,
)
@variant_option
@release_options
@output_options
def show(
    session: Session,
    argument: str | None,
    profile_name: str | None,
    variant: str | None,
    releases: ReleaseChoice,
) -> None:
    """Show one profile resolved for this machine: target, sources, patches with their reasons, environment.

    \b
    Examples:
      mambaport show rpi
      mambaport show -p jetson --variant jetpack7 --line 2.3
    """
    names = [name for name in (argument, profile_name) if name is not None]
    if len(names) != 1:
        raise UsageError(
            "show takes one profile",
            found=" and ".join(names) if names else "none",
            hint="mambaport show rpi; `mambaport profiles` lists them",
        )
    plan = make_plan(find_profile(names[0]), read_host(), variant=variant, releases=releases)
    if session.emit(plan.to_json()):
        return
    _print(plan, session.report)


def _print(plan: Plan, report: Report) -> None:
    console, goal, profile = report.results, plan.goal, plan.profile
    console.print(f"[bold]{profile.name}[/bold]  {escape(profile.summary)}")
    console.print(f"target     {goal.arch}, {goal.cpu}, glibc {goal.glibc}")
    if goal.cuda is not None:
        console.print(
            f"gpu        {', '.join(f'sm_{sm}' for sm in goal.cuda.sm)}, CUDA {goal.cuda.version}, "
            f"torch {goal.cuda.torch}"
        )
    tested = f"; tested with {', '.join(profile.python.tested)}" if profile.python.tested else ""
    console.print(f"python     {profile.python.minimum} or newer{tested}")
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
