"""Prints, for each instruction set of this processor, a digest of all that the kernels compute from fixed inputs.

Run as a program; two builds of the libraries whose lines are equal compute the same bits.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable

import causal_conv1d_cpu as conv
import decoder_inputs
import mamba3_inputs
import selective_scan_cpu as scan
import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def results(dtype: torch.dtype, innermost: int) -> list[torch.Tensor]:
    """Outputs and gradients of every kernel. `innermost` is the axis of sequences whose elements are adjacent."""
    random = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    def sequence(*shape: int) -> torch.Tensor:
        tensor = randn(*shape).to(dtype)
        return tensor.mT.contiguous().mT if innermost == 1 else tensor

    batch, dim, length, state, rank = 2, 37, 300, 10, 3
    found = []
    for reverse in (False, True):
        x, weight, bias = sequence(batch, dim, length), randn(dim, 4), randn(dim)
        inputs = [t.requires_grad_() for t in (x, weight, bias)]
        out = conv.causal_conv1d(*inputs, activation="silu", reverse=reverse)
        found += [out, *torch.autograd.grad(out.float().square().mean(), inputs)]
        u, delta, z = (sequence(batch, dim, length) for _ in range(3))
        B, C = (sequence(batch, state, length) for _ in range(2))
        inputs = [u, delta, -8 * randn(dim, state).abs(), B, C, randn(dim), z, randn(dim)]
        inputs = [t.requires_grad_() for t in inputs]
        out = scan.selective_scan(*inputs, True, reverse=reverse)
        found += [out, *torch.autograd.grad(out.float().square().mean(), inputs)]
    with torch.no_grad():
        indices = torch.arange(length).div(100, rounding_mode="floor").int().expand(batch, length)
        found.append(conv.causal_conv1d(x, weight, bias, indices))
        conv_state = randn(batch, dim, 3).to(dtype)
        found += [conv.causal_conv1d_update(x[..., 0], conv_state, weight, bias, "silu"), conv_state]
        projected, onto = sequence(batch, rank + 2 * state, length), sequence(batch, dim, length)
        A, D, bias = inputs[2], inputs[5], inputs[7]
        found.append(scan.projected_scan(u, projected, randn(dim, rank), A, D, z, bias, True, onto, 0.5))
        heads = [randn(batch, length, 4, 20).to(dtype) for _ in range(2)]
        dt, groups = (
            randn(batch, length, 4).to(dtype),
            [randn(batch, length, 2, state).to(dtype) for _ in range(2)],
        )
        found += scan.chunk_scan(
            heads[0],
            dt,
            -randn(4).abs(),
            *groups,
            randn(4),
            heads[1],
            randn(4),
            None,
            indices,
            True,
            (0.0, 2.0),
            True,
        )
        h = randn(batch, dim, state)
        rows = (
            [randn(batch, dim).to(dtype) for _ in range(3)],
            [randn(batch, state).to(dtype) for _ in range(2)],
        )
        found += [scan.selective_state_update(h, *rows[0][:2], A, *rows[1], D, rows[0][2], bias, True), h]
        found += scan.layer_norm(rows[0][0], D, bias, rows[0][1], prenorm=True)
        found.append(scan.gated_norm(rows[0][0], D, bias, rows[0][1], is_rms_norm=True))
        found.append(scan.linear(randn(1, dim).to(dtype), randn(50, dim).to(dtype), randn(50)))
        for bits in (8, 4):
            kind, scales = (torch.int8, randn(64)) if bits == 8 else (torch.uint8, randn(4, 2, 16).bfloat16())
            packed = torch.randint(-127, 128, (4, 2 * bits, 16, 4), generator=random).to(torch.int8).view(kind)
            x = randn(70, dim).to(dtype)
            found += [scan.quantized_linear(tokens, packed, scales, randn(50), 50) for tokens in (x, x[0])]
        weights = [
            0.1 * randn(2 * dim, 20).to(dtype), None, randn(dim, 1, 4), randn(dim),
            0.1 * randn(rank + 2 * state, dim).to(dtype),
            randn(dim, rank).to(dtype), randn(dim), randn(dim, state), D, randn(20, dim).to(dtype), None,
        ]  # fmt: skip
        conv_state, h = randn(1, dim, 4).to(dtype), randn(1, dim, state)
        found += [scan.mamba_step(randn(1, 1, 20).to(dtype), conv_state, h, *weights), conv_state, h]
        found += whole_layers(weights, dtype, randn)
        torch.manual_seed(0)
        for rank in (1, 4):
            x = mamba3_inputs.arguments(1, 70, rank, 2, 4, 16, 20, 5, mimo=rank > 1)
            for name in ("q", "k", "v", "z", "trap"):
                x[name] = x[name].to(dtype)
            out, last = scan.mamba3(*x.values(), neighbours=rank == 1)
            found += [out, *last]
            token, before, weights = mamba3_inputs.step_arguments(rank, 2, 4, 16, 20, 5, 24, rank > 1, dtype)
            found += [
                scan.mamba3_step(token, *before, *weights, 2, rank == 1, 1e-4, 1e-5, 1e-5, 1e-5),
                *before,
            ]
    return found


def whole_layers(
    weights: list[torch.Tensor | None], dtype: torch.dtype, randn: Callable[..., torch.Tensor]
) -> list[torch.Tensor]:
    """A mixer over sequences, in both directions and with states; it takes float32, and states of every dtype."""
    wide = [None if t is None else t.float() for t in weights]
    in_proj, out_proj, x_proj = (scan.Weights(*wide[i].shape, wide[i]) for i in (0, 9, 4))
    way = scan.Direction(wide[2], wide[3], x_proj, wide[5], *wide[6:9])
    (dim, state), features = way.A_log.shape, in_proj.values.shape[1]
    x, states = randn(2, 90, features), [torch.empty(2, dim, size, dtype=dtype) for size in (4, state)]
    both = scan.mamba_forward(x, in_proj, out_proj, [way, way], 0.5)
    return [both, scan.mamba_forward(x, in_proj, out_proj, [way], 1.0, *states), *states]


def digest() -> str:
    torch.set_num_threads(2)
    hashed = hashlib.sha256()
    for dtype in DTYPES:
        for innermost in (1, 2):
            for number, tensor in enumerate(results(dtype, innermost)):
                assert tensor.isfinite().all(), f"{dtype}: result {number} is not finite"
                hashed.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    for bits in (32, 8, 4):
        for tensor in decoder_inputs.results(bits):
            assert tensor.isfinite().all(), f"a model of {bits} bits: a logit or a state is not finite"
            hashed.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()[:16]


if __name__ == "__main__":
    if sys.argv[1:]:
        print(sys.argv[1], digest())
    else:
        for name in scan._lib.library.available:
            command = [sys.executable, __file__, name]
            subprocess.run(command, env={**os.environ, "MAMBAPORT_KERNEL_ISA": name}, check=True)
