"""``mambaport export``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from mambaport import __version__
from mambaport.cli.models import request, size_options, threads_option
from mambaport.cli.options import FILE, Session, default_python, output_options, python_option
from mambaport.errors import UsageError
from mambaport.interruption import postponed
from mambaport.report import size_text
from mambaport.running import Export, run_task
from mambaport.running.runner.models import LANGUAGE, VISION
from mambaport.running.tables import export_table
from mambaport.temporary import temporary_folder


@click.command()
@click.option(
    "--model",
    type=click.Choice([*VISION, *LANGUAGE]),
    default="vim-tiny",
    show_default=True,
    help="A Vision Mamba, or a language model.",
)
@click.option(
    "--checkpoint",
    type=FILE,
    metavar="FILE",
    help="Weights: a released .pth or .bin, a state dict or safetensors. By default weights are random.",
)
@click.option(
    "--form",
    type=click.Choice(["standard", "fused"]),
    default="standard",
    show_default=True,
    help="ONNX's own operators, which every runtime takes; or mambaport's, which are faster in ONNX Runtime.",
)
@click.option("--int8", is_flag=True, help="Weights of the projections as int8; the scan stays float32.")
@size_options
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="FILE",
    help="The file to write; by default MODEL-FORM.onnx in this folder.",
)
@threads_option
@python_option
@output_options
def export(
    session: Session,
    model: str,
    checkpoint: Path | None,
    form: str,
    int8: bool,
    size: int | None,
    depth: int | None,
    output: Path | None,
    threads: int | None,
    python: Path | None,
) -> None:
    """Write a model as an ONNX file, and compare the file with PyTorch.

    The batch size, and the length of a language model's input, may differ from call to call. The file runs
    in ONNX Runtime on random inputs of several sizes beside PyTorch: where the results disagree, no file is
    written. A language model's states are inputs and outputs, so one file reads a prompt and decodes token
    by token. Weights of more than 100 MiB are in FILE.data, beside the file.

    \b
    Examples:
      mambaport export --checkpoint vim_t_midclstok_76p1acc.pth -o vim.onnx --python ~/mamba/bin/python
      mambaport export --model mamba-130m --form fused -o mamba.onnx
      mambaport export --model vim-tiny --form fused --int8
    """
    path = output if output is not None else Path(f"{model}-{form}{'-int8' if int8 else ''}.onnx")
    with _scratch(path) as scratch:
        task = request(
            "export",
            model,
            threads,
            "cpu",
            checkpoint=checkpoint,
            form=form,
            int8=int8,
            size=size,
            depth=depth,
            output=scratch / path.name,
            mambaport=__version__,
        )
        made = run_task(default_python(python), task, Export, session.report)
        move_into_place(scratch, path)
    result = made.model_copy(update={"path": str(path)})
    if session.emit(result.to_json()):
        return
    if checkpoint is None:
        session.report.warn("the weights are random; give trained ones with --checkpoint")
    session.report.show(export_table(result))
    session.report.result(
        "file", result.path, f"{size_text(result.bytes)}, opset {result.opset}, {result.nodes} nodes"
    )
    session.report.result(
        "agrees",
        f"largest difference to PyTorch {result.largest_difference:.1e} of the largest logit",
        f"at most {result.allowed_difference:g}; onnxruntime {result.onnxruntime}",
    )


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """A folder beside ``path``, for a file that is not yet compared.

    Raises:
        UsageError: the folder of ``path`` does not exist, or cannot be written to.
    """
    with ExitStack() as stack:
        try:
            scratch = stack.enter_context(temporary_folder(path.absolute().parent))
        except OSError as fault:
            raise UsageError(
                f"{path.parent} cannot be written to", found=fault.strerror, hint="check -o"
            ) from None
        yield scratch


def move_into_place(scratch: Path, path: Path) -> None:
    """Puts a file, and its weights where they are in a file of their own, in place of older ones."""
    with postponed():
        parts = sorted(scratch.iterdir(), key=lambda part: part.name == path.name)  # the weights first
        for part in parts:
            part.chmod(0o644)
            part.replace(path.with_name(part.name))
        if len(parts) == 1:  # the weights of an older file of this name
            path.with_name(path.name + ".data").unlink(missing_ok=True)
