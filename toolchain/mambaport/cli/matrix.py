"""``mambaport matrix``."""

from __future__ import annotations

import json

import click

from mambaport.cli.options import Session, complete_profile, source_options, variant_option
from mambaport.matrix import Job, github, gitlab, jobs
from mambaport.profile import builtin_profiles, find_profile
from mambaport.report import counted
from mambaport.sources import WheelIndex

FORMS = {"github": github, "gitlab": gitlab}


@click.command()
@click.option(
    "-p",
    "--profile",
    "names",
    multiple=True,
    metavar="P",
    help="A profile; may be repeated. By default every profile of a fixed target.",
    shell_complete=complete_profile,
)
@variant_option
@click.option("--line", "lines", multiple=True, metavar="L", help="A release line; by default every line.")
@click.option("--index", metavar="URL", help="Leave out what this index of wheels has already.")
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMS)),
    default="github",
    show_default=True,
    help="The JSON of GitHub Actions' strategy.matrix, or a child pipeline of GitLab.",
)
@source_options
def matrix(
    session: Session,
    names: tuple[str, ...],
    variant: str | None,
    lines: tuple[str, ...],
    index: str | None,
    form: str,
) -> None:
    """Print what a build farm has to build, as JSON in one line.

    Each row has the commands to build and to verify, the versions and the key of the wheels, the inputs to
    cache, and the memory of the largest compilation.

    \b
    Examples:
      mambaport matrix                                  every profile, variant, torch and release line
      mambaport matrix -p rpi --line 2.2.4 --json       one row, to read
      mambaport matrix --index https://example.org/wheels
      mambaport matrix --format gitlab > wheels.yml
    """
    profiles = {name: find_profile(name) for name in names} or {
        (profile.aliases or (profile.name,))[0]: profile
        for profile in builtin_profiles()
        if profile.target.arch != "host" and (variant is None or variant in profile.variant)
    }
    found = list(jobs(profiles, session.shop.host, variant, lines))
    if index is not None:
        place = session.fetcher.wheel_index(index)
        missing = [job for job in found if not _has(place, job)]
        session.report.line("index", f"{counted(len(found) - len(missing), 'row')} of {len(found)} left out")
        found = missing
    data = FORMS[form]([job.to_json() for job in found])
    if session.emit(data):
        return
    click.echo(json.dumps(data, separators=(",", ":")))


def _has(place: WheelIndex, job: Job) -> bool:
    """Whether an index has every wheel of a job."""
    versions = job.versions
    return bool(versions) and all(
        place.has(job.folder, name, version, job.plan.goal.arch) for name, version in versions.items()
    )
