"""Options of the commands that run a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mambaport.cli.options import FILE, Session, python_option
from mambaport.errors import UsageError
from mambaport.host import read_host
from mambaport.report import size_text
from mambaport.running.results import Environment
from mambaport.running.runner.models import VISION
from mambaport.running.tables import environment_text, threads_text

model_option = click.option(
    "--model",
    type=click.Choice(list(VISION)),
    default="vim-tiny",
    show_default=True,
    help="Which Vision Mamba.",
)
checkpoint_option = click.option(
    "--checkpoint",
    type=FILE,
    metavar="FILE",
    help="Weights: a released .pth, a state dict or safetensors. By default weights are random.",
)
labels_option = click.option(
    "--labels",
    type=FILE,
    metavar="FILE",
    help="Names of the classes, one a line or JSON; by default ImageNet's where there are 1000.",
)


threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads of torch; by default torch chooses.",
)


weights_option = click.option(
    "--weights",
    type=click.Choice(["float32", "int8", "int4"]),
    default="float32",
    show_default=True,
    help="int8, int4: weights of 8 or 4 bits, on a CPU.",
)


def device_options(function: Any) -> Any:
    """``--threads``, ``--device``, ``--python``."""
    function = python_option(function)
    function = click.option(
        "--device",
        type=click.Choice(["cpu", "cuda"]),
        help="By default the GPU where torch finds one, else the CPU.",
    )(function)
    return threads_option(function)


runtime_option = click.option(
    "--runtime",
    type=click.Choice(["torch", "onnx"]),
    default="torch",
    show_default=True,
    help="onnx: --checkpoint is a file of `mambaport export`; the environment needs no torch.",
)


def size_options(function: Any) -> Any:
    """``--size``, ``--depth``."""
    function = click.option(
        "--depth",
        type=click.IntRange(1, 1000),
        metavar="N",
        help="Another number of blocks, for a quick trial with random weights.",
    )(function)
    return click.option(
        "--size",
        type=click.IntRange(1, 4096),
        metavar="PIXELS",
        help="Another image size; by default the checkpoint's, or 224.",
    )(function)


def request(task: str, model: str, threads: int | None, device: str | None, **rest: Any) -> dict[str, Any]:
    """The request for the runner.

    Raises:
        UsageError: more threads than processors, or a size that does not divide into whole patches.
    """
    cores = read_host().cores
    if threads is not None and threads > cores:
        raise UsageError(
            f"{threads} threads are more than this machine can run at once",
            expected=f"--threads 1 to {cores}",
            hint=f"--threads {cores}, or leave the option out",
        )
    if rest.get("runtime") == "onnx":
        _check_onnx(model, device, rest)
    if rest.get("weights", "float32") != "float32" and device == "cuda":
        raise UsageError(
            f"--weights {rest['weights']} is for a CPU",
            found="--device cuda",
            hint="--device cpu, or leave --weights out",
        )
    size, shape = rest.get("size"), VISION.get(model)
    if size is not None and shape is None:
        raise UsageError(
            f"{model} reads no images, so --size has no effect", hint="leave --size out, or give --prompt N"
        )
    if size is not None and shape is not None and not shape.takes(size):
        raise UsageError(
            f"{model} takes no image of {size} pixels",
            expected=f"{shape.patch} pixels, or that and a multiple of {shape.stride}",
            hint=f"--size {shape.patch + shape.stride * max(0, round((size - shape.patch) / shape.stride))}",
        )
    paths = {name: str(value.resolve()) for name, value in rest.items() if isinstance(value, Path)}
    return {"task": task, "model": model, "threads": threads, "device": device, **rest, **paths}


def _check_onnx(model: str, device: str | None, rest: dict[str, Any]) -> None:
    """Raises UsageError for options that have no meaning with --runtime onnx."""
    if rest.get("checkpoint") is None:
        raise UsageError(
            "--runtime onnx runs a file, and none is named",
            expected="--checkpoint FILE.onnx",
            hint=f"write the file where torch is: mambaport export --model {model} -o FILE.onnx",
        )
    fixed = {
        "--size": rest.get("size"),
        "--depth": rest.get("depth"),
        "--device cuda": device == "cuda",
        "--weights": rest.get("weights", "float32") != "float32",
    }
    given = [name for name, value in fixed.items() if value]
    if given:
        raise UsageError(
            f"{given[0]} has no effect with --runtime onnx: the file has one model",
            hint=f"leave {given[0]} out, or export another file",
        )


def warn_of_random_weights(session: Session, checkpoint: str | None) -> None:
    """Warns where no checkpoint was given."""
    if checkpoint is None:
        session.report.warn(
            "the weights are random, so the classes mean nothing; give trained ones with --checkpoint"
        )


def end(session: Session, what: str, environment: Environment, peak_bytes: int | None) -> None:
    """Prints the last line: the work, the threads, the memory and the environment."""
    memory = "" if peak_bytes is None else f", {size_text(peak_bytes)} of memory at most"
    session.report.result(
        "ran", f"{what} with {threads_text(environment)}{memory}", environment_text(environment)
    )
