"""How time and memory of one layer grow with the length of the sequence; each layer in a process of its own.

usage: python -m benchmarks.length [LAYER]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.memory import _megabytes

WIDTH = 768
LENGTHS = (1024, 2048, 4096, 8192, 16384)
RUNS = 5


def main() -> None:
    """A row for each layer of the installed mamba_ssm."""
    import mamba_ssm

    print("| layer, milliseconds; MB beside the input |", " | ".join(f"L {n}" for n in LENGTHS), "|")
    print("|---" * (1 + len(LENGTHS)) + "|")
    for layer in ("Mamba", "Mamba2", "Mamba3"):
        if hasattr(mamba_ssm, layer):
            subprocess.run([sys.executable, "-m", "benchmarks.length", layer], check=True)


def row(layer: str) -> None:
    """Processor time of one thread, the median of RUNS, and the peak of memory of a call with its output."""
    import mamba_ssm

    torch.set_num_threads(1)
    mixer = getattr(mamba_ssm, layer)(WIDTH).eval()
    cells = []
    with torch.no_grad():
        mixer(torch.randn(1, 64, WIDTH))  # whatever is set up once
        for length in LENGTHS:
            x = torch.randn(1, length, WIDTH)
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
            before = _megabytes("VmRSS")
            mixer(x)
            peak = _megabytes("VmHWM") - before
            times = []
            for _ in range(RUNS):
                started = time.thread_time()
                mixer(x)
                times.append(1e3 * (time.thread_time() - started))
            cells.append(f"{statistics.median(times):.4g}; {peak:.3g}")
    print(f"| {layer} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    row(sys.argv[1]) if len(sys.argv) > 1 else main()
