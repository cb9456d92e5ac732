"""``mambaport doctor``."""

from __future__ import annotations

from pathlib import Path

import click
from packaging.version import Version
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mambaport import __version__
from mambaport.cli.options import (
    Session,
    complete_profile,
    default_python,
    python_option,
    release_options,
    source_options,
    variant_option,
)
from mambaport.doctoring import Check, examine, facts
from mambaport.errors import FetchError, HostError, UsageError
from mambaport.failures import COLLECT, chinese, where_to_ask
from mambaport.failures import explain as explanations
from mambaport.host import read_host
from mambaport.plan import choose_variant, make_plan
from mambaport.profile import find_profile
from mambaport.redaction import redact
from mambaport.release_lines import ReleaseChoice, choose_releases
from mambaport.report import escape
from mambaport.settings import read_settings
from mambaport.sources.client import make_client
from mambaport.sources.updates import newer_label, newest_release

MARKS = {"good": "[good]✓[/good]", "optional": "[warn]![/warn]", "missing": "[bad]✗[/bad]"}


@click.command()
@click.option(
    "-p",
    "--profile",
    "profile_name",
    metavar="P",
    help="Also check what this profile lacks on this machine.",
    shell_complete=complete_profile,
)
@variant_option
@click.option(
    "--explain",
    metavar="TEXT|FILE|-",
    help="Look up an error text, or a file such as a build log, in the failure catalogue; - reads stdin.",
)
@click.option(
    "--updates",
    is_flag=True,
    help="Also ask the package index for a newer mambaport, and --index for newer wheels. Needs the network.",
)
@click.option(
    "--index", metavar="URL", help="With -p and --updates: an index that `mambaport index` has written."
)
@python_option
@release_options
@source_options
def doctor(
    session: Session,
    profile_name: str | None,
    variant: str | None,
    explain: str | None,
    updates: bool,
    index: str | None,
    python: Path | None,
    releases: ReleaseChoice,
) -> None:
    """Describe this machine and what a profile lacks on it, with the commands that mend it.

    \b
    Examples:
      mambaport doctor -p rpi
      mambaport doctor -p jetson --python ~/mamba/bin/python    also its torch and its GPU
      mambaport doctor --updates                                whether there is a newer mambaport
      python train.py 2>&1 | mambaport doctor --explain -       the cause of this error, and a hint
      mambaport doctor --explain "undefined symbol: _ZN3c105ErrorC2E"    the same, for a line of text
    """
    if index is not None and not (updates and profile_name is not None):
        raise UsageError(
            "--index needs --updates and a profile",
            found=f"--index {redact(index)}" + (" --updates" if updates else ""),
            expected="the profile whose wheels are compared with those of the index",
            hint=f"mambaport doctor -p {profile_name or 'PROFILE'} --updates --index {redact(index)}",
        )
    if explain is not None:
        _explain(session, _error_text(explain))
        return
    host, store, report = read_host(), session.store, session.report
    known = facts(host, store)
    checks: list[Check] = []
    if profile_name is not None:
        profile = find_profile(profile_name)
        variant = choose_variant(profile, host, variant)
        choose_releases(profile.with_variant(variant), releases)
        checks = examine(
            profile,
            host,
            store,
            default_python(python),
            variant=variant,
            named=python is not None,
            releases=releases,
        )
    if updates:
        checks.append(_newer_mambaport(session))
        if index and profile_name:
            checks += _newer_wheels(session, index, profile_name, variant, releases)
    missing = [check for check in checks if check.state == "missing"]
    data = {"host": host.to_json(), "checks": [check.to_json() for check in checks], "ok": not missing}
    if not session.as_json:
        report.show(_facts(known))
        if checks:
            report.show(_checks(checks))
            for check in checks:
                if check.hint and check.state != "good":
                    report.result("hint", f"{check.name}: {check.hint}")
    if missing:
        raise HostError(
            f"{len(missing)} of {len(checks)} checks fail for {profile_name}",
            found="\n".join(f"{check.name}: {check.found}" for check in missing),
            hint="\n".join(dict.fromkeys(check.hint for check in missing if check.hint)),
            data=data,
        )
    if not session.emit(data) and profile_name:
        runs = any(check.name == "environment" for check in checks)
        report.success(
            f"{profile_name} works on this machine"
            if runs
            else f"this machine can build the wheels of {profile_name}"
        )


def _newer_mambaport(session: Session) -> Check:
    """Whether the package index has a newer mambaport. An index that does not answer is no failure."""
    try:
        if session.fetcher.offline:
            raise FetchError("the index was not asked", found="--offline", hint="leave --offline out")
        newest = newest_release(make_client(session.fetcher.index), "mambaport")
    except FetchError as fault:
        return Check(
            "newest", "optional", f"mambaport {__version__}; {fault.what}: {fault.found or 'no answer'}"
        )
    if newest is None or newest <= Version(__version__):
        return Check("newest", "good", f"mambaport {__version__}, and the index has no newer one")
    return Check(
        "newest",
        "optional",
        f"mambaport {__version__}; the index has {newest}, which may have newer patch sets",
        "pip install --upgrade mambaport, in the environment of mambaport; docs: CHANGELOG.md",
    )


def _newer_wheels(
    session: Session, index: str, profile_name: str, variant: str | None, releases: ReleaseChoice
) -> list[Check]:
    """Whether an index has wheels of a newer revision of the patch sets than this mambaport has.

    Raises:
        FetchError, IndexFault: the index cannot be read.
    """
    plan = make_plan(
        find_profile(profile_name), session.shop.host, variant=variant, releases=releases, buildable=False
    )
    place = session.fetcher.wheel_index(index)
    found = []
    for package in plan.packages:
        newer = newer_label(package.version, place.digests(plan.folder, package.name))
        text = f"{package.version}, revision {package.revision}"
        if newer is None:
            found.append(Check(package.name, "good", f"{text}; the index has no newer one"))
        else:
            found.append(
                Check(
                    package.name,
                    "optional",
                    f"{text}; the index has {newer}, of newer patch sets",
                    "update mambaport to the release that made the index, then `install --index` again",
                )
            )
    return found


def _error_text(value: str) -> str:
    """The text to look up: standard input for ``-``, what a file of this name holds, or the value itself.

    Raises UsageError for a value that looks like the path of a file that does not exist.
    """
    if value == "-":
        with click.open_file("-", errors="replace") as stream:
            return str(stream.read())
    path = Path(value)
    try:
        if path.is_file():
            return path.read_text(errors="replace")
    except (OSError, ValueError):  # a text of many lines is no path
        return value
    if "/" in value and not any(c.isspace() for c in value):
        raise click.BadParameter(f"no such file: {value}", param_hint="--explain")
    return value


def _explain(session: Session, text: str) -> None:
    rows = explanations(text)
    unknown = {} if rows else {"collect": list(COLLECT), "ask": where_to_ask(text)}
    if session.emit({"explanations": [row.to_json() for row in rows], **unknown}):
        return
    report = session.report
    translated = chinese() if read_settings().chinese else {}
    labels = ("原因", "建议") if translated else ("cause ", "hint  ")
    for row in rows:
        report.result(row.failure.id, row.line)
        words = translated.get(row.failure.id, row.failure)
        for label, value in zip(labels, (words.cause, words.hint), strict=True):
            report.result("", f"{label} {value}")
    if not rows:
        report.result("doctor", "no error of the catalogue is in this text")
        for command in COLLECT:
            report.result("collect", command)
        report.result("ask", where_to_ask(text))


def _facts(known: dict[str, str]) -> Table:
    table = Table(show_header=False)
    table.add_column(style="quiet")
    table.add_column(overflow="fold")
    for name, value in known.items():
        table.add_row(name, escape(value))
    return table


def _checks(checks: list[Check]) -> Table:
    table = Table(header_style="quiet", box=SIMPLE_HEAD)
    for name in ("check", "", "found"):
        table.add_column(name, overflow="fold")
    for check in checks:
        table.add_row(check.name, MARKS[check.state], escape(check.found))
    return table
