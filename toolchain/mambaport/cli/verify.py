"""``mambaport verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mambaport.cli.options import (
    Session,
    default_python,
    emulated_cpu,
    emulated_system,
    environment_runtime_option,
    profile_option,
    python_option,
    release_options,
    source_options,
    wheelhouse_option,
)
from mambaport.cli.page import Page, report_option, results_page
from mambaport.errors import MambaportError, UsageError
from mambaport.failures import explain
from mambaport.plan import Runtime
from mambaport.release_lines import ReleaseChoice
from mambaport.verifying import Verification, engine, failure_text


@click.command()
@profile_option
@release_options
@python_option
@wheelhouse_option
@environment_runtime_option
@click.option("--emulate", is_flag=True, help="Verify on an emulated aarch64 system instead of this machine.")
@click.option("--system", metavar="NAME", help="The emulated system; by default the profile's first.")
@report_option
@click.option(
    "--emulated-cpu", "emulated_cpu_name", metavar="NAME", help="The emulated CPU; by default the profile's."
)
@source_options
def verify(
    session: Session,
    profile_name: str,
    variant: str | None,
    releases: ReleaseChoice,
    python: Path | None,
    wheelhouse: Path | None,
    runtime: Runtime,
    emulate: bool,
    system: str | None,
    report_file: Path | None,
    emulated_cpu_name: str | None,
) -> None:
    """Run every component in the target interpreter and compare it with a float64 reference.

    \b
    Examples:
      mambaport verify -p rpi --python ~/mamba/bin/python     on the device
      mambaport verify -p rpi --runtime onnx                  the operators for ONNX Runtime, without torch
      mambaport verify -p rpi --emulate                       on an x86-64 machine
      mambaport verify -p rpi --emulate --system trixie       the same on Python 3.13
      mambaport verify -p rpi --emulated-cpu neoverse-n2      the same wheels on a newer CPU
      mambaport verify -p rpi --emulate --report proof.html   and a page of numbers, failures and hints
    """
    cpu = emulated_cpu(emulated_cpu_name)
    if runtime == "onnx" and (emulate or system or cpu):
        raise UsageError(
            "--runtime onnx cannot be proven on an emulated system of mambaport: that system has torch",
            hint="run `mambaport verify --runtime onnx` on the device, or leave --runtime out",
        )
    environment = None if emulate or system or cpu else default_python(python)
    results: list[Verification] = []
    page = Page(
        "report-verify.html",
        f"Proof of {profile_name}",
        lambda error: _page_values(session, environment, results, error),
    )
    with results_page(session, report_file, page):
        if environment is None:
            chosen = emulated_system(profile_name, variant, system)
            pipeline = session.pipeline(profile_name, variant, releases=releases)
            results.append(pipeline.verify_emulated(chosen, wheelhouse, cpu))
        else:
            pipeline = session.pipeline(
                profile_name, variant, environment=environment, releases=releases, runtime=runtime
            )
            results.append(pipeline.verify(environment))
    (result,) = results
    if session.emit(result.to_json()):
        return
    session.report.success(f"all {len(result.components)} components within their bounds")


PATHS = {
    "default": "On the default path, which users get",
    "fallback": "In pure PyTorch, forced by the two variables",
    "gpu": "On the GPU",
}


def _page_values(
    session: Session, environment: Path | None, results: list[Verification], error: MambaportError | None
) -> dict[str, Any]:
    """The values of the page of a proof; the failed proof is in its error."""
    host = session.shop.host
    here = [
        ("this machine", f"{host.device or host.arch}, {host.cores} cores, {host.memory_mib} MiB of memory"),
        ("its system", f"{host.system}, glibc {host.glibc}"),
    ]
    if environment is not None:
        here.append(("environment", str(environment)))
    names = Verification.model_fields
    failed = {name: value for name, value in (error.data if error else {}).items() if name in names}
    result = results[0] if results else Verification.model_validate(failed) if failed else None
    if result is None:
        return {"machine": here}
    optional = ", ".join(
        f"{name} {'is' if present else 'is not'} installed" for name, present in result.optional.items()
    )
    machine = [
        ("proven on", result.emulation or result.gpu or "this machine"),
        ("system", f"{result.system}, {result.arch}"),
        ("Python", result.python),
        ("computed by", f"{engine(result)}, {result.threads} threads, {'a' if result.cuda else 'no'} GPU"),
        *([("instruction set of the kernels", result.kernel_sets)] if result.instruction_sets else []),
        *([("packages", optional)] if optional else []),
        *here,
    ]
    paths = []
    for path in dict.fromkeys(item.path for item in result.components):
        components = [item for item in result.components if item.path == path]
        paths.append(
            {
                "title": PATHS.get(path, f"Path {path}"),
                "right": sum(item.ok for item in components),
                "seconds": sum(item.seconds for item in components),
                "components": [item.model_dump() for item in components],
            }
        )
    return {
        "verdict": f"All {len(result.components)} components are within their bounds.",
        "machine": machine,
        "wheels": result.wheels,
        "paths": paths,
        "failures": [
            {
                **item.model_dump(include={"name", "path", "where", "traceback"}),
                "reason": failure_text(item),
                "known": [row.to_json() for row in explain(f"{item.failure or ''}\n{item.traceback or ''}")],
            }
            for item in result.components
            if not item.ok
        ],
    }
