"""``mambaport fetch``."""

from __future__ import annotations

import click

from mambaport.cli.options import (
    Session,
    build_options,
    profile_option,
    release_options,
    source_options,
)
from mambaport.release_lines import ReleaseChoice
from mambaport.report import counted


@click.command()
@profile_option
@release_options
@build_options
@source_options
def fetch(
    session: Session,
    profile_name: str,
    variant: str | None,
    releases: ReleaseChoice,
    toolchain: str | None,
    jobs: int | None,
) -> None:
    """Fetch every pinned file that a build needs into the store, and verify it.

    Afterwards `mambaport build --offline` needs no network.
    """
    paths = session.pipeline(profile_name, variant, toolchain, jobs, releases=releases).fetch()
    if session.emit(
        {"files": [{"filename": path.name, "sha256": path.parent.name, "path": str(path)} for path in paths]}
    ):
        return
    session.report.success(f"{counted(len(paths), 'pinned file')} in the store")
