"""What a run found: a table to read, JSON to keep, a plot to look at."""

from __future__ import annotations

import json
import math
import platform
from pathlib import Path
from xml.sax.saxutils import escape

import torch

from benchmarks.timing import Row


def write(rows: list[Row], folder: Path) -> str:
    """Writes results.json, results.md and results.svg; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "machine": platform.machine(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    results = {**about, "unit": "ms", "rows": [row.as_json() for row in rows]}
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "results.md").write_text(table(rows))
    (folder / "results.svg").write_text(plot(rows))
    return table(rows)


def table(rows: list[Row]) -> str:
    """Milliseconds, and in brackets how many times as long as ours; a goal that is missed is named."""
    lines = ["| work | threads | ours, ms | others, ms (times ours) | goals |", "|---|---|---|---|---|"]
    for row in rows:
        others = ", ".join(
            f"{name} {time:.4g} ({row.ratio(name):.3g})"
            for name, time in row.times.items()
            if name != row.ours
        )
        goals = ", ".join(
            f"{name} {goal:g}: {'met' if row.ratio(name) >= goal else 'missed'}"
            for name, goal in row.goals.items()
        )
        lines.append(f"| {row.work} | {row.threads} | {row.times[row.ours]:.4g} | {others} | {goals} |")
    return "\n".join(lines) + "\n"


def plot(rows: list[Row]) -> str:
    """Bars on a logarithmic axis: how many times as long as ours each candidate takes."""
    bars = [(row, name) for row in rows for name in row.times if name != row.ours]
    height, left, width = 16, 420, 480
    most = max((row.ratio(name) for row, name in bars), default=10.0)
    decades = max(1, math.ceil(math.log10(most)))

    def at(ratio: float) -> float:
        return left + width * (math.log10(max(ratio, 0.1)) + 1) / (decades + 1)

    parts = []
    for i in range(-1, decades + 1):
        x = at(10.0**i)
        parts.append(f'<path d="M{x:.1f} 24V{24 + height * len(bars)}" stroke="#ccc"/>')
        parts.append(f'<text x="{x:.1f}" y="16" text-anchor="middle">{10.0**i:g} x</text>')
    for i, (row, name) in enumerate(bars):
        y, end, one = 26 + height * i, at(row.ratio(name)), at(1.0)
        label = f"{row.work}, {row.threads} thr.: {name}"
        parts.append(f'<text x="{left - 6}" y="{y + 10}" text-anchor="end">{escape(label)}</text>')
        parts.append(
            f'<rect x="{min(one, end):.1f}" y="{y}" width="{abs(end - one):.1f}" height="12" fill="#37c"/>'
        )
        parts.append(f'<text x="{max(one, end) + 4:.1f}" y="{y + 10}">{row.ratio(name):.3g}</text>')
    total = 40 + height * len(bars)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 80}" height="{total}"'
    return head + ' font-family="sans-serif" font-size="11">' + "".join(parts) + "</svg>\n"
