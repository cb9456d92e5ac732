"""How time per step and memory grow with the length of the sequence; each candidate in a process of its own.

malloc returns blocks above 32 MB to the system, and a new block costs a page fault for each 4 kB. So times
are measured with malloc told to keep all memory, and the peak of memory in a second process, without that.

usage: python -m benchmarks.length [-o FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks import operators, peers
from benchmarks.memory import _megabytes
from benchmarks.report import machine

DIM = 384
"""Channels of the scan; the layers have half as many, and expand them to this number."""
LENGTHS = (64, 256, 1024, 4096, 16384, 65536)
SECONDS, FEWEST, MOST = 1.0, 3, 200
"""Runs of one length: about a second, between 3 and 200."""
KEPT = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
"""Settings of glibc's malloc with which it keeps all memory."""
CANDIDATES = ("selective scan", "upstream's reference scan", "Mamba", "Mamba2", "Mamba3")
LONGEST = {"upstream's reference scan": 4096}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.length", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/benchmarks"), metavar="FOLDER")
    parser.add_argument("--times", choices=CANDIDATES, help="measure this candidate's times in this process")
    parser.add_argument(
        "--memory", choices=CANDIDATES, help="measure this candidate's memory in this process"
    )
    options = parser.parse_args()
    if options.times or options.memory:
        print(json.dumps(times(options.times) if options.times else memory(options.memory)))
        return
    import mamba_ssm

    rows = []
    for name in CANDIDATES:
        if hasattr(mamba_ssm, name) or "scan" in name:
            parts = [ask("--times", name, KEPT), ask("--memory", name, {})]
            rows.append({"name": name, "points": [{**one, **two} for one, two in zip(*parts, strict=True)]})
            print(line(rows[-1]), file=sys.stderr, flush=True)
    policy = "malloc keeps all memory while times are taken"
    results = {**machine(), "dim": DIM, "threads": 1, "memory": policy, "rows": rows}
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "length.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(rows))


def ask(option: str, name: str, variables: dict[str, str]) -> list[dict[str, float]]:
    """The points of a candidate, from a process of its own."""
    words = [sys.executable, "-m", "benchmarks.length", option, name]
    environment = {**os.environ, **variables}
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout)


def table(rows: list[dict]) -> str:
    """A line per candidate: nanoseconds per step, and MB at the height of the longest call."""
    head = "| ns per step | " + " | ".join(f"L {length}" for length in LENGTHS) + " | MB at the longest |"
    return "\n".join([head, "|---" * (2 + len(LENGTHS)) + "|", *map(line, rows)])


def line(row: dict) -> str:
    by_length = {point["length"]: point for point in row["points"]}
    cells = [f"{by_length[n]['ns_per_step']:.4g}" if n in by_length else "" for n in LENGTHS]
    return f"| {row['name']} | " + " | ".join(cells) + f" | {row['points'][-1]['megabytes']:.3g} |"


def calls(name: str) -> Iterator[tuple[int, Callable[[], object]]]:
    """Each length with the call to measure, made when it is needed."""
    torch.set_num_threads(1)
    with torch.no_grad():
        make = candidate(name)
        make(64)()  # whatever is set up once
        for length in (item for item in LENGTHS if item <= LONGEST.get(name, item)):
            yield length, make(length)


def times(name: str) -> list[dict[str, float]]:
    """Processor time of one thread: the median of the runs after the first."""
    points = []
    for length, call in calls(name):
        call()
        taken: list[float] = []
        while len(taken) < FEWEST or (sum(taken) < SECONDS and len(taken) < MOST):
            started = time.thread_time()
            call()
            taken.append(time.thread_time() - started)
        nanoseconds = statistics.median(taken) * 1e9 / length
        points.append({"length": length, "ns_per_step": nanoseconds, "runs": len(taken)})
    return points


def memory(name: str) -> list[dict[str, float]]:
    """The peak of memory of one call with its output, beside its inputs."""
    points = []
    for _, call in calls(name):
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
        before = _megabytes("VmRSS")
        call()
        points.append({"megabytes": _megabytes("VmHWM") - before})
    return points


def candidate(name: str) -> Callable[[int], Callable[[], object]]:
    """A function that makes the inputs of a length and returns the call to time."""
    if "scan" in name:
        scan = peers.scans()["reference" if "reference" in name else "kernel"]

        def scans(length: int) -> Callable[[], object]:
            inputs = operators.scan_inputs(DIM, length)
            return lambda: scan(*inputs, True)

        return scans
    import mamba_ssm

    mixer = getattr(mamba_ssm, name)(DIM // 2, **({"headdim": 64} if name != "Mamba" else {})).eval()

    def layers(length: int) -> Callable[[], object]:
        x = torch.randn(1, length, DIM // 2)
        return lambda: mixer(x)

    return layers


if __name__ == "__main__":
    main()
