"""Writes units and links as a ninja file, and runs ninja on it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from ninja import ninja_syntax
except ModuleNotFoundError:
    raise SystemExit("ninja was not found: `pip install ninja` brings it") from None

from mambaport_build.config import BuildConfig
from mambaport_build.units import Link, Unit

LARGE_MIB = 1024
"""From this size on, the memory bounds how many compilations run at once."""


def run_ninja(units: Sequence[Unit], links: Sequence[Link], folder: Path, config: BuildConfig) -> None:
    """Makes every link of `links`. What is up to date is left as it is; a build that was stopped goes on.

    Raises:
        SystemExit: a compiler or the linker failed; its message is printed.
    """
    units = list(dict.fromkeys(units))  # libraries share kernels
    path = folder / "build.ninja"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        write_ninja(ninja_syntax.Writer(stream), units, links, folder, config)
    words = [_ninja(), "-f", path.as_posix(), "-j", str(config.jobs)]
    print(f"{len(units)} files to compile, {config.jobs} at once", flush=True)
    if subprocess.run(words, env={**os.environ, "NINJA_STATUS": "[%f/%t] "}, check=False).returncode:
        raise SystemExit("a file did not compile; the compiler's message is above")


def write_ninja(
    writer: ninja_syntax.Writer,
    units: Sequence[Unit],
    links: Sequence[Link],
    folder: Path,
    config: BuildConfig,
) -> None:
    """Large compilations share a pool that is as deep as the memory allows; files start in the order of `units`."""
    writer.variable("ninja_required_version", "1.10")
    writer.variable("builddir", folder.as_posix())
    largest = max((unit.memory_mib for unit in units), default=0)
    writer.pool("large", max(1, config.memory_mib // max(1, largest)))
    writer.rule(
        "compile",
        "$words -MD -MF $out.d -c $in -o $out",
        description="compile $in",
        depfile="$out.d",
        deps="gcc",
    )
    writer.rule("link", "$before $in $after -o $out", description="link $out")
    for unit in units:
        writer.build(
            unit.object.as_posix(),
            "compile",
            unit.source.as_posix(),
            variables={
                "words": _quoted(unit.command),
                **({"pool": "large"} if unit.memory_mib >= LARGE_MIB else {}),
            },
        )
    for link in links:
        link.output.parent.mkdir(parents=True, exist_ok=True)
        writer.build(
            link.output.as_posix(),
            "link",
            [path.as_posix() for path in link.objects],
            variables={"before": _quoted(link.before), "after": _quoted(link.after)},
        )


def _quoted(words: Sequence[str]) -> str:
    return ninja_syntax.escape(shlex.join(words))


def _ninja() -> str:
    """ninja beside the Python that runs the build, else on PATH."""
    beside = Path(sys.executable).with_name("ninja")
    found = str(beside) if beside.is_file() else shutil.which("ninja")
    if found is None:
        raise SystemExit("ninja was not found: `pip install ninja` brings it")
    return found
