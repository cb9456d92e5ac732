"""What a scan takes from memory at its height, beside its inputs; each candidate in a process of its own.

usage: python -m benchmarks.memory CANDIDATE DIM SEQLEN
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import operators, peers
from benchmarks.timing import Figure, Row

DIM, SEQLEN = 1536, 2048


def scan_memory(threads: int) -> Iterator[Row]:
    megabytes = {name: _ask(name) for name in peers.scans()}
    figures = {name: Figure(size, size, size / megabytes["kernel"]) for name, size in megabytes.items()}
    work = f"selective scan, forward, d {DIM}, L {SEQLEN}: peak memory with its output"
    yield Row(work, threads, figures, unit="MB", goals={"reference": 20.0} if threads == 1 else {})


def _ask(candidate: str) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", candidate, str(DIM), str(SEQLEN)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(candidate: str, dim: int, seqlen: int) -> None:
    torch.set_num_threads(1)
    scan = peers.scans()[candidate]
    with torch.no_grad():
        scan(*operators.scan_inputs(32, 32), True)  # whatever is set up once
        inputs = operators.scan_inputs(dim, seqlen)
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
        before = _megabytes("VmRSS")
        out = scan(*inputs, True)
    print(_megabytes("VmHWM") - before)
    del out


def _megabytes(name: str) -> float:
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024e-6


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
