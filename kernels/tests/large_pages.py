"""Whether outputs of the kernels are on large pages, for test_process.py: prints one JSON object.

Under each operator's name: a small output, then a large one. Under "Linux": whether a request shows at all. Run in a
process of its own, because an earlier request may cover a part of malloc's heap.
"""

from __future__ import annotations

import ctypes
import json
import mmap
from pathlib import Path

import causal_conv1d_cpu as conv
import selective_scan_cpu as kernels
import torch


def is_on_large_pages(address: int) -> bool:
    """Whether large pages were asked for at an address: the flag hg of its mapping in /proc/self/smaps."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head, *rest = line.split()
        if head == "VmFlags:" and inside:
            return "hg" in rest
        if not head.endswith(":"):
            start, end = (int(number, 16) for number in head.split("-"))
            inside = start <= address < end
    return False


def shown_by_linux() -> bool:
    memory = mmap.mmap(-1, 8 << 20)
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        return False
    return is_on_large_pages(ctypes.addressof(ctypes.c_char.from_buffer(memory)) + (4 << 20))


def scan(steps: int) -> torch.Tensor:
    u, delta, B, C = (torch.randn(1, rows, steps) for rows in (256, 256, 4, 4))
    return kernels.selective_scan(u, delta, -torch.rand(256, 4), B, C)


def gradient_of_scan(steps: int) -> torch.Tensor:
    u, delta, B, C = (torch.randn(1, rows, steps) for rows in (256, 256, 4, 4))
    return torch.autograd.grad(
        kernels.selective_scan(u.requires_grad_(), delta, -torch.rand(256, 4), B, C), u, torch.ones_like(u)
    )[0]


def chunk_scan(steps: int) -> torch.Tensor:
    B, C = torch.randn(2, 1, steps, 1, 4)
    return kernels.chunk_scan(torch.randn(1, steps, 4, 64), torch.rand(1, steps, 4), -torch.rand(4), B, C)


def convolution(steps: int) -> torch.Tensor:
    return conv.causal_conv1d(torch.randn(1, 256, steps), torch.randn(256, 4))


def norm(steps: int) -> torch.Tensor:
    return kernels.layer_norm(torch.randn(steps, 256), torch.ones(256))


def quantized_linear(steps: int) -> torch.Tensor:
    packed = torch.zeros(16, 8, 16, 4, dtype=torch.int8)
    return kernels.quantized_linear(torch.randn(steps, 32), packed, torch.ones(256), None, 256)


def main() -> None:
    found: dict[str, bool | list[bool]] = {"Linux": shown_by_linux()}
    for operator in (scan, gradient_of_scan, chunk_scan, convolution, norm, quantized_linear):
        outputs = [operator(steps) for steps in (1 << 10, 1 << 16)]  # of 1 and of 64 MB
        found[operator.__name__] = [
            is_on_large_pages(out.data_ptr() + out.numel() * out.element_size() // 2) for out in outputs
        ]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
