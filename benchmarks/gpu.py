"""The CUDA kernels beside upstream's reference functions, on this machine's GPU: `python -m benchmarks.gpu`.

The reference functions are PyTorch loops and convolutions on the same GPU. Times are medians of CUDA events,
with the inputs in the GPU's cache where they fit there.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from causal_conv1d.causal_conv1d_interface import causal_conv1d_ref, causal_conv1d_update_ref
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn, selective_scan_ref
from torch import Tensor

SHAPES = ((1, 1536, 512), (8, 1536, 2048))
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Row:
    """One function; milliseconds."""

    what: str
    kernel: float
    reference: float


def milliseconds(run: Callable[[], object], times: int, warm: int = 3) -> float:
    """The median of ``times`` calls, after ``warm`` others."""
    for _ in range(warm):
        run()
    found = []
    for _ in range(times):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end))
    return statistics.median(found)


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, device="cuda").to(dtype)


Function = Callable[..., Tensor]


def both(what: str, kernel: Function, reference: Function, leaves: list[Tensor]) -> Iterator[Row]:
    """Forward and backward of a function of ``leaves``. A scan's reference takes a second: it runs once."""
    once = {"times": 1, "warm": 1} if "scan" in what else {"times": 20}
    with torch.no_grad():
        yield Row(f"{what}, forward", milliseconds(kernel, 50), milliseconds(reference, **once))

    def backward(run: Callable[..., Tensor], times: int, warm: int = 3) -> float:
        out = run()
        weight = torch.randn_like(out)
        return milliseconds(lambda: torch.autograd.grad(out, leaves, weight, retain_graph=True), times, warm)

    yield Row(f"{what}, backward", backward(kernel, 50), backward(reference, **once))


def rows() -> Iterator[Row]:
    torch.manual_seed(0)
    for batch, dim, length in SHAPES:
        for dtype in DTYPES:
            shape = f"batch {batch}, d {dim}, L {length}, {str(dtype).removeprefix('torch.')}"
            u, delta, z = (randn(batch, dim, length, dtype=dtype) for _ in range(3))
            A = -16 * torch.rand(dim, 16, device="cuda")
            B, C = (randn(batch, 16, length, dtype=dtype) for _ in range(2))
            scan = [t.requires_grad_() for t in (u, delta - 3, A, B, C, randn(dim), z, randn(dim))]
            yield from both(
                f"selective scan, {shape}",
                lambda scan=scan: selective_scan_fn(*scan, True),
                lambda scan=scan: selective_scan_ref(*scan, True),
                scan,
            )
            weight, bias = randn(dim, 4, dtype=dtype), randn(dim, dtype=dtype)
            conv = [t.requires_grad_() for t in (u.detach(), weight, bias)]
            yield from both(
                f"causal convolution, {shape}",
                lambda conv=conv: causal_conv1d_fn(*conv, activation="silu"),
                lambda conv=conv: causal_conv1d_ref(*conv, activation="silu"),
                conv,
            )
    step = randn(1, 1536), randn(1, 1536, 4), randn(1536, 4), randn(1536), "silu"
    yield Row(
        "causal convolution, one step, batch 1, d 1536",
        milliseconds(lambda: causal_conv1d_update(*step), 200),
        milliseconds(lambda: causal_conv1d_update_ref(*step), 200),
    )


def main() -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    found = []
    for row in rows():
        found.append(row)
        figures = f"{row.kernel:9.4f} ms, reference {row.reference:10.4f} ms"
        print(f"{row.what:72s} {figures}, {row.reference / row.kernel:7.1f} times", flush=True)
    print(json.dumps([asdict(row) for row in found]))


if __name__ == "__main__":
    main()
