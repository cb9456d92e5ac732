"""``mambaport build``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from mambaport.cli.options import (
    FOLDER,
    Session,
    build_options,
    cuda_options,
    profile_option,
    release_options,
    source_options,
)
from mambaport.cuda.resolve import CudaOptions
from mambaport.pipeline import Made
from mambaport.release_lines import ReleaseChoice
from mambaport.report import Report, counted, size_text


@click.command()
@profile_option
@release_options
@click.option(
    "-o",
    "--output",
    type=FOLDER,
    metavar="DIR",
    help="Where the wheels go.  [default: wheelhouse/PROFILE, with the variant: wheelhouse/jetson-jetpack6]",
)
@build_options
@cuda_options
@source_options
def build(
    session: Session,
    profile_name: str,
    variant: str | None,
    releases: ReleaseChoice,
    output: Path | None,
    toolchain: str | None,
    jobs: int | None,
    cuda_python: Path | None,
    cuda_torch: str | None,
    torch_wheel: Path | None,
    cuda_home: Path | None,
) -> None:
    """Build a profile's wheels: fetched, patched, compiled, audited.

    \b
    Examples:
      mambaport build --profile rpi                    aarch64 wheels in wheelhouse/rpi/
      mambaport build -p rpi --toolchain gcc-aarch64   with Debian's cross gcc
      mambaport build -p ./my-board.toml -o dist       a profile of your own
      mambaport build -p jetson                        CUDA wheels for JetPack 6, or for this Jetson
      mambaport build -p jetson --variant jetpack7     for JetPack 7: CUDA 13
      mambaport build -p jetson --torch-wheel torch-2.5.0a0+nv24.8-cp310-cp310-linux_aarch64.whl
    """
    started = time.monotonic()
    cuda = CudaOptions(cuda_python, cuda_torch, torch_wheel, cuda_home)
    pipeline = session.pipeline(profile_name, variant, toolchain, jobs, cuda, releases=releases)
    wheelhouse = output or Path("wheelhouse") / pipeline.plan.folder
    made = pipeline.build(wheelhouse)
    data = {
        "profile": pipeline.plan.profile.name,
        "wheelhouse": str(wheelhouse.resolve()),
        **({"cuda": pipeline.plan.cuda.to_json()} if pipeline.plan.cuda else {}),
        "wheels": [item.to_json() for item in made],
    }
    if session.emit(data):
        return
    for item in made:
        _describe(item, session.report)
    session.report.success(
        f"{counted(len(made), 'wheel')} in {wheelhouse}/, {time.monotonic() - started:.1f} s"
    )


def _describe(made: Made, report: Report) -> None:
    """Prints a finished wheel in two lines: its path, and the results of its audit."""
    found = {finding["rule"]: finding["found"] for finding in made.audit["findings"]}
    report.result("wheel", str(made.wheel.path))
    facts = [size_text(made.wheel.path.stat().st_size), f"sha256 {made.wheel.sha256[:16]}…"]
    facts += [found[rule] for rule in ("glibc", "isa") if rule in found]
    report.result("", "", " · ".join(facts))
