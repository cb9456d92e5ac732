"""Runs kernels of a wheel on each instruction set of the processor, without torch, so it starts in a second.

Usage: ``python kernel_calls.py FOLDER [SET]``. FOLDER holds ``selective_scan_cpu/libselective_scan_cpu.so``.
Prints one JSON object: the sets that the processor has; for each set a digest of a norm of rows in bfloat16
and float16, and the results of a scan. With SET, that set alone is used, whatever the processor has: a guard
that is left out.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import random
import struct
import sys
from pathlib import Path
from typing import Any

ROWS, DIM = 8, 102  # no multiple of four: the last features are converted one by one
BFLOAT16, FLOAT16 = 1, 2
CHANNELS, STATES, STEPS = 10, 8, 70
FORMATS = {"integer": "q", "flag": "q", "real": "d", "tensor": "6q", "indices": "q", "floats": "q"}
ABSENT = (0, 0, 0, 0, 0, 0)


class Kernels:
    """The library, called by names of fields, which its description lists."""

    def __init__(self, folder: str) -> None:
        self._library = ctypes.CDLL(str(Path(folder, "selective_scan_cpu", "libselective_scan_cpu.so")))
        self._library.kernel_interface.restype = ctypes.c_char_p
        entries = (line.partition(":") for line in self._library.kernel_interface().decode().splitlines())
        self._entries = {
            name: [part.strip() for part in parts.split(",") if part.strip()] for name, _, parts in entries
        }

    @property
    def sets(self) -> list[str]:
        """Every instruction set, the processor's or not."""
        return self._entries["instruction_sets"]

    @property
    def available(self) -> list[str]:
        return self.sets[: self._library.best_instruction_set() + 1]

    def use(self, name: str) -> None:
        """Chooses a set; the caller is the guard."""
        self._library.use_instruction_set(self.sets.index(name))

    def call(self, name: str, **values: Any) -> None:
        """Fields that are not given are zero, or absent."""
        packed = b""
        for field in self._entries[name]:
            kind, title = field.split()
            value = values.pop(title, ABSENT if kind == "tensor" else 0)
            packed += struct.pack("=" + FORMATS[kind], *(value if kind == "tensor" else [value]))
        assert not values, f"{name} has no {', '.join(values)}"
        assert getattr(self._library, name)(packed) == 0


def norm(kernels: Kernels, dtype: int) -> bytes:
    """The bytes of both results of a norm of random rows in 16 bits."""
    words = random.Random(0)
    below = 0x7F80 if dtype == BFLOAT16 else 0x7C00  # no infinity, no NaN
    numbers = [words.randrange(below) | words.randrange(2) << 15 for _ in range(ROWS * DIM)]
    x = (ctypes.c_uint16 * (ROWS * DIM))(*numbers)
    total, out = (ctypes.c_uint16 * len(x))(), (ctypes.c_uint16 * len(x))()
    weight = (ctypes.c_float * DIM)(*(words.uniform(-2, 2) for _ in range(DIM)))

    def rows(array: Any) -> tuple[int, ...]:
        return (ctypes.addressof(array), dtype, DIM, 1, 0, 0)

    kernels.call(
        "layer_norm",
        rows=ROWS,
        dim=DIM,
        group=DIM,
        rms=1,
        threads=1,
        eps=1e-5,
        x=rows(x),
        residual=rows(x),
        out=rows(out),
        total=rows(total),
        weight=(ctypes.addressof(weight), 0, 1, 0, 0, 0),
    )
    return bytes(total) + bytes(out)


def scan(kernels: Kernels) -> list[float]:
    """The outputs of a scan of random numbers, with slow and fast decays."""
    words = random.Random(1)

    def array(count: int, low: float, high: float) -> Any:
        return (ctypes.c_float * count)(*(words.uniform(low, high) for _ in range(count)))

    def view(numbers: Any, *strides: int) -> tuple[int, ...]:
        return (ctypes.addressof(numbers), 0, *strides)

    u, delta, out = (
        array(CHANNELS * STEPS, -2, 2),
        array(CHANNELS * STEPS, 0.001, 1),
        array(CHANNELS * STEPS, 0, 0),
    )
    A, B, C = array(CHANNELS * STATES, -4, 0), array(STATES * STEPS, -1, 1), array(STATES * STEPS, -1, 1)
    sequence, variable = (0, 0, STEPS, 1), (0, 0, STEPS, 1)
    kernels.call(
        "selective_scan_forward",
        batch=1,
        heads=1,
        head_dim=CHANNELS,
        seqlen=STEPS,
        dstate=STATES,
        groups=1,
        variable_B=1,
        variable_C=1,
        threads=1,
        u=view(u, *sequence),
        delta=view(delta, *sequence),
        out=view(out, *sequence),
        A=view(A, 0, STATES, 1, 0),
        B=view(B, *variable),
        C=view(C, *variable),
        delta_max=float("inf"),
        scale=1.0,
    )
    return list(out)


def main(folder: str, forced: str | None = None) -> None:
    kernels = Kernels(folder)
    digests, scans = {}, {}
    for name in [forced] if forced else kernels.available:
        kernels.use(name)
        results = norm(kernels, BFLOAT16) + norm(kernels, FLOAT16)
        assert any(results)
        digests[name] = hashlib.sha256(results).hexdigest()
        scans[name] = scan(kernels)
    print(json.dumps({"available": kernels.available, "norms": digests, "scans": scans}))


if __name__ == "__main__":
    main(*sys.argv[1:])
