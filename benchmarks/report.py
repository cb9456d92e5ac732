"""What a run found: a table to read, JSON to keep, a plot to look at."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from xml.sax.saxutils import escape

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
    """Writes results.json, results.md and results.svg; returns the table."""
    facts = machine()
    results = {**facts, "rows": [row.as_json() for row in rows]}
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    head = ", ".join(f"{name} {value}" for name, value in facts.items() if not isinstance(value, dict))
    versions = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    text = f"{head}; {versions}.\n\n{table(rows)}"
    (folder / "results.md").write_text(text)
    (folder / "results.svg").write_text(plot(rows))
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


def plot(rows: list[Row]) -> str:
    """Bars on a logarithmic axis: how many times as much as ours each candidate takes."""
    every = ((row, name, figure.ratio) for row in rows for name, figure in row.figures.items())
    bars = [bar for bar in every if bar[1] != bar[0].ours]
    height, left, width = 16, 480, 480
    decades = max(1, math.ceil(math.log10(max((ratio for *_, ratio in bars), default=10.0))))

    def at(ratio: float) -> float:
        return left + width * (math.log10(max(ratio, 0.1)) + 1) / (decades + 1)

    parts = []
    for i in range(-1, decades + 1):
        x = at(10.0**i)
        parts.append(f'<path d="M{x:.1f} 24V{24 + height * len(bars)}" stroke="#ccc"/>')
        parts.append(f'<text x="{x:.1f}" y="16" text-anchor="middle">{10.0**i:g} x</text>')
    for i, (row, name, ratio) in enumerate(bars):
        y, end, one = 26 + height * i, at(ratio), at(1.0)
        label = f"{row.work}, {row.threads} thr.: {name}"
        parts.append(f'<text x="{left - 6}" y="{y + 10}" text-anchor="end">{escape(label)}</text>')
        parts.append(
            f'<rect x="{min(one, end):.1f}" y="{y}" width="{abs(end - one):.1f}" height="12" fill="#37c"/>'
        )
        parts.append(f'<text x="{max(one, end) + 4:.1f}" y="{y + 10}">{ratio:.3g}</text>')
    total = 40 + height * len(bars)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 80}" height="{total}"'
    return head + ' font-family="sans-serif" font-size="11">' + "".join(parts) + "</svg>\n"
