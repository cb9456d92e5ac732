"""Needs the patched causal-conv1d and mamba-ssm in the environment, and a C compiler."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks import models, native, operators, report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="counts of threads to run with"
    )
    parser.add_argument(
        "--only", choices=["scan", "conv", "step", "vim", "mamba"], nargs="+", help="parts to run"
    )
    parser.add_argument("--no-ggml", action="store_true", help="do not fetch and build llama.cpp's scan")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("build/benchmarks"), help="folder of the results"
    )
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    externals = {}
    if options.only is None or "scan" in options.only:
        builders = {"roofline": native.roofline} if options.no_ggml else {
            "roofline": native.roofline, "ggml_ssm_scan": native.ggml_scan,
        }  # fmt: skip
        for name, build in builders.items():
            try:
                externals[name] = build(options.output.resolve())
            except RuntimeError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)

    parts = {
        "scan": [lambda n: operators.scan_forward(n, externals), operators.scan_backward],
        "conv": [operators.convolution],
        "step": [operators.steps],
        "vim": [models.vim],
        "mamba": [models.mamba_130m],
    }
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for name, functions in parts.items():
            for function in functions if options.only is None or name in options.only else ():
                for row in function(threads):
                    rows.append(row)
                    print(report.table([row]).splitlines()[-1], file=sys.stderr, flush=True)
    print(report.write(rows, options.output))


if __name__ == "__main__":
    main()
