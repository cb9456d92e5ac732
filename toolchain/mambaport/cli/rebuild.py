"""``mambaport rebuild``."""

from __future__ import annotations

from pathlib import Path

import click
from packaging.version import Version
from pydantic import ValidationError

from mambaport.cli.options import FILE, Session, cuda_options, source_options
from mambaport.cuda.resolve import CudaOptions
from mambaport.errors import UsageError
from mambaport.indexing.provenance import Provenance
from mambaport.rebuild import rebuild as build_again
from mambaport.release_lines import ReleaseChoice
from mambaport.toolchains import TOOLCHAINS
from mambaport.wheels import Wheel, read_wheel


@click.command()
@click.argument("wheel", type=FILE)
@click.option(
    "-p",
    "--profile",
    "profile_name",
    metavar="P",
    help="The profile; by default the one that the wheel names.",
)
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Number of parallel compilers.")
@cuda_options
@source_options
def rebuild(
    session: Session,
    wheel: Path,
    profile_name: str | None,
    jobs: int | None,
    cuda_python: Path | None,
    cuda_torch: str | None,
    torch_wheel: Path | None,
    cuda_home: Path | None,
) -> None:
    """Build a wheel again from its own provenance, and compare every byte.

    Nothing that was compiled before is used. Exit code 0 means equal bytes; 14, other bytes; 11 or 12, that
    this mambaport or this machine has other patch sets, sources or tools than the provenance names.

    \b
    Examples:
      mambaport rebuild wheelhouse/rpi/mamba_ssm-2.2.4+rpi.cpu.1-py3-none-manylinux_2_17_aarch64.whl
    """
    given = read_wheel(wheel)
    facts = _provenance(given)
    cuda = CudaOptions(cuda_python, cuda_torch, torch_wheel, cuda_home)
    if facts.cuda is not None and cuda_python is None and cuda_torch is None and torch_wheel is None:
        cuda = CudaOptions(torch=facts.cuda.torch_minor, cuda_home=cuda_home)
    pipeline = session.pipeline(
        profile_name or facts.profile,
        facts.variant,
        facts.toolchain["name"],
        jobs,
        cuda,
        releases=ReleaseChoice(None, {given.name: Version(given.version).public}),
    )
    if given.name not in {package.name for package in pipeline.plan.packages}:
        raise UsageError(
            f"Profile {pipeline.plan.profile.name} has no package {given.name}",
            expected="the profile that the wheel was built with",
            hint="name the profile's file with --profile",
        )
    done = build_again(pipeline, given, given.provenance())
    if session.emit({"wheel": str(given.path), "sha256": done.sha256, "equal": True}):
        return
    session.report.result("wheel", str(given.path))
    session.report.success(f"built again with equal bytes: sha256 {done.sha256}")


def _provenance(wheel: Wheel) -> Provenance:
    """The provenance in a wheel, whose values may come from anyone.

    Raises:
        UsageError: there is none, or its values are not those of a build.
    """
    found = wheel.provenance()
    try:
        facts = Provenance.model_validate(found)
        if facts.toolchain.get("name") not in TOOLCHAINS:
            raise ValueError(f"toolchain {facts.toolchain.get('name')!r}")
        if facts.package != wheel.name:
            raise ValueError(f"package {facts.package}, in a wheel of {wheel.name}")
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = f"{where}: {first['msg']}" if found else "no provenance.json in the wheel"
    except ValueError as fault:
        reason = str(fault)
    else:
        return facts
    raise UsageError(
        f"{wheel.path.name} has no provenance that a build can begin with",
        found=reason,
        expected="a wheel that `mambaport build` has made",
        hint="`mambaport audit` says what the wheel is",
    )
