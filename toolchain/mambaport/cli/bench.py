"""``mambaport bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from mambaport import __version__
from mambaport.cli.hf import HF, ModelType, read_config
from mambaport.cli.models import device_options, request, runtime_option, size_options, weights_option
from mambaport.cli.options import FILE, Session, default_python, output_options
from mambaport.cli.page import Page, paged
from mambaport.errors import UsageError
from mambaport.host import read_host
from mambaport.running import Benchmark, Machine, run_task
from mambaport.running.plot import plot
from mambaport.running.runner.models import LANGUAGE, VISION
from mambaport.running.tables import benchmark_table, facts_lines, machine_text, rows, shape_text

WITHIN = ("fallback", "float32")
"""What --compare measures in the same run."""
BUSY = 0.5
"""The load per core above which times are not reliable."""


@click.command()
@click.option(
    "--model",
    type=ModelType([*VISION, *LANGUAGE]),
    default="vim-tiny",
    show_default=True,
    help="A Vision Mamba, a language model, or hf: and the path of a config.json of transformers.",
)
@click.option(
    "--compare",
    metavar="WITH",
    multiple=True,
    help="In the same run: fallback, the packages in pure PyTorch; float32, beside --weights int8 or int4. "
    "Or the JSON file of another run, on any machine.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 3600),
    default=5.0,
    show_default=True,
    metavar="S",
    help="How long each measure takes; five runs at least.",
)
@click.option(
    "--prompt",
    type=click.IntRange(1, 65536),
    default=512,
    show_default=True,
    metavar="N",
    help="Tokens that a language model reads before the one that it decodes.",
)
@weights_option
@runtime_option
@click.option(
    "--checkpoint",
    type=FILE,
    metavar="FILE.onnx",
    help="With --runtime onnx: the file, which says which model it holds.",
)
@size_options
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Write the result to this file as JSON.")
@click.option("--plot", "plot_file", type=FILE, metavar="FILE", help="Write a plot to this file as SVG.")
@device_options
@output_options
@paged("report-bench.html", "Speed of a model")
def bench(
    session: Session,
    model: str,
    compare: tuple[str, ...],
    seconds: float,
    prompt: int,
    weights: str,
    runtime: str,
    checkpoint: Path | None,
    size: int | None,
    depth: int | None,
    output: Path | None,
    plot_file: Path | None,
    threads: int | None,
    device: str | None,
    python: Path | None,
    page: Page,
) -> None:
    """Measure a model on this machine: latency, throughput, operations, memory and heat.

    Weights are random, so nothing has to be downloaded. p50 is the median of the runs, and one run in
    twenty takes longer than p95. A language model is measured twice: reading a prompt, decoding one token.
    On a GPU, an image and a token are also measured as a CUDA graph.

    With --runtime onnx, a file of `mambaport export` is measured in an environment without torch, with the
    file's weights.

    With hf:CONFIG.json, the environment needs transformers 5.15 or newer. The model is measured with
    mamba_ssm and causal_conv1d, and without, in float32.

    \b
    Examples:
      mambaport bench --python ~/mamba/bin/python
      mambaport bench --model mamba-130m --threads 4 --compare fallback
      mambaport bench -o pi5.json --plot pi5.svg --report pi5.html
      mambaport bench --compare pi5.json
      mambaport bench --model mamba-130m --weights int8 --compare float32
      mambaport bench --runtime onnx --checkpoint vim.onnx --threads 1
      mambaport bench --model hf:falcon-mamba/config.json --prompt 128 --threads 1
    """
    _check_runtime(runtime, model, checkpoint, compare)
    _check_weights(weights, model, compare)
    extra: dict[str, Any] = {}
    if model.startswith(HF):
        path = Path(model.removeprefix(HF))
        extra = {"config": read_config(path, size=size, depth=depth), "path": str(path)}
        model = HF + extra["config"]["model_type"]
    others = [_read(Path(item)) for item in compare if item not in WITHIN]
    if runtime == "torch":
        _same_model(model, others)
    task = request(
        "bench",
        model,
        threads,
        device,
        fallback="fallback" in compare,
        compare_float32="float32" in compare,
        seconds=seconds,
        prompt=prompt,
        weights=weights,
        runtime=runtime,
        checkpoint=checkpoint,
        size=size,
        depth=depth,
        **extra,
    )
    result = run_task(default_python(python), task, Benchmark, session.report)
    _same_model(result.model, others)
    host = read_host()
    machine = Machine(
        arch=host.arch, system=host.system, device=host.device, cores=host.cores, memory_mib=host.memory_mib
    )
    result = result.model_copy(update={"machine": machine, "mambaport": __version__})
    for other in others:
        _same_work(result, other)
    if result.before.load > BUSY * host.cores:
        session.report.warn(
            f"other programs were running (load {result.before.load:.1f} on {host.cores} cores): "
            "the times are longer than on an idle machine"
        )
    if output is not None:
        output.write_text(json.dumps(result.to_json(), indent=2) + "\n", encoding="utf-8")
    if plot_file is not None:
        plot_file.write_text(plot([result, *others]), encoding="utf-8")
    page.values = lambda _error: _page_values([result, *others])
    page.finish()
    if session.emit(result.to_json()):
        return
    session.report.show(benchmark_table([result, *others]))
    for word, line in facts_lines(result):
        session.report.result(word, line)


def _page_values(results: list[Benchmark]) -> dict[str, Any]:
    """The values of the page: the measures of one run or of several, and what they depend on."""
    ours = results[0]
    base = {item.measure: item.p50_ms for item in ours.measures if item.variant == "default"}
    return {
        "title": f"Speed of {ours.model}",
        "verdict": f"{shape_text(ours)}, {machine_text(ours)}",
        "facts": list(facts_lines(ours)),
        "unit": ours.measures[0].unit,
        "rows": [
            {
                **row.measure.model_dump(),
                "name": row.name,
                "share": row.measure.p50_ms / row.longest,
                "times": row.measure.p50_ms / base[row.measure.measure],
            }
            for row in rows(results)
        ],
    }


def _check_weights(weights: str, model: str, compare: tuple[str, ...]) -> None:
    """Raises UsageError for options that have no meaning with these weights."""
    if weights != "float32" and model.startswith(HF):
        raise UsageError(
            f"--weights {weights} is for mambaport's models, and {model} is one of transformers",
            expected=f"--model {', '.join([*VISION, *LANGUAGE])}",
            hint="leave --weights out",
        )
    if weights == "float32" and "float32" in compare:
        raise UsageError(
            "--compare float32 compares float32 with itself",
            hint="--weights int8 or int4 beside it, or leave --compare float32 out",
        )


def _check_runtime(runtime: str, model: str, checkpoint: Path | None, compare: tuple[str, ...]) -> None:
    """Raises UsageError for options that have no meaning with a runtime."""
    if runtime == "torch" and checkpoint is not None:
        raise UsageError(
            "--checkpoint has no effect in torch: a time does not depend on the weights",
            hint="leave --checkpoint out; --runtime onnx measures a file of `mambaport export`",
        )
    if runtime == "onnx" and "fallback" in compare:
        raise UsageError(
            "--compare fallback needs torch, and --runtime onnx runs without torch",
            hint="measure both forms of the model, and compare the files of `mambaport bench -o`",
        )
    if runtime == "onnx" and model.startswith(HF):
        raise UsageError(
            "A model of transformers is measured in torch alone",
            found=f"--model {model} with --runtime onnx",
            hint="leave --runtime out",
        )


def _read(path: Path) -> Benchmark:
    """Reads the result of another run."""
    try:
        other = Benchmark.model_validate_json(path.read_bytes())
    except OSError as fault:
        raise UsageError(
            f"The result to compare with cannot be read: {path}",
            found=fault.strerror,
            expected="fallback, float32, or a file that `mambaport bench -o` wrote",
            hint="write that file first: `mambaport bench -o FILE` on the other machine",
        ) from None
    except ValidationError as fault:
        raise UsageError(
            f"{path} is not the result of a benchmark",
            found=f"{fault.error_count()} faults, the first: {fault.errors()[0]['msg']}",
            expected="a file that `mambaport bench -o` wrote",
            hint="name a file that `mambaport bench -o` wrote, of this version of mambaport",
        ) from None
    return other


def _same_model(model: str, others: list[Benchmark]) -> None:
    for other in others:
        if other.model != model:
            raise UsageError(
                "The other run measured another model",
                found=other.model,
                expected=model,
                hint=f"--model {other.model}, or with --runtime onnx the --checkpoint of that model",
            )


def _same_work(ours: Benchmark, other: Benchmark) -> None:
    for name in ("size", "depth", "prompt", "parameters"):
        our_value, other_value = getattr(ours, name), getattr(other, name)
        if our_value != other_value and ours.model.startswith(HF) and name != "prompt":
            raise UsageError(
                "The other run measured another configuration",
                found=f"{name} {other_value}",
                expected=f"{name} {our_value}",
                hint="measure the same config.json on both machines",
            )
        if our_value != other_value:
            raise UsageError(
                "The other run measured other work",
                found=f"{name} {other_value}",
                hint=f"--{name} {other_value}",
            )
