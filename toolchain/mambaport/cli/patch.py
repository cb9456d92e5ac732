"""``mambaport patch``."""

from __future__ import annotations

from pathlib import Path

import click

from mambaport.cli.options import (
    FOLDER,
    Session,
    profile_option,
    release_options,
    source_options,
)
from mambaport.errors import UsageError
from mambaport.release_lines import ReleaseChoice
from mambaport.temporary import temporary_folder


@click.command()
@profile_option
@release_options
@click.option("-o", "--output", type=FOLDER, required=True, metavar="DIR", help="The folder for the trees.")
@source_options
def patch(
    session: Session, profile_name: str, variant: str | None, releases: ReleaseChoice, output: Path
) -> None:
    """Write the patched source trees, to read or to build by hand."""
    pipeline = session.pipeline(profile_name, variant, releases=releases)
    targets = [(package, output / package.name) for package in pipeline.plan.packages]
    for _package, target in targets:
        if target.exists():
            raise UsageError(
                f"{target} exists already",
                expected="a path that does not exist",
                hint="remove that folder, or choose another -o",
            )
    output.mkdir(parents=True, exist_ok=True)
    for package, target in targets:
        with temporary_folder(output) as work:
            pipeline.patch(package, work / package.name)
            (work / package.name).rename(target)
    if session.emit({"trees": {package.name: str(target.resolve()) for package, target in targets}}):
        return
    session.report.success(", ".join(str(target) for _package, target in targets))
