"""The results of a run as one page of HTML: a plot for each group of work, and how time grows with length.

usage: python -m benchmarks.page [FOLDER]; reads results.json and length.json in FOLDER, writes results.html.
Needs mambaport, for the style that its pages share, and no torch.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from mambaport.pages import render_alone

HERE = Path(__file__).parent
LEFT, WIDTH, RIGHT = 170, 430, 260
"""Pixels of a plot: names of candidates, bars, numbers."""
BAR, GAP, HEAD, AXIS = 9, 8, 26, 34
"""Pixels: a bar, the space between two candidates, the head of a piece of work, the axis."""
LIMITS = ("roofline", "plain read of the same bytes")
"""Candidates that are no implementations: what the arithmetic alone, or the bytes alone, would take."""
COLOURS = 10
"""Colours of candidates in page.css."""
CURVES, TOP, SIDE = (560, 320), 20, 80
"""Pixels of the plot of lengths, and the space above and left."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=HERE / "results", metavar="FOLDER")
    folder = parser.parse_args().folder
    (folder / "results.html").write_bytes(page(folder))
    print(folder / "results.html")


def page(folder: Path) -> bytes:
    """The page of the results in a folder."""
    results = json.loads((folder / "results.json").read_text())
    length = folder / "length.json"
    growth = json.loads(length.read_text()) if length.exists() else None
    names = [name for row in results["rows"] for name in row["figures"] if name != row["ours"]]
    colours = {name: f"c{number % COLOURS}" for number, name in enumerate(dict.fromkeys(names))}
    return render_alone(
        "page.html",
        folder=HERE,
        more_style=(HERE / "page.css").read_text(),
        short=short,
        facts=facts(results),
        groups=[plot(name, rows, colours) for name, rows in groups(results["rows"]).items()],
        growth=curves(growth) if growth else None,
    )


def facts(results: dict[str, Any]) -> list[tuple[str, str]]:
    """The machine and the versions, as pairs of a name and a text."""
    found = [
        (name.replace("_", " "), str(value))
        for name, value in results.items()
        if not isinstance(value, (dict, list))
    ]
    return [*found, ("versions", ", ".join(f"{name} {value}" for name, value in results["versions"].items()))]


def groups(rows: list[dict[str, Any]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Group -> piece of work -> its rows, one for each number of threads."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        found.setdefault(group_of(row), {}).setdefault(row["work"], []).append(row)
    return found


def group_of(row: dict[str, Any]) -> str:
    if row["unit"] == "MB":
        return "Memory"
    if "update" in row["work"]:
        return "One step of decoding"
    return row["work"].split(", d ")[0] if ", d " in row["work"] else row["work"].split(",")[0]


def plot(name: str, works: dict[str, list[dict[str, Any]]], colours: dict[str, str]) -> dict[str, Any]:
    """Bars on a logarithmic axis: how many times as much as ours each candidate takes."""
    every = [row for rows in works.values() for row in rows]
    ratios = [
        figure["ratio"] for row in every for other, figure in row["figures"].items() if other != row["ours"]
    ]
    ratios += [goal for row in every for goal in row["goals"].values()]
    low = math.floor(math.log10(min([1.0, *ratios])))
    high = max(low + 1, math.ceil(math.log10(max([1.0, *ratios]))))

    def at(ratio: float) -> float:
        return LEFT + WIDTH * (math.log10(max(ratio, 10.0**low)) - low) / (high - low)

    y, parts = AXIS, []
    for work, rows in works.items():
        part = {"y": y + 17, "title": work, "ours": " · ".join(map(ours_text, rows)), "bars": []}
        y += HEAD
        for other in dict.fromkeys(key for row in rows for key in row["figures"] if key != row["ours"]):
            drawn = [row for row in rows if other in row["figures"]]
            bars = []
            for number, row in enumerate(drawn):
                end, one = at(row["figures"][other]["ratio"]), at(1.0)
                place = {"x": min(one, end), "width": max(abs(end - one), 1.0), "y": y + number * BAR}
                bars.append({**place, "threads": row["threads"]})
            goal = next((row["goals"][other] for row in drawn if other in row["goals"]), None)
            part["bars"].append(
                {
                    "name": other,
                    "colour": "roof" if other in LIMITS else colours[other],
                    "y": y,
                    "height": BAR * len(drawn),
                    "bars": bars,
                    "goal": None if goal is None else at(goal),
                    "text": " · ".join(f"{short(row['figures'][other]['ratio'])} ×" for row in drawn),
                    "verdict": goal_text(other, drawn),
                }
            )
            y += BAR * len(drawn) + GAP
        parts.append(part)
    ticks = [{"x": at(10.0**power), "text": f"{10.0**power:g} ×"} for power in range(low, high + 1)]
    size = {
        "left": LEFT,
        "right": LEFT + WIDTH,
        "width": LEFT + WIDTH + RIGHT,
        "height": y + 6,
        "one": at(1.0),
    }
    return {"name": name, "parts": parts, "ticks": ticks, "rows": every, **size}


def ours_text(row: dict[str, Any]) -> str:
    threads = f"{row['threads']} thread{'' if row['threads'] == 1 else 's'}"
    return f"{row['ours']}, {threads}: {short(row['figures'][row['ours']]['median'])} {row['unit']}"


def short(value: float) -> str:
    """A number with three digits and no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def goal_text(name: str, rows: list[dict[str, Any]]) -> str:
    row = next((row for row in rows if name in row["goals"]), None)
    return "" if row is None else f"goal {row['goals'][name]:g} {'met' if row['met'][name] else 'missed'}"


def curves(growth: dict[str, Any]) -> dict[str, Any]:
    """Lines on logarithmic axes: nanoseconds per step over the length."""
    points = [point for row in growth["rows"] for point in row["points"]]
    lengths = sorted({point["length"] for point in points})
    lowest = math.floor(math.log10(min(point["ns_per_step"] for point in points)))
    highest = math.ceil(math.log10(max(point["ns_per_step"] for point in points)))
    width, height = CURVES

    def at_x(length: float) -> float:
        return SIDE + width * math.log(length / lengths[0]) / math.log(lengths[-1] / lengths[0])

    def at_y(taken: float) -> float:
        return TOP + height * (1 - (math.log10(taken) - lowest) / (highest - lowest))

    lines = []
    for number, row in enumerate(growth["rows"]):
        places = [(at_x(item["length"]), at_y(item["ns_per_step"])) for item in row["points"]]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        lines.append({"name": row["name"], "colour": f"c{number % COLOURS}", "places": places, "path": path})
    ends = sorted(lines, key=lambda line: line["places"][-1][1])
    for above, below in zip([None, *ends], ends, strict=False):  # labels that would overlap move down
        y = below["places"][-1][1]
        below["label"] = y if above is None else max(y, above["label"] + 15)
    return {
        "lines": lines,
        "rows": growth["rows"],
        "facts": facts(growth),
        "lengths": lengths,
        "columns": [{"x": at_x(length), "text": f"{length:,}"} for length in lengths],
        "levels": [
            {
                "y": at_y(10.0**power),
                "text": f"{10.0**power / 1e3:,g} µs" if power >= 3 else f"{10.0**power:g} ns",
            }
            for power in range(lowest, highest + 1)
        ],
        "left": SIDE,
        "right": SIDE + width,
        "top": TOP,
        "bottom": TOP + height,
        "width": SIDE + width + 190,
        "height": TOP + height + 50,
    }


if __name__ == "__main__":
    main()
