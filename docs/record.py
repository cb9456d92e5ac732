"""`make picture`: writes docs/images/run.svg, a build with an empty store and an audit, as they run today."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
WIDTH = 130
"""Columns; longer lines are wrapped."""
STAGE = re.compile(r"^[a-z]+(?= {2,})")


def record(console: Console, *words: str, env: dict[str, str]) -> None:
    """Runs a command in the root of the checkout, and prints its lines in the colours of a terminal.

    Raises:
        SystemExit: the command failed.
    """
    console.print(Text(f"$ mambaport {' '.join(words)}", style="bold"))
    ran = subprocess.run(
        [sys.executable, "-m", "mambaport", *words],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise SystemExit(ran.stdout)
    for line in ran.stdout.splitlines():
        text = Text(line)
        text.highlight_regex(STAGE, "bold cyan")
        text.highlight_regex("✓", "green")
        console.print(text, no_wrap=True, overflow="ellipsis")
    console.print()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        env = {**os.environ, "MAMBAPORT_CACHE": folder}
        record(console, "build", "--profile", "rpi", env=env)
        (wheel,) = (ROOT / "wheelhouse" / "rpi").glob("mamba_ssm-2.2.4*.whl")
        record(console, "audit", str(wheel.relative_to(ROOT)), "--profile", "rpi", env=env)
        console.save_svg(str(ROOT / "docs" / "images" / "run.svg"), title="mambaport")


if __name__ == "__main__":
    main()
