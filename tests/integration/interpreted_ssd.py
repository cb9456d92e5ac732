"""Mamba-2's triton kernels, forward and backward, in triton's interpreter on a CPU, against float64.

Run by test_interpreted.py with the patched trees on PYTHONPATH and TRITON_INTERPRET=1. Prints one JSON
object: the largest error of each tensor, relative to its largest value.

Arguments: the width of the kernels' tiles, the scale of dt.
"""

from __future__ import annotations

import contextlib
import json
import sys
from types import SimpleNamespace

import torch
from triton.runtime.autotuner import Autotuner

# What the kernels' launchers ask of a GPU.
torch.cuda.is_available = lambda: True
torch.cuda.device = lambda index: contextlib.nullcontext()
torch.cuda.get_device_properties = lambda device: SimpleNamespace(multi_processor_count=8)

from mamba_ssm.ops import dispatch, fallback  # noqa: E402
from mamba_ssm.ops.triton import (  # noqa: E402
    ssd_bmm,
    ssd_chunk_scan,
    ssd_chunk_state,
    ssd_combined,
    ssd_state_passing,
)

dispatch.use_triton = lambda x: True
width, scale = int(sys.argv[1]), float(sys.argv[2])
for module in (ssd_bmm, ssd_chunk_scan, ssd_chunk_state, ssd_combined, ssd_state_passing):
    for kernel in vars(module).values():
        if isinstance(kernel, Autotuner):  # one configuration, since there is nothing to time
            fit = [
                config
                for config in kernel.configs
                if config.kwargs.get("BLOCK_SIZE_N", width) == width
                and config.kwargs.get("BLOCK_SIZE_M", 0) <= 64
            ]
            kernel.configs = (fit or kernel.configs)[:1]

torch.manual_seed(0)
batch, seqlen, heads, headdim, dstate, chunk = 1, 70, 2, 64, 16, 32
x = torch.randn(batch, seqlen, heads, headdim)
dt = torch.rand(batch, seqlen, heads) * scale
A = -torch.rand(heads) * 2 - 0.1
B, C = torch.randn(2, batch, seqlen, 1, dstate)
D, bias = torch.randn(heads), torch.randn(heads) * 0.1
dout = torch.randn_like(x)

options = {"D": D, "dt_bias": bias, "dt_softplus": True}
out = ssd_combined._mamba_chunk_scan_combined_fwd(x, dt, A, B, C, chunk, **options)[0]
found = ssd_combined._mamba_chunk_scan_combined_bwd(dout, x, dt, A, B, C, out, chunk, **options)
exact = [tensor.double().requires_grad_() for tensor in (x, dt, A, B, C, D, bias)]
reference = fallback.mamba_chunk_scan_combined(
    *exact[:5], chunk, exact[5], None, exact[6], None, None, None, True, (0.0, float("inf")), False, False
)
gradients = torch.autograd.grad(reference, exact, dout.double())


def error(result: torch.Tensor, right: torch.Tensor) -> float:
    return ((result.double() - right).abs().max() / right.abs().max()).item()


names = ("dx", "ddt", "dA", "dB", "dC", "dD", "ddt_bias")
results = (*found[:6], found[7])
answer = {"out": error(out, reference.detach())}
answer.update({name: error(*pair) for name, *pair in zip(names, results, gradients, strict=True)})
print(json.dumps(answer))
