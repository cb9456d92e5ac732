"""``mambaport infer``."""

from __future__ import annotations

from pathlib import Path

import click

from mambaport.cli.models import (
    checkpoint_option,
    device_options,
    end,
    labels_option,
    model_option,
    request,
    runtime_option,
    size_options,
    warn_of_random_weights,
    weights_option,
)
from mambaport.cli.options import FILE, Session, default_python, output_options
from mambaport.errors import UsageError
from mambaport.running import Inference, Labels, imagenet_labels, read_labels, run_task
from mambaport.running.tables import classes_table


@click.command()
@model_option
@click.option(
    "--image",
    "images",
    type=FILE,
    metavar="FILE",
    required=True,
    multiple=True,
    help="An image; can be given several times.",
)
@checkpoint_option
@labels_option
@click.option(
    "--top", type=click.IntRange(min=1), default=5, show_default=True, metavar="N", help="How many classes."
)
@weights_option
@runtime_option
@size_options
@device_options
@output_options
def infer(
    session: Session,
    model: str,
    images: tuple[Path, ...],
    checkpoint: Path | None,
    labels: Path | None,
    top: int,
    weights: str,
    runtime: str,
    size: int | None,
    depth: int | None,
    threads: int | None,
    device: str | None,
    python: Path | None,
) -> None:
    """Classify images with Vision Mamba: the most probable classes of each.

    The image is rotated as its camera recorded, then scaled, cut and normalized as in the original.

    \b
    Examples:
      mambaport infer --image cat.jpg --checkpoint vim_t_midclstok_76p1acc.pth --python ~/mamba/bin/python
      mambaport infer --model vim-small --image a.jpg --image b.png --checkpoint vim_s_midclstok_80p5acc.pth
      mambaport infer --image cat.jpg --runtime onnx --checkpoint vim.onnx
      mambaport infer --image part.jpg --checkpoint own.safetensors --labels parts.txt --threads 4
    """
    names = imagenet_labels() if labels is None else read_labels(labels)
    task = request(
        "infer",
        model,
        threads,
        device,
        images=[str(path.resolve()) for path in images],
        checkpoint=checkpoint,
        top=top,
        weights=weights,
        runtime=runtime,
        size=size,
        depth=depth,
    )
    result = run_task(default_python(python), task, Inference, session.report)
    result = _named(result, names, labels)
    if session.emit(result.to_json()):
        return
    for image in result.images:
        session.report.show(classes_table(image))
        read, model_seconds = image.read_seconds, image.seconds
        session.report.result(
            "time", f"{model_seconds * 1e3:.0f} ms in the model", f"{read * 1e3:.0f} ms to read the image"
        )
    warn_of_random_weights(session, result.checkpoint)
    end(session, f"{result.model} at {result.size} pixels", result.environment, result.peak_bytes)


def _named(result: Inference, names: Labels, path: Path | None) -> Inference:
    """The result with the name of each class, if the model has as many classes as there are names.

    Raises:
        UsageError: the user's file ``path`` has more or fewer names than the model has classes.
    """
    if len(names) != result.class_count:
        if path is None:
            return result
        raise UsageError(
            f"{path} does not name this model's classes",
            found=f"{len(names)} names",
            expected=f"{result.class_count}, one for each class",
            hint="give one name a line, in the order of the model's classes, or leave --labels out",
        )
    images = tuple(
        image.model_copy(
            update={
                "classes": tuple(
                    item.model_copy(update={"label": names[item.index]}) for item in image.classes
                )
            }
        )
        for image in result.images
    )
    return result.model_copy(update={"images": images})
