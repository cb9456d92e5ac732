"""``mambaport index``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import click

from mambaport.attestations import ATTESTATION, LARGEST, Checker, require_repository
from mambaport.auditing import audit_wheel
from mambaport.auditing import require as require_audit
from mambaport.cli.options import FILE, FOLDER, Session, output_options
from mambaport.errors import UsageError
from mambaport.goal import Goal
from mambaport.host import Host
from mambaport.indexing import (
    Finding,
    Proof,
    WheelRecord,
    make_record,
    only_writer,
    profile_of,
    read_site,
    refuse_second,
    write_site,
)
from mambaport.plan import resolve_goal
from mambaport.redaction import redact
from mambaport.report import counted
from mambaport.sources import WheelIndex
from mambaport.wheels import Wheel, read_wheel, wheels_in


@click.command()
@click.argument("wheelhouses", nargs=-1, type=FILE, metavar="WHEELHOUSE...")
@click.option(
    "-o", "--output", type=FOLDER, required=True, metavar="DIR", help="The index: a new folder, or an index."
)
@click.option("--url", metavar="URL", help="The address that the index is served at, for locks and pages.")
@click.option(
    "--proof",
    "proofs",
    type=FILE,
    multiple=True,
    metavar="FILE",
    help="What `mambaport verify --json` printed for these wheels; may be repeated.",
)
@click.option(
    "--attested-by",
    "attested",
    metavar="OWNER/NAME",
    help="The repository on GitHub whose workflow attests the wheels: pages get the link and the command. "
    f"NAME.whl{ATTESTATION} beside a wheel is compared and published.",
)
@click.option(
    "--published",
    metavar="URL",
    help="The index that is served so far. A wheel is refused if the index has another of that version.",
)
@click.option(
    "--offline",
    is_flag=True,
    help="Compare attestations with the keys that sigstore fetched before, or those in the library.",
)
@output_options
def index(
    session: Session,
    wheelhouses: tuple[Path, ...],
    output: Path,
    url: str | None,
    proofs: tuple[Path, ...],
    attested: str | None,
    published: str | None,
) -> None:
    """Write a static index of wheels: for pip, uv, mambaport, and people.

    A WHEELHOUSE is a wheel, a folder of wheels, or the folder above such folders. Every wheel is audited
    first. The index has a folder for each profile and variant. Wheels that the index has already stay.

    \b
    Examples:
      mambaport index wheelhouse/ -o site              every profile's wheels
      mambaport index wheelhouse/rpi -o site --proof verify-rpi.json
      mambaport index wheelhouse/ -o site --published https://example.org/wheels
      mambaport index -o site                          the pages again, for example with another --url
    """
    if Path.cwd().is_relative_to(output.resolve()):
        raise UsageError(
            "The index cannot be written into the current folder",
            found=f"-o {output}, from {Path.cwd()}",
            expected="another folder than the current one: a new folder takes the place of the index",
            hint="change to another folder (cd ..)",
        )
    address = _address(url)
    if attested is not None:
        require_repository(attested)
    if published is not None and not published.strip():
        raise UsageError(
            "--published has no address",
            expected="the address of the index that is served so far",
            hint="check the variable that holds the address; for a first index, leave --published out",
        )
    wheels = [wheel for path in wheelhouses for wheel in _wheels(path)]
    added = [_record(session, wheel) for wheel in wheels]
    attestations = _attestations(session, wheels, attested)
    if published:
        _require_new(session.fetcher.wheel_index(published), added)
    reports = [(path, _proof(path)) for path in proofs]
    with only_writer(output):
        before = read_site(output)
        site = before.with_records(added)
        for path, proof in reports:
            chosen = [item for item in site.records if item.sha256 in proof.wheels.values()]
            if not chosen:
                raise UsageError(
                    f"The proof {path} is of wheels that the index does not have",
                    found=", ".join(proof.wheels),
                    expected="a report of `mambaport verify --emulate --json` on these wheels",
                    hint="verify the wheels again and give the new report",
                )
            site = site.with_records(item.model_copy(update={"proofs": (proof,)}) for item in chosen)
        sources = {item.sha256: wheel.path for item, wheel in zip(added, wheels, strict=True)}
        digest = write_site(site, sources, address, attested, attestations)
    known = {item.sha256 for item in before.records}
    new = [item for item in site.records if item.sha256 not in known]
    folders = sorted({item.folder for item in site.records})
    data = {
        "index": str(output.resolve()),
        "sha256": digest,
        "folders": folders,
        "wheels": [
            {"folder": item.folder, "filename": item.filename, "sha256": item.sha256} for item in site.records
        ],
        "added": [item.filename for item in new],
    }
    if session.emit(data):
        return
    for item in new:
        session.report.result("add", f"{item.folder}/{item.filename}")
    session.report.result("sums", digest, "of SHA256SUMS; `install --index URL#sha256=...` compares it")
    session.report.success(
        f"{counted(len(site.records), 'wheel')} in {counted(len(folders), 'folder')} of {output}/"
    )


def _address(url: str | None) -> str | None:
    if url is None:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    secret = "@" in parts.netloc
    if parts.scheme not in ("http", "https") or not parts.netloc or secret or parts.query:
        raise UsageError(
            "--url is not the address of an index",
            found="an address with a user or a password" if secret else url,
            expected="http:// or https://, a host, and a path, without a password",
            hint="for example --url https://example.org/wheels",
        )
    return url.rstrip("/")


def _wheels(path: Path) -> list[Wheel]:
    if path.suffix == ".whl":
        return [read_wheel(path)]
    found = wheels_in(path) if path.is_dir() else []
    if not found:
        raise UsageError(
            f"There are no wheels in {path}",
            found="a folder without wheels" if path.is_dir() else "no such folder",
            expected="a wheel, a folder of wheels, or the folder above",
            hint="`mambaport build` writes wheelhouse/PROFILE",
        )
    return found


def _record(session: Session, wheel: Wheel) -> WheelRecord:
    """Audits a wheel against the target of the profile that its provenance names.

    Raises:
        AuditError: a rule fails, or the wheel says nothing of how it was built.
    """
    require_audit(audit_wheel(wheel, None))  # before anything else is read from it
    record = make_record(wheel)
    audit = audit_wheel(wheel, _goal(record, session.shop.host))
    require_audit(audit)
    session.report.line("audit", wheel.path.name, f"{len(audit.findings)} rules")
    return record.model_copy(update={"audit": tuple(Finding(**vars(item)) for item in audit.findings)})


def _attestations(session: Session, wheels: list[Wheel], attested: str | None) -> Mapping[str, bytes]:
    """The attestations beside wheels, compared: sha256 of the wheel -> its ``.provenance`` file.

    Raises:
        UsageError: no option says whose attestations are right.
        AuditError: an attestation is of another file, or of another repository.
        HostError, FetchError: attestations cannot be compared here.
    """
    found = {wheel: path for wheel in wheels if (path := _beside(wheel)).is_file()}
    if not found:
        return {}
    if attested is None:
        raise UsageError(
            "There are attestations beside the wheels, and nothing says whose",
            found=", ".join(path.name for path in found.values()),
            expected="--attested-by OWNER/NAME, the repository on GitHub whose workflow has signed",
            hint="give --attested-by, or move the attestations away",
        )
    checker = Checker(attested, offline=session.fetcher.offline)
    provenances = {}
    for wheel, path in found.items():
        with path.open("rb") as file:
            content = file.read(LARGEST)
        provenances[wheel.sha256] = checker.provenance(content, wheel.path.name, wheel.sha256)
        session.report.line("attest", wheel.path.name, f"signed by a workflow of {attested}")
    return provenances


def _beside(wheel: Wheel) -> Path:
    return wheel.path.with_name(wheel.path.name + ATTESTATION)


def _require_new(published: WheelIndex, added: list[WheelRecord]) -> None:
    """Refuses wheels that an index has under the same version with other bytes.

    Raises:
        IndexFault: two different files would share a version.
        FetchError: the index cannot be reached.
    """
    for item in added:
        for filename, sha256 in published.digests(item.folder, item.name).items():
            refuse_second(item, filename, sha256, f"the published index {redact(published.url)}")


def _goal(record: WheelRecord, host: Host) -> Goal:
    """The target that a wheel must be for: that of the built-in profile. For a user's profile, and a profile
    of the machine that builds, the wheel's provenance names the target."""
    provenance = record.provenance
    profile = profile_of(provenance)
    if profile is None or profile.target.arch == "host":
        return Goal(record.arch, provenance.target.glibc, provenance.target.cpu)
    goal = resolve_goal(profile, host)
    if (
        goal.cuda is not None and provenance.cuda is not None
    ):  # the profile may have wheels for several torches
        goal = replace(goal, cuda=replace(goal.cuda, torch=provenance.cuda.torch_minor))
    return goal


def _proof(path: Path) -> Proof:
    """A report of `mambaport verify --json`.

    Raises:
        UsageError: the file is not such a report, or a component failed in it.
    """
    try:
        proof = Proof.model_validate_json(path.read_bytes())
        fault = None if proof.wheels else "no digests of wheels"
    except (OSError, ValueError) as unread:
        fault = str(unread)
    if fault is not None:
        raise UsageError(
            f"{path} is not a report of the proof of wheels",
            found=fault,
            expected="what `mambaport verify --emulate --wheelhouse DIR --json` prints",
            hint="write its stdout into a file",
        )
    if failed := [item.name for item in proof.components if not item.ok]:
        raise UsageError(
            f"{path} is the report of a failed proof",
            found=", ".join(failed),
            expected="every component within its bound",
            hint="do not publish these wheels",
        )
    return proof
