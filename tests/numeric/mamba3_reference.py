"""Mamba-3's recurrence in float64, one step at a time, from its equations. Differentiable."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from reference import silu
from torch import Tensor


class States(NamedTuple):
    """angle (b, h, angles); ssm (b, h, p, n); k (b, rank, h, n), the last rotated key; v (b, h, p)"""

    angle: Tensor
    ssm: Tensor
    k: Tensor
    v: Tensor


def rotate(x, angle, pairwise):
    """x (b, r, h, n), rotated by angle (b, h, angles): neighbours, or elements half of n apart."""
    count, half = angle.shape[-1], x.shape[-1] // 2
    cos, sin = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    out = list(x.unbind(-1))
    for i in range(count):
        first, second = (2 * i, 2 * i + 1) if pairwise else (i, i + half)
        a, b = x[..., first], x[..., second]
        out[first] = a * cos[..., i] - b * sin[..., i]
        out[second] = a * sin[..., i] + b * cos[..., i]
    return torch.stack(out, -1)


def mamba3(q, k, v, adt, dt, trap, q_bias, k_bias, angles, D=None, z=None, mimo_v=None, mimo_z=None,
           mimo_out=None, states=None, pairwise=True):  # fmt: skip
    """The output and the states after the last step.

    q, k: (b, l, r, g, n); v, z: (b, l, h, p); adt, dt, trap: (b, h, l); q_bias, k_bias: (h, r, n)
    angles: (b, l, h, angles); D: (h,); mimo_v, mimo_z, mimo_out: (h, r, p)
    The output is (b, l, h, p) where mimo_out is given or r is 1 and there is no mimo_v; else (b, l, r, h, p).
    """
    batch, seqlen, rank, groups, dstate = q.shape
    heads, headdim = v.shape[2:]
    group = [h // (heads // groups) for h in range(heads)]
    q = q[:, :, :, group] + q_bias.transpose(0, 1)
    k = k[:, :, :, group] + k_bias.transpose(0, 1)

    def spread(x, weight):
        """(b, h, p) -> (b, r, h, p)"""
        return x[:, None] if weight is None else x[:, None] * weight.transpose(0, 1)

    if states is None:
        angle, ssm = v.new_zeros(batch, heads, angles.shape[-1]), v.new_zeros(batch, heads, headdim, dstate)
        before_k, before_v = v.new_zeros(batch, rank, heads, dstate), v.new_zeros(batch, heads, headdim)
    else:
        angle, ssm, before_k, before_v = states
    rows = []
    for t in range(seqlen):
        mix, step, decay = torch.sigmoid(trap[:, :, t]), dt[:, :, t], torch.exp(adt[:, :, t])
        angle = angle + math.pi * torch.tanh(angles[:, t]) * step[..., None]
        key, query = rotate(k[:, t], angle, pairwise), rotate(q[:, t], angle, pairwise)
        earlier = torch.einsum("brhp,brhn->bhpn", spread(before_v, mimo_v), before_k)
        now = torch.einsum("brhp,brhn->bhpn", spread(v[:, t], mimo_v), key)
        ssm = decay[..., None, None] * (ssm + ((1 - mix) * step)[..., None, None] * earlier)
        ssm = ssm + (mix * step)[..., None, None] * now
        y = torch.einsum("bhpn,brhn->brhp", ssm, query)
        if D is not None:
            y = y + D[:, None] * spread(v[:, t], mimo_v)
        if z is not None:
            y = y * silu(spread(z[:, t], mimo_z))
        if mimo_out is not None:
            y = (y * mimo_out.transpose(0, 1)).sum(1)
        elif mimo_v is None:
            y = y[:, 0]
        rows.append(y)
        before_k, before_v = key, v[:, t]
    return torch.stack(rows, 1), States(angle % (2 * math.pi), ssm, before_k, before_v)
