"""``mambaport install``."""

from __future__ import annotations

from pathlib import Path

import click

from mambaport.attestations import require_repository
from mambaport.cli.options import (
    Session,
    build_options,
    default_python,
    environment_runtime_option,
    profile_option,
    python_option,
    release_options,
    source_options,
    wheelhouse_option,
)
from mambaport.errors import UsageError
from mambaport.pipeline import InstallOptions, Pipeline
from mambaport.plan import Runtime
from mambaport.release_lines import ReleaseChoice


@click.command()
@profile_option
@release_options
@python_option
@wheelhouse_option
@environment_runtime_option
@click.option(
    "--index",
    metavar="URL",
    help="An index that `mambaport index` has written, or a folder with one; #sha256= of its SHA256SUMS may "
    "follow.",
)
@click.option(
    "--attested-by",
    "attested",
    metavar="OWNER/NAME",
    help="With --index: the repository on GitHub, a workflow of which must have signed each wheel (PEP 740).",
)
@click.option(
    "--keep-previous",
    is_flag=True,
    help="Keep the environment before, by hard links beside site-packages, so that --undo can restore it.",
)
@click.option(
    "--unless-installed",
    is_flag=True,
    help="Where the environment has every file of the wheels already: install nothing, prove alone.",
)
@click.option(
    "--undo",
    is_flag=True,
    help="Restore the environment before the last installation with --keep-previous, and prove it.",
)
@build_options
@source_options
def install(
    session: Session,
    profile_name: str,
    variant: str | None,
    releases: ReleaseChoice,
    python: Path | None,
    wheelhouse: Path | None,
    runtime: Runtime,
    index: str | None,
    attested: str | None,
    keep_previous: bool,
    unless_installed: bool,
    undo: bool,
    toolchain: str | None,
    jobs: int | None,
) -> None:
    """Install a profile's wheels into an existing environment and prove them there.

    The environment's torch is never installed, upgraded or replaced. When the proof fails, the earlier
    packages are restored.

    With --runtime onnx, the environment needs no torch: numpy, Pillow, onnxruntime and the mamba-ssm wheel,
    which holds our operators for ONNX Runtime, are installed, and the operators are proven.

    \b
    Examples:
      mambaport install --profile rpi --python ~/mamba/bin/python
      mambaport install -p rpi --wheelhouse wheelhouse/       the same as wheelhouse/rpi/
      mambaport install -p rpi --runtime onnx                 for files of `mambaport export`
      mambaport install -p rpi --index https://example.org/wheels/
      mambaport install -p rpi --index URL --attested-by OWNER/NAME
      mambaport install -p rpi --line 2.3 --keep-previous     and back: mambaport install -p rpi --undo
    """
    if index is not None and wheelhouse is not None:
        raise UsageError(
            "--index and --wheelhouse were both given",
            expected="one place that the wheels come from",
            hint="drop one of the two options",
        )
    if attested is not None:
        require_repository(attested)
        if index is None:
            raise UsageError(
                "--attested-by was given without --index",
                expected="an index, whose wheels have attestations",
                hint="give --index, or drop --attested-by",
            )
    if undo and (index is not None or wheelhouse is not None or keep_previous or unless_installed):
        raise UsageError(
            "--undo installs nothing",
            found="--undo with --index, --wheelhouse, --keep-previous or --unless-installed",
            expected="--undo with --profile and --python alone",
            hint="drop --undo to install, or the other options to go back",
        )
    environment = default_python(python)
    pipeline = session.pipeline(
        profile_name,
        variant,
        toolchain,
        jobs,
        environment=environment,
        releases=releases,
        runtime=runtime,
        buildable=index is None and wheelhouse is None and not undo,
    )
    if undo:
        _undo(session, pipeline, environment)
        return
    options = InstallOptions(keep_previous, unless_installed, attested)
    done = pipeline.install(environment, wheelhouse, index, options)
    target, wheels, proven = done.target, done.wheels, done.proof
    if session.emit(
        {
            "environment": target.prefix,
            "site": str(target.site),
            "changed": done.changed,
            "wheels": [
                {"name": w.name, "version": w.version, "sha256": proven.wheels[w.path.name]} for w in wheels
            ],
            "verification": proven.to_json(),
        }
    ):
        return
    versions = " and ".join(f"{wheel.name} {wheel.version}" for wheel in wheels)
    session.report.success(f"{versions} installed and proven in {target.place}")


def _undo(session: Session, pipeline: Pipeline, environment: Path) -> None:
    target, proof = pipeline.undo(environment)
    versions = {name: package.version for name, package in sorted(target.packages.items())}
    if session.emit(
        {
            "environment": target.prefix,
            "site": str(target.site),
            "changed": True,
            "packages": versions,
            "verification": proof.to_json() if proof is not None else None,
        }
    ):
        return
    text = " and ".join(f"{name} {version}" for name, version in versions.items())
    proven = (
        f"{text} back and proven" if proof is not None else "the environment is as before, without the wheels"
    )
    session.report.success(f"{proven} in {target.place}")
