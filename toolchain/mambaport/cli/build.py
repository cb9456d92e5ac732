"""``mambaport build``."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import click

from mambaport.building.provenance import provenance
from mambaport.cli.options import (
    FOLDER,
    Session,
    build_options,
    cuda_options,
    profile_option,
    release_options,
    source_options,
)
from mambaport.cli.page import Page, report_option, results_page
from mambaport.cuda.resolve import CudaOptions
from mambaport.digests import file_sha256
from mambaport.errors import MambaportError
from mambaport.indexing import Provenance
from mambaport.making import Made
from mambaport.pipeline import Pipeline
from mambaport.plan import PackagePlan
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
@report_option
@click.option(
    "--statements",
    is_flag=True,
    help="Write an in-toto statement beside each wheel: SLSA provenance with the commit and all materials.",
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
    report_file: Path | None,
    statements: bool,
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
      mambaport build -p rpi --report build.html       and a page of sources, patches and audit
      mambaport build -p rpi --toolchain gcc-aarch64   with Debian's cross gcc
      mambaport build -p ./my-board.toml -o dist       a profile of your own
      mambaport build -p jetson                        CUDA wheels for JetPack 6, or for this Jetson
      mambaport build -p jetson --variant jetpack7     for JetPack 7: CUDA 13
      mambaport build -p jetson --torch-wheel torch-2.5.0a0+nv24.8-cp310-cp310-linux_aarch64.whl
    """
    started = time.monotonic()
    cuda = CudaOptions(cuda_python, cuda_torch, torch_wheel, cuda_home)
    with results_page(session, report_file, Page("report-build.html", f"Build of {profile_name}")) as page:
        pipeline = session.pipeline(profile_name, variant, toolchain, jobs, cuda, releases=releases)
        page.values = lambda error: _page_values(pipeline, error)
        wheelhouse = output or Path("wheelhouse") / pipeline.plan.folder
        made = pipeline.build(wheelhouse, statements=statements)
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


NEEDS = (("system", "glibc"), ("instructions", "isa"))
"""Facts of a wheel's page that the audit found: label, rule."""


def _page_values(pipeline: Pipeline, error: MambaportError | None) -> dict[str, Any]:
    """The values of the page of a build, whole or failed."""
    plan, goal = pipeline.plan, pipeline.plan.goal
    facts = [
        ("profile", f"{plan.profile.name}: {plan.profile.summary}"),
        ("for", f"{goal.arch}, {goal.cpu} or newer, glibc {goal.glibc} or newer"),
        ("built on", f"{plan.host.system}, {plan.host.arch}, {plan.host.cores} cores"),
        ("toolchain", plan.toolchain.name),
        ("folder", plan.folder),
    ]
    if plan.variant is not None:
        facts.insert(1, ("variant", plan.variant))
    if plan.cuda is not None:
        sm = ", ".join(f"sm_{name}" for name in plan.cuda.goal.sm)
        facts.append(("CUDA", f"{sm}, torch {plan.cuda.torch.version}, {plan.cuda.torch.origin}"))
    wheels = []
    stopped = error
    for number, package in enumerate(plan.packages):
        made = pipeline.made[number] if number < len(pipeline.made) else None
        wheels.append(_wheel_values(pipeline, package, made, stopped))
        if made is None:
            stopped = None
    return {
        "verdict": f"{counted(len(pipeline.made), 'wheel')}, each audited",
        "title": f"Build of {plan.profile.name}",
        "plan": facts,
        "wheels": wheels,
    }


def _wheel_values(
    pipeline: Pipeline, package: PackagePlan, made: Made | None, error: MambaportError | None
) -> dict[str, Any]:
    """A wheel of the page; ``error``: what has stopped the build at this wheel."""
    record = made.wheel.provenance() if made else json.loads(provenance(pipeline.plan, package))
    known = Provenance.model_validate(record)
    paths = [item.path(patch) for item in package.sets for patch in item.patches]
    texts = {file_sha256(path): path.read_text(encoding="utf-8", errors="replace") for path in paths}
    facts: list[tuple[str, str]] = []
    audit = error.data.get("audit", {}).get("findings", []) if error else []
    if made is not None:
        found = {finding["rule"]: finding["found"] for finding in made.audit["findings"]}
        with zipfile.ZipFile(made.wheel.path) as archive:
            sizes = {item.filename: item.file_size for item in archive.infolist()}
        size = made.wheel.path.stat().st_size
        facts = [
            ("file", str(made.wheel.path.resolve())),
            ("sha256", made.wheel.sha256),
            ("size", f"{size_text(size)}, {size_text(sum(sizes.values()))} installed"),
            *((label, found[rule]) for label, rule in NEEDS if rule in found),
            ("log", str(made.log)),
        ]
        audit = made.audit["findings"]
    state = "failed" if error else "not begun"
    if made is not None:
        state = "from the store, built and audited before" if made.cached else "built"
    return {
        "name": package.name,
        "version": package.version,
        "state": state,
        "verdict": "pass" if made else "fail" if error else "",
        "size": size if made else None,
        "path": str(made.wheel.path) if made else None,
        "facts": facts,
        "provenance": known.model_dump(),
        "origins": package.source.origins,
        "patches": sum(len(item.patches) for item in known.patch_sets),
        "texts": texts,
        "cuda": known.cuda.model_dump(exclude_none=True) if known.cuda else {},
        "audit": audit,
        "libraries": {name: size for name, size in sizes.items() if name.endswith(".so")} if made else None,
    }
