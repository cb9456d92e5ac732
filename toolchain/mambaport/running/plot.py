"""A benchmark as an SVG: a bar up to the median of each measure, and a line up to the 95th percentile."""

from __future__ import annotations

from xml.sax.saxutils import escape

from mambaport.running.results import Benchmark
from mambaport.running.tables import Row, environment_text, machine_text, rows, shape_text, short

LEFT, WIDTH, RIGHT = 330, 420, 260
ROW, HEAD = 24, 46
COLOURS = {
    "default": "#2a7ab9",
    "graph": "#1b9e77",
    **dict.fromkeys(("fallback", "float32"), "#b9b9b9"),
    "without": "#8c8c8c",
}
OTHER = "#d98a2b"
FARTHEST = 1.15
"""The greatest length of a line, as a multiple of the longest bar."""


def plot(results: list[Benchmark]) -> str:
    """The plot. Each measure has its own scale: a prompt and a token differ by orders of magnitude."""
    ours = results[0]
    bars = rows(results)
    parts = [
        _text(12, 20, f"{ours.model}, {shape_text(ours)}, {machine_text(ours)}", size=14),
        _text(12, 37, environment_text(ours.environment), colour="#666"),
    ]
    for number, row in enumerate(bars):
        parts += _bar(row, HEAD + ROW * number)
    width, height = LEFT + WIDTH + RIGHT, HEAD + ROW * len(bars) + 10
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="11">'
    )
    return f'{head}<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'


def _bar(row: Row, y: float) -> list[str]:
    item, scale = row.measure, WIDTH / row.longest
    colour = COLOURS[item.variant] if row.ours else OTHER
    middle, far = LEFT + item.p50_ms * scale, LEFT + min(item.p95_ms * scale, WIDTH * FARTHEST)
    value = f"{short(item.p50_ms)} ms, {item.per_second:.3g} {item.unit}/s"
    return [
        _text(LEFT - 8, y + 14, row.name.strip(), anchor="end"),
        f'<rect x="{LEFT}" y="{y + 3}" width="{middle - LEFT:.1f}" height="14" fill="{colour}"/>',
        f'<path d="M{middle:.1f} {y + 10}H{far:.1f}M{far:.1f} {y + 6}V{y + 14}" stroke="#333" fill="none"/>',
        _text(max(middle, far) + 6, y + 14, value),
    ]


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "#222", size: int = 11) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">'
        f"{escape(text)}</text>"
    )
