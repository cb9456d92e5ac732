"""``mambaport evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from mambaport.cli.options import FOLDER, Session, default_python, output_options
from mambaport.cli.page import Page, paged
from mambaport.errors import HostError
from mambaport.running import Evaluation, imagenet_wnids, read_labels, run_task
from mambaport.running.tables import environment_text, evaluation_table


@click.command()
@model_option
@click.option(
    "--data",
    type=FOLDER,
    metavar="DIR",
    required=True,
    help="One folder for each class, with its images in it.",
)
@checkpoint_option
@labels_option
@click.option(
    "--batch", type=click.IntRange(1, 4096), default=1, show_default=True, metavar="N", help="Images at once."
)
@weights_option
@runtime_option
@size_options
@device_options
@output_options
@paged("report-evaluate.html", "Accuracy of a model")
def evaluate(
    session: Session,
    model: str,
    data: Path,
    checkpoint: Path | None,
    labels: Path | None,
    batch: int,
    weights: str,
    runtime: str,
    size: int | None,
    depth: int | None,
    threads: int | None,
    device: str | None,
    python: Path | None,
    page: Page,
) -> None:
    """Measure Vision Mamba's accuracy on a folder of images: top-1, top-5, images per second.

    Folders with ImageNet's names (n01440764) stand for its classes, all or a few. Folders with names of
    --labels stand for these classes. Other folders stand, in sorted order, for the model's classes, and must
    be as many. Images are read as in the original's evaluation, without rotating them as the camera recorded.

    \b
    Examples:
      mambaport evaluate --data imagenet/val --checkpoint vim_t_midclstok_76p1acc.pth
      mambaport evaluate --data parts --checkpoint own.safetensors --labels parts.txt --batch 8
    """
    task = request(
        "evaluate",
        model,
        threads,
        device,
        data=data,
        checkpoint=checkpoint,
        labels=[] if labels is None else list(read_labels(labels)),
        wnids=_wnids(named=labels is not None),
        batch=batch,
        weights=weights,
        runtime=runtime,
        size=size,
        depth=depth,
    )
    result = run_task(default_python(python), task, Evaluation, session.report)
    for item in result.unreadable[:3]:
        session.report.warn(f"left out: {item.what}")
    if len(result.unreadable) > 3:
        session.report.warn(
            f"and {len(result.unreadable) - 3} more that could not be read; --json names them"
        )
    page.values = lambda _error: _page_values(result)
    page.finish()
    if session.emit(result.to_json()):
        return
    session.report.show(evaluation_table(result))
    rate, model_rate = result.images / result.all_seconds, result.images / result.seconds
    session.report.result("speed", f"{rate:.3g} images per second", f"{model_rate:.3g} without reading them")
    warn_of_random_weights(session, result.checkpoint)
    end(session, f"{result.model}, {batch} at once", result.environment, result.peak_bytes)


def _page_values(result: Evaluation) -> dict[str, Any]:
    """The values of the page: the accuracy, what it depends on, and the images that were left out."""
    return {
        "title": f"Accuracy of {result.model}",
        "verdict": f"{result.images} images of {result.classes} classes",
        "facts": [
            ("checkpoint", result.checkpoint or "none: the weights are random"),
            ("images", f"{result.data}, {result.batch} at once"),
            ("runs on", environment_text(result.environment)),
            ("speed", f"{result.images / result.all_seconds:.3g} images per second"),
        ],
        "rows": [
            {"name": name, "right": right, "images": result.images, "share": right / result.images}
            for name, right in (("top-1", result.top1), ("top-5", result.top5))
        ],
        "unreadable": [item.model_dump() for item in result.unreadable],
    }


def _wnids(*, named: bool) -> list[str]:
    """The names of ImageNet's folders; without the extra ``run``, empty where the user has named the classes.

    Raises:
        HostError: the extra is missing, and the classes are not named.
    """
    try:
        return list(imagenet_wnids())
    except HostError:
        if named:
            return []
        raise
