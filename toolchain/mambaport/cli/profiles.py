"""``mambaport profiles``."""

from __future__ import annotations

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mambaport.cli.options import Session, output_options
from mambaport.profile import builtin_profiles


@click.command()
@output_options
def profiles(session: Session) -> None:
    """List the profiles."""
    found = builtin_profiles()
    if session.emit({"profiles": [profile.model_dump(mode="json", by_alias=True) for profile in found]}):
        return
    table = Table(header_style="quiet", box=SIMPLE_HEAD)
    for name in ("profile", "alias", "target", "for"):
        table.add_column(name, no_wrap=name != "for")
    for profile in found:
        target = f"{profile.target.arch}, {profile.target.cpu}"
        table.add_row(profile.name, ", ".join(profile.aliases), target, profile.summary)
    session.report.show(table)
