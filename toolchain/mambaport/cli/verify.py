"""``mambaport verify``."""

from __future__ import annotations

from pathlib import Path

import click

from mambaport.cli.options import (
    Session,
    default_python,
    emulated_system,
    profile_option,
    python_option,
    release_options,
    source_options,
    wheelhouse_option,
)
from mambaport.release_lines import ReleaseChoice


@click.command()
@profile_option
@release_options
@python_option
@wheelhouse_option
@click.option("--emulate", is_flag=True, help="Verify on an emulated aarch64 system instead of this machine.")
@click.option("--system", metavar="NAME", help="The emulated system; by default the profile's first.")
@source_options
def verify(
    session: Session,
    profile_name: str,
    variant: str | None,
    releases: ReleaseChoice,
    python: Path | None,
    wheelhouse: Path | None,
    emulate: bool,
    system: str | None,
) -> None:
    """Run every component in the target interpreter and compare it with a float64 reference.

    \b
    Examples:
      mambaport verify -p rpi --python ~/mamba/bin/python     on the device
      mambaport verify -p rpi --emulate                       on an x86-64 machine
      mambaport verify -p rpi --emulate --system trixie       the same on Python 3.13
    """
    environment = None if emulate or system else default_python(python)
    if environment is None:
        chosen = emulated_system(profile_name, variant, system)
        pipeline = session.pipeline(profile_name, variant, releases=releases)
        result = pipeline.verify_emulated(chosen, wheelhouse)
    else:
        pipeline = session.pipeline(profile_name, variant, environment=environment, releases=releases)
        result = pipeline.verify(environment)
    if session.emit(result.to_json()):
        return
    session.report.success(f"all {len(result.components)} components within their bounds")
