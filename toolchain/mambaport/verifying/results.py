"""What the probe found, and how it is shown."""

from __future__ import annotations

import json
import signal
from typing import Any

from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from mambaport.errors import VerifyError
from mambaport.models import Model
from mambaport.process import Finished

# SIGILL, as Python and as a shell or an emulator give it on.
ILLEGAL_INSTRUCTION = (-signal.SIGILL, 128 + signal.SIGILL)

SEGMENTATION_FAULT = (-signal.SIGSEGV, 128 + signal.SIGSEGV)


class Component(Model):
    """One component on one path."""

    name: str
    path: str
    """``default``, what users get; ``fallback``, pure PyTorch forced by the two variables; or ``gpu``."""
    ok: bool
    input: str = ""
    output: str = ""
    error: float | None = None
    """Largest error relative to the largest value of the float64 reference."""
    bound: float | None = None
    kernels: tuple[str, ...] = ()
    """The compiled modules whose kernels ran for it."""
    seconds: float
    failure: str | None = None
    traceback: str | None = None
    where: str | None = None


class Verification(Model):
    """A run of the probe."""

    python: str
    arch: str
    system: str
    torch: str | None
    """None: ONNX Runtime computed."""
    onnxruntime: str | None = None
    threads: int
    cuda: bool
    """Whether torch sees a GPU."""
    gpu: str | None = None
    cuda_extensions: bool = False
    optional: dict[str, bool]
    components: tuple[Component, ...]
    instruction_sets: dict[str, str] = Field(default_factory=dict)
    """Module of kernels -> the instruction set that its kernels ran on: ``base``, ``dotprod``."""
    emulated: str | None = None
    """The emulated system, when it was one."""
    emulated_cpu: str | None = None
    """The CPU that qemu emulated, by qemu's name."""
    wheels: dict[str, str] = Field(default_factory=dict)
    """The wheels that were proven, where they were given as files: file name -> sha256."""

    @property
    def ok(self) -> bool:
        return all(item.ok for item in self.components)

    @property
    def counts(self) -> dict[str, int]:
        """How many of the computed components ran where: on compiled kernels, in PyTorch, on the GPU."""
        computed = [item for item in self.components if item.bound is not None]
        gpu = [item for item in computed if item.path == "gpu"]
        kernels = [item for item in computed if item.kernels]
        return {"kernels": len(kernels), "pytorch": len(computed) - len(kernels) - len(gpu), "gpu": len(gpu)}

    @property
    def kernel_sets(self) -> str:
        """The instruction sets that the kernels ran on."""
        return " and ".join(sorted(set(self.instruction_sets.values())))

    @property
    def emulation(self) -> str | None:
        """The emulated system and CPU."""
        return f"emulated {self.emulated}, {self.emulated_cpu}" if self.emulated else None

    def to_json(self) -> dict[str, Any]:
        return {**self.model_dump(exclude_none=True), "ran": self.counts, "ok": self.ok}


def engine(result: Verification) -> str:
    """The library that computed, with its version."""
    return f"onnxruntime {result.onnxruntime}" if result.torch is None else f"torch {result.torch}"


def summary(result: Verification) -> str:
    """What ran where, in a line."""
    counts = result.counts
    kernels = f"compiled kernels ({result.kernel_sets})" if result.instruction_sets else "compiled kernels"
    parts = [f"{counts['kernels']} on {kernels}"]
    parts += [f"{counts['pytorch']} in PyTorch"] if result.torch is not None else []
    return ", ".join(parts + [f"{counts['gpu']} on the GPU"] * bool(counts["gpu"]))


def parse(
    finished: Finished,
    emulated: str | None = None,
    emulated_cpu: str | None = None,
    runtime: str = "torch",
) -> Verification:
    """The probe's report from what it printed.

    Args:
        runtime: the library that a crash of the probe points to.

    Raises:
        VerifyError: it ended before it could report.
    """
    for line in reversed(finished.output.splitlines()):
        if line.startswith('{"python"'):
            where = {"emulated": emulated, "emulated_cpu": emulated_cpu}
            return Verification.model_validate({**json.loads(line), **where})
    if runtime == "onnxruntime" and finished.returncode in (*ILLEGAL_INSTRUCTION, *SEGMENTATION_FAULT):
        raise VerifyError(
            "The probe crashed, most likely inside onnxruntime",
            found=f"exit status {finished.returncode}; mambaport's own wheels are audited for this CPU",
            expected="an onnxruntime that runs on this CPU",
            hint="on a Raspberry Pi 4 (Cortex-A72) use onnxruntime 1.27 or older. "
            "`python -c 'import onnxruntime'` shows whether onnxruntime is the cause",
            detail=finished.tail,
        )
    if finished.returncode in ILLEGAL_INSTRUCTION:
        raise VerifyError(
            "The probe met an instruction that this CPU does not have",
            found="SIGILL, most likely inside torch: mambaport's own wheels are audited for this CPU",
            expected="a torch built for this CPU",
            hint="on a Raspberry Pi 4 (Cortex-A72) use torch 2.9.1 or older: torch 2.10.0's aarch64 wheel "
            "does not even import there. `python -c 'import torch'` shows whether torch is the cause",
            detail=finished.tail,
        )
    raise VerifyError(
        "The probe did not finish",
        found=f"exit status {finished.returncode}",
        expected="a report on every component",
        hint="what it printed is below; `mambaport doctor` checks the machine",
        detail=finished.tail,
    )


def table(result: Verification) -> Table:
    """For people: each component with its shapes, and its error on each path."""
    where = result.emulation or result.gpu or "this machine"
    title = f"{result.arch} · Python {result.python} · {engine(result)} · {where}"
    view = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="quiet",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    view.add_column("component", no_wrap=True)
    view.add_column("input", no_wrap=True)
    view.add_column("output", no_wrap=True)
    first = ["default"] if result.torch is None else ["default", "fallback"]
    paths = list(dict.fromkeys([*first, *(item.path for item in result.components)]))
    for path in paths:
        view.add_column(path, justify="right", no_wrap=True)
    by_name: dict[str, list[Component]] = {}
    for item in result.components:
        by_name.setdefault(item.name, []).append(item)
    for name, items in by_name.items():
        cells = {item.path: _cell(item) for item in items}
        failure = next((item.failure for item in items if item.failure), "")
        output = escape(failure or items[0].output)
        view.add_row(name, items[0].input, output, *(cells.get(path, "") for path in paths))
    if result.cuda_extensions and not result.gpu:
        view.caption = "no GPU here: the CUDA extensions were imported, and not run"
    return view


def _cell(item: Component) -> str:
    error = "" if item.error is None else f"{item.error:.1e} "
    return error + ("[good]✓[/good]" if item.ok else "[bad]✗[/bad]")


def failure_text(item: Component) -> str:
    """Why a component failed: its exception, or its error and the bound."""
    return item.failure or f"error {item.error:.1e}, bound {item.bound:.0e}"


def require(result: Verification) -> None:
    """Refuses packages with a failed component.

    Raises:
        VerifyError: with each failure.
    """
    failed = [item for item in result.components if not item.ok]
    if not failed:
        return
    lines = [f"{item.name} ({item.path}): {failure_text(item)}" for item in failed]
    raise VerifyError(
        f"{len(failed)} of {len(result.components)} components failed",
        found="\n".join(lines),
        expected="every component within its bound of the float64 reference",
        hint="`mambaport doctor` checks the machine; --json gives the tracebacks",
        detail=next((item.traceback for item in failed if item.traceback), None),
        data=result.to_json(),
    )
