"""Mamba-3's scan for torch.onnx.export where the number of steps may change: two of ONNX's Scans over the steps.

The first Scan sums the angles, the second computes the states. `mamba_ssm.ops.fallback.mamba3` has the formulas.
"""

import math

import torch
import torch.nn.functional as F

from mamba_ssm.ops.fallback.mamba3 import _rotated
from mamba_ssm.ops.standard import run_scan


def mamba3(
    q, k, v, adt, dt, trap, q_bias, k_bias, angles, D, z, mimo_v, mimo_z, mimo_out, states, neighbours
):  # fmt: skip
    """`mamba_ssm.ops.fallback.mamba3.mamba3` in float32, without packed sequences."""
    (batch, _, rank, _, dstate), (heads, headdim), given = q.shape, v.shape[2:], v
    q, k, v, adt, dt, trap, angles = (t.float() for t in (q, k, v, adt, dt, trap, angles))
    if states is None:
        states = (
            v.new_zeros(batch, heads, angles.shape[-1]),
            v.new_zeros(batch, heads, headdim, dstate),
            v.new_zeros(batch, rank, heads, dstate),
            v.new_zeros(batch, heads, headdim),
        )
    angle, ssm, before_k, before_v = (t.float() for t in states)
    mix = torch.sigmoid(trap)
    same, earlier = mix * dt, (1 - mix) * dt  # (batch, heads, seqlen)
    weight = same + F.pad(earlier[..., 1:], (0, 1))
    pushed = before_k.permute(0, 2, 3, 1) @ _ranks(before_v, mimo_v)  # (batch, heads, dstate, headdim)
    state = ssm.mT + earlier[..., 0, None, None] * pushed

    def turn(turns, inputs, constants):
        turns = turns + inputs[0]
        turns = turns - torch.round(turns)
        return turns, turns.clone()

    moved = (0.5 * torch.tanh(angles) * dt.mT[..., None]).transpose(0, 1)
    end, turns = run_scan(turn, angle / (2 * math.pi), [moved], [])
    cos, sin = torch.cos(turns * (2 * math.pi)), torch.sin(turns * (2 * math.pi))
    q = _rotated(_heads(q, q_bias), cos, sin, neighbours)
    k = _rotated(_heads(k, k_bias), cos, sin, neighbours)
    v = _ranks(v.transpose(0, 1), mimo_v)

    def step(state, inputs, constants):
        q, k, v, log, same, weight = inputs
        kept, product = torch.exp(log) * state, k.mT @ v
        return kept + weight * product, q @ (kept + same * product)

    scalars = [t.permute(2, 0, 1)[..., None, None] for t in (adt, same, weight)]
    last, out = run_scan(step, state.contiguous(), [q, k, v, *scalars], [])
    if D is not None:
        out = out + v * D.float()[:, None, None]
    if z is not None:
        out = out * F.silu(_ranks(z.float().transpose(0, 1), mimo_z))
    if mimo_out is not None:
        out = (out * mimo_out.float()).sum(3).transpose(0, 1)
    else:
        out = out.permute(1, 0, 3, 2, 4)
        out = out if mimo_v is not None else out.squeeze(2)
    final_angle = (end - torch.floor(end)) * (2 * math.pi)
    return out.to(given.dtype), (final_angle, last.mT, k[-1].transpose(1, 2), given[:, -1])


def _heads(t, bias):
    """(batch, seqlen, rank, groups, dstate) with the bias of each head: (seqlen, batch, heads, rank, dstate)."""
    bias = bias.float().transpose(0, 1).unflatten(1, (t.shape[3], -1))
    return (t.unsqueeze(4) + bias).flatten(3, 4).permute(1, 0, 3, 2, 4)


def _ranks(t, weight):
    """t (..., heads, headdim) for each rank: (..., heads, rank, headdim)."""
    t = t.unsqueeze(-2)
    return t if weight is None else t * weight.float()
