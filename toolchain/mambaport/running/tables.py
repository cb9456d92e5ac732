"""The runner's results as tables with bars."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.bar import Bar
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from mambaport.running.results import (
    Benchmark,
    Classified,
    Environment,
    Evaluation,
    Export,
    Measure,
    State,
)

BAR = 20
BENCH_BAR = 10
VARIANTS = {
    "fallback": "pure PyTorch",
    "float32": "float32",
    "without": "no packages",
    "graph": "CUDA graph",
}


def classes_table(image: Classified) -> Table:
    """The most probable classes of an image, each with a bar."""
    table = _table(Path(image.path).name)
    table.add_column("class", max_width=36, no_wrap=True, overflow="ellipsis")
    table.add_column("", width=BAR)
    table.add_column("probability", justify="right", no_wrap=True)
    for item in image.classes:
        table.add_row(
            escape(item.label or f"class {item.index}"), _bar(item.probability), f"{item.probability:.1%}"
        )
    return table


def evaluation_table(result: Evaluation) -> Table:
    """The top-1 and the top-5 accuracy."""
    table = _table(f"{result.model} on {result.images} images of {result.classes} classes")
    table.add_column("accuracy")
    table.add_column("", width=BAR)
    table.add_column("", justify="right")
    table.add_column("", justify="right")
    for name, right in (("top-1", result.top1), ("top-5", result.top5)):
        share = right / result.images
        table.add_row(name, _bar(share), f"{share:.2%}", f"{right} of {result.images}")
    return table


def benchmark_table(results: list[Benchmark]) -> Table:
    """The measures of one run, or of several runs side by side. The first run is this machine's."""
    ours = results[0]
    unit = ours.measures[0].unit
    parameters = f"{_number(ours.parameters)} parameters{_weights_text(ours)}"
    table = _table(f"{ours.model} · {parameters} · {shape_text(ours)}")
    table.add_column("")
    for heading in ("p50 ms", "p95 ms", f"{unit}/s", "GFLOP/s", "MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", width=BENCH_BAR)
    table.add_column("", justify="right", no_wrap=True)
    base = {item.measure: item.p50_ms for item in ours.measures if item.variant == "default"}
    for row in rows(results):
        item = row.measure
        table.add_row(
            escape(row.name),
            short(item.p50_ms),
            short(item.p95_ms),
            f"{item.per_second:.3g}",
            "" if item.flops is None else f"{item.flops.total / item.p50_ms / 1e6:.3g}",
            "" if item.peak_bytes is None else f"{item.peak_bytes / 1e6:.0f}",
            _bar(item.p50_ms / row.longest, BENCH_BAR),
            f"{item.p50_ms / base[item.measure]:.3g} x",
        )
    return table


def export_table(result: Export) -> Table:
    """The inputs that were compared, and the times in PyTorch and in ONNX Runtime."""
    table = _table(f"{result.model}, {result.form} form{', int8' if result.int8 else ''}")
    for heading in ("", "difference", "PyTorch ms", "ONNX ms", ""):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for item in result.compared:
        length = "" if item.length is None else f", {item.length} tokens and 3 more"
        table.add_row(f"batch {item.batch}{length}", f"{item.difference:.1e}", "", "", "")
    for time in result.times:
        ratio = f"{time.onnx_ms / time.torch_ms:.3g} x"
        table.add_row(time.measure, "", short(time.torch_ms), short(time.onnx_ms), ratio)
    return table


@dataclass(frozen=True)
class Row:
    """One measure of one run."""

    name: str
    measure: Measure
    longest: float
    """The longest p50, in ms, of this kind of measure in all runs."""
    ours: bool


def rows(results: list[Benchmark]) -> list[Row]:
    """Every measure of every run, sorted by the kind of measure."""
    found = []
    for kind in dict.fromkeys(item.measure for item in results[0].measures):
        alike = [
            (place, result, item)
            for place, result in enumerate(results)
            for item in result.measures
            if item.measure == kind
        ]
        longest = max(item.p50_ms for _, _, item in alike)
        for place, result, item in alike:
            words = [machine_text(result)] if place else []
            if place and _engine(result) != _engine(results[0]):
                words.append(_engine(result))
            if place and result.weights != results[0].weights:
                words.append(result.weights)
            # A file of a newer mambaport may have a variant that this one does not know.
            words += [] if item.variant == "default" else [VARIANTS.get(item.variant, item.variant)]
            found.append(Row(f"  {', '.join(words)}" if words else kind, item, longest, ours=not place))
    return found


def shape_text(result: Benchmark) -> str:
    """The input of one call."""
    if result.prompt is not None:
        return f"prompt of {result.prompt} tokens"
    return f"image of {result.size} pixels"


def machine_text(result: Benchmark) -> str:
    """A machine in a few words."""
    machine = result.machine
    device = (machine and machine.device) or result.environment.processor or result.environment.arch
    return f"{device}, {threads_text(result.environment)}"


def _weights_text(result: Benchmark) -> str:
    return "" if result.weights == "float32" else f" in {result.weights}"


def _engine(result: Benchmark) -> str:
    return "ONNX Runtime" if result.environment.torch is None else "PyTorch"


def threads_text(environment: Environment) -> str:
    """``1 thread``, ``4 threads``."""
    return f"{environment.threads} thread{'' if environment.threads == 1 else 's'}"


def facts_lines(result: Benchmark) -> Iterator[tuple[str, str]]:
    """The facts that the numbers depend on: pairs of a label and a line."""
    machine, first_measure = result.machine, next(iter(result.measures), None)
    if machine is not None:
        memory = f"{machine.memory_mib / 1024:.1f} GiB"
        yield "machine", f"{machine_text(result)}, {machine.cores} cores, {memory}, {machine.system}"
    yield "runs on", environment_text(result.environment)
    if result.largest_change is not None:
        share = f"{result.largest_change:.2%}"
        yield "change", f"of a logit by {result.weights}: {share} of the largest logit at most"
    if first_measure is not None and first_measure.flops is not None:
        flops = first_measure.flops
        shares = ", ".join(
            f"{name} {count / flops.total:.0%}"
            for name, count in (
                ("projections", flops.projections),
                ("scan", flops.scan),
                ("convolution", flops.convolution),
            )
        )
        yield "FLOPs", f"{_number(flops.total)} per {first_measure.measure}: {shares}"
    yield "heat", heat_text(result)


def heat_text(result: Benchmark) -> str:
    """Temperatures before and after, the clock, and the limits that the machine reports."""
    before, after = result.before, result.after
    parts = [
        f"{zone} {before.temperatures.get(zone, degrees):.0f} to {degrees:.0f} °C"
        for zone, degrees in sorted(result.hottest.items(), key=lambda item: -item[1])[:3]
    ]
    if after.clock_mhz is not None:
        parts.append(f"{after.clock_mhz} MHz")
    parts.append(_throttling_text(after))
    return ", ".join(part for part in parts if part) or "this machine reports no temperatures"


def _throttling_text(state: State) -> str:
    if state.throttling is None:
        return ""
    if state.throttling.now:
        return f"held back now: {', '.join(state.throttling.now)}"
    earlier = ", ".join(state.throttling.since_boot)
    return f"not held back now, but since boot: {earlier}" if earlier else "not held back"


def environment_text(environment: Environment) -> str:
    """The versions in one line."""
    library = f"torch {environment.torch}, mamba-ssm {environment.mamba_ssm}"
    if environment.transformers is not None:
        library += f", transformers {environment.transformers}"
    how = "compiled kernels" if environment.kernels else "pure PyTorch"
    if environment.torch is None:
        library = f"onnxruntime {environment.onnxruntime}"
        how = "compiled kernels" if environment.kernels else "ONNX's own operators"
    return f"{environment.device}, {how}, {library}, Python {environment.python}"


def _table(title: str) -> Table:
    return Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        header_style="quiet",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )


def _bar(share: float, width: int = BAR) -> RenderableType:
    return Bar(1.0, 0.0, share, width=width, color="cyan")


def short(value: float) -> str:
    """A number with three digits and no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _number(count: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"
