"""Needs the patched causal-conv1d and mamba-ssm in the environment, and a C compiler."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks import mamba3, memory, models, native, operators, quantized, report
from benchmarks.timing import Figure, Row

PARTS = ("scan", "backward", "memory", "conv", "step", "vim", "mamba", "quantized", "tokens")
OF_LINE_2_3 = ("mamba3", "mamba3-backward", "mamba3-step")
"""Parts that need Mamba-3, which the default release line does not have."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="counts of threads to run with"
    )
    choices = (*PARTS, *OF_LINE_2_3)
    parser.add_argument("--only", choices=choices, nargs="+", default=PARTS, help="parts to run")
    parser.add_argument("--no-llama", action="store_true", help="do not fetch and build llama.cpp")
    parser.add_argument(
        "--add", action="store_true", help="keep what the folder has of other parts and threads"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("build/benchmarks"), help="folder of the results"
    )
    options = parser.parse_args()
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [(threads, name) for threads in options.threads for name in options.only]
    if len(pieces) == 1:
        run(*pieces[0], folder, options.add, not options.no_llama)
        return
    same = ["-o", str(folder), *(["--no-llama"] if options.no_llama else [])]
    add = options.add
    for threads, name in pieces:
        # In a process of its own: the threads and the memory that one leaves behind slow the next.
        piece = [sys.executable, "-m", "benchmarks", "--only", name, "--threads", str(threads), *same]
        subprocess.run([*piece, *(["--add"] if add else [])], check=True, stdout=subprocess.DEVNULL)
        add = True
    print((folder / "results.md").read_text())


def run(threads: int, part: str, folder: Path, add: bool, with_llama: bool) -> None:
    """Run one part and write its rows to the folder, beside those there or, without `add`, in their place."""
    built = build(folder, part, threads, with_llama)
    scans = {name: built[name] for name in ("roofline", "ggml_ssm_scan") if name in built}
    parts = {
        "scan": lambda n: operators.scan_forward(n, scans),
        "backward": operators.scan_backward,
        "memory": memory.scan_memory,
        "conv": operators.convolution,
        "step": operators.steps,
        "vim": models.vim,
        "mamba3": mamba3.forward,
        "mamba3-backward": mamba3.backward,
        "mamba3-step": mamba3.token,
        "quantized": lambda n: quantized.quantized_130m(n, built.get("llama.cpp"), folder),
        "tokens": lambda n: quantized.tokens_130m(n, folder),
        "mamba": lambda n: models.mamba_130m(n, built.get("llama.cpp"), folder),
    }
    rows = {}
    if add and (folder / "results.json").exists():
        for row in json.loads((folder / "results.json").read_text())["rows"]:
            row.pop("met")
            figures = {name: Figure(**figure) for name, figure in row.pop("figures").items()}
            rows[row["work"], row["threads"]] = Row(figures=figures, **row)
    torch.set_num_threads(threads)
    for row in parts[part](threads):
        rows[row.work, row.threads] = row
        print(report.table([row]).splitlines()[-1], file=sys.stderr, flush=True)
        report.write(list(rows.values()), folder)
    print(report.write(list(rows.values()), folder))


def build(folder: Path, part: str, threads: int, with_llama: bool) -> dict:
    """The candidates that are C programs; one that cannot be built is left out, and said so."""
    wanted = {}
    if part == "scan" and threads == 1:  # one core's
        wanted["roofline"] = native.roofline
    if with_llama and part == "scan":
        wanted["ggml_ssm_scan"] = native.ggml_scan
    if with_llama and part in ("mamba", "quantized"):
        wanted["llama.cpp"] = native.llama
    built = {}
    for name, make in wanted.items():
        try:
            built[name] = make(folder)
        except RuntimeError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return built


if __name__ == "__main__":
    main()
