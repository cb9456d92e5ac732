"""What a run found: a table to read, JSON to keep; `benchmarks.page` makes a page with plots of it."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
from importlib import metadata
from pathlib import Path

import torch

from benchmarks.timing import Row


def machine() -> dict[str, object]:
    """What the figures depend on, beside the code."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    packages = ("torch", "transformers", "mambapy", "mamba_ssm", "causal_conv1d")
    return {
        "machine": platform.machine(),
        "processor": cpu[1] if cpu else "unknown",
        "cores": os.cpu_count(),
        "kernels": os.environ.get("MAMBAPORT_KERNEL_ISA") or "the best there is",
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {name: metadata.version(name) for name in packages if importlib.util.find_spec(name)},
    }


def write(rows: list[Row], folder: Path) -> str:
    """Writes results.json and results.md; returns the table."""
    facts = machine()
    results = {**facts, "rows": [row.as_json() for row in rows]}
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    head = ", ".join(f"{name} {value}" for name, value in facts.items() if not isinstance(value, dict))
    versions = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    text = f"{head}; {versions}.\n\n{table(rows)}"
    (folder / "results.md").write_text(text)
    return text


def table(rows: list[Row]) -> str:
    """A line per row: medians, in brackets how many times ours; whether the goals are met."""
    lines = ["| work | threads | ours, median (least) | others, median (times ours) | goals |"]
    lines.append("|---|---|---|---|---|")
    for row in rows:
        others = ", ".join(
            f"{name} {figure.median:.4g} ({figure.ratio:.3g})"
            for name, figure in row.figures.items()
            if name != row.ours
        )
        goals = ", ".join(
            f"{name} {goal:g}: {'met' if row.met(name) else 'missed'}" for name, goal in row.goals.items()
        )
        ours = row.figures[row.ours]
        least = "" if ours.least == ours.median else f" ({ours.least:.4g})"
        took = f"{ours.median:.4g}{least} {row.unit}"
        lines.append(f"| {row.work} | {row.threads} | {took} | {others} | {goals} |")
    return "\n".join(lines) + "\n"
