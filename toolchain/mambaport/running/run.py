"""Starts the runner in the target interpreter and reads its answers."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from mambaport import process
from mambaport.errors import HostError, MambaportError, RunError, UsageError
from mambaport.interpreter import python_environment
from mambaport.models import Model, validate
from mambaport.report import Report

RUNNER = Path(__file__).with_name("runner")
MARK = "\x1emambaport "
"""The start of each line of the runner; libraries print to the same stream."""
KINDS: dict[str, type[MambaportError]] = {"usage": UsageError, "host": HostError, "run": RunError}
M = TypeVar("M", bound=Model)


def run_task(python: Path, request: dict[str, Any], result: type[M], report: Report) -> M:
    """Runs ``request["task"]`` in the environment of ``python``.

    Raises:
        HostError: ``python`` cannot be run, or lacks a package.
        UsageError: a file that the user named does not exist.
        RunError: a file does not fit the model, or the interpreter died.
    """
    if not os.access(python, os.X_OK) or python.is_dir():
        raise HostError(
            f"{python} cannot be run",
            found="no such file" if not python.exists() else "not a program",
            expected="the Python of the environment that has torch and the wheels",
            hint="name that interpreter, for example --python .venv/bin/python",
        )
    last: dict[str, Any] = {}
    steps = report.steps(request["task"], request["model"])
    with tempfile.TemporaryDirectory(prefix="mambaport-") as scratch, steps as step:
        path = Path(scratch, "request.json")
        path.write_text(json.dumps(request), encoding="utf-8")

        def on_line(line: str) -> None:
            if not line.startswith(MARK):
                return
            nonlocal last
            last = json.loads(line.removeprefix(MARK))
            if "stage" in last:
                step(last["stage"], last.get("done"), last.get("total"))

        finished = process.run([python, RUNNER, path], env=_environment(), on_line=on_line, keep_lines=200)
    if "error" in last:
        fields = dict(last["error"])
        raise KINDS[fields.pop("kind")](fields.pop("what"), **fields)
    if "result" not in last:
        raise _died(python, finished)
    return validate(result, last["result"], RUNNER)


def _environment() -> dict[str, str]:
    """The runner's variables. Waiting threads of torch's OpenMP library sleep early, unless the user chose.

    By default they spin for milliseconds. Beside another program they spin in place of the thread that is
    waited for: two threads then take six times as long as one.
    """
    variables = python_environment()
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & variables.keys():
        variables["GOMP_SPINCOUNT"] = "1000"
    return variables


def _died(python: Path, finished: process.Finished) -> MambaportError:
    number = finished.returncode
    number = number - 128 if number > 128 else -number
    if number == signal.SIGILL:
        return RunError(
            "The model met an instruction that this CPU does not have",
            found="SIGILL, most likely inside torch: mambaport's own wheels are audited for this CPU",
            hint="`mambaport verify` says more; on a Raspberry Pi 4 use torch 2.9.1 or older",
        )
    if number == signal.SIGKILL:
        return RunError(
            "The model was killed while it ran",
            found="SIGKILL, which the kernel sends when memory runs out",
            hint="a smaller model, --batch 1, or more swap",
        )
    return RunError(
        "The model did not finish",
        found=f"exit status {finished.returncode} of {python}",
        hint="the program's output is below; `mambaport verify` shows whether the packages work",
        detail=finished.tail,
    )
