"""Mamba-3's scan in chunks, SISO and MIMO, in PyTorch.

With mix = sigmoid(trap), per head and step t:

    angle[t] = angle[t-1] + pi tanh(angles[t]) dt[t]       k[t], q[t] are rotated by it, after their biases
    S[t] = e^adt[t] (S[t-1] + (1 - mix[t]) dt[t] v[t-1] k[t-1]^T) + mix[t] dt[t] v[t] k[t]^T
    y[t] = S[t] q[t] + D v[t],  times silu(z[t]) where z is given

In MIMO, q, k and y have an axis of ranks r, v and z are multiplied with mimo_v[r] and mimo_z[r], the products v k^T are
summed over the ranks, and out is the sum of y mimo_out over them.

The term with v[t-1] is added to the state one step earlier, without its decay: the state then has one product v k^T
per step, and y[t] takes its own step with another weight. So a chunk is two matrix products and a mask.

Shapes: batch b, seqlen L, ranks r, groups g of q and k, heads h, headdim p, dstate n, angles a, chunks c, steps of a
chunk l.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

from mamba_ssm.ops.fallback.precision import cast, outside_autocast, working_dtype

# Rows (steps times ranks) of a chunk. The result does not depend on it.
ROWS = 64


@outside_autocast
def mamba3(
    q,
    k,
    v,
    adt,
    dt,
    trap,
    q_bias,
    k_bias,
    angles,
    D=None,
    z=None,
    mimo_v=None,
    mimo_z=None,
    mimo_out=None,
    input_states=None,
    cu_seqlens=None,
    neighbours=True,
    chunk_size=ROWS,
):
    """The output and the states after the last step. Differentiable in every tensor, through the states too.

    q, k: (b, L, r, g, n); v, z: (b, L, h, p); adt, dt, trap: (b, h, L); q_bias, k_bias: (h, r, n)
    angles: (b, L, h, a); D: (h,); mimo_v, mimo_z, mimo_out: (h, r, p)
    input_states: angle (s, h, a), ssm (s, h, p, n), k (s, r, h, n), v (s, h, p) for s sequences
    cu_seqlens: (s + 1,), the bounds of the sequences that are packed in a batch of 1; without it, s is b
    neighbours: whether elements 2 i and 2 i + 1 of q and k are rotated, not elements i and i + n / 2

    Returns out, in the dtype of v, (b, L, h, p), or (b, L, r, h, p) where mimo_v is given and mimo_out is not; and the
    tuple of states, in float32 or wider, v in its dtype.
    """
    tensors = (q, k, v, adt, dt, trap, angles, z)
    constant = (q_bias, k_bias, D, mimo_v, mimo_z, mimo_out)
    if cu_seqlens is None:
        return _scan(*tensors, *constant, input_states, neighbours, chunk_size)
    outs, finals = [], []
    for number, (start, end) in enumerate(pairwise(cu_seqlens.tolist())):
        part = slice(start, end)
        q1, k1, v1, angles1 = (t[:, part] for t in (q, k, v, angles))
        in_time = [t[:, :, part] for t in (adt, dt, trap)]
        z1 = None if z is None else z[:, part]
        states = None if input_states is None else [state[number : number + 1] for state in input_states]
        out, final = _scan(q1, k1, v1, *in_time, angles1, z1, *constant, states, neighbours, chunk_size)
        outs.append(out)
        finals.append(final)
    return torch.cat(outs, 1), tuple(torch.cat(parts) for parts in zip(*finals, strict=True))


def _scan(
    q,
    k,
    v,
    adt,
    dt,
    trap,
    angles,
    z,
    q_bias,
    k_bias,
    D,
    mimo_v,
    mimo_z,
    mimo_out,
    states,
    neighbours,
    chunk_size,
):
    batch, seqlen, rank, groups, dstate = q.shape
    heads, headdim = v.shape[2:]
    out_dtype, v_given = v.dtype, v
    dtype = working_dtype(q, k, v, adt, dt, trap, angles, z, q_bias, k_bias)
    q, k, v, adt, dt, trap, angles, z = cast(dtype, q, k, v, adt, dt, trap, angles, z)
    q_bias, k_bias, D, mimo_v, mimo_z, mimo_out = cast(dtype, q_bias, k_bias, D, mimo_v, mimo_z, mimo_out)
    if states is None:
        states = (
            v.new_zeros(batch, heads, angles.shape[-1]),
            v.new_zeros(batch, heads, headdim, dstate),
            v.new_zeros(batch, rank, heads, dstate),
            v_given.new_zeros(batch, heads, headdim),
        )
    angle, ssm, before_k = cast(dtype, *states[:3])
    if seqlen == 0:
        shape = (batch, 0, rank, heads, headdim) if mimo_v is not None and mimo_out is None else v.shape
        return v_given.new_empty(shape), (angle, ssm, before_k, states[3].to(out_dtype))
    steps = min(max(chunk_size // rank, 1), max(ROWS // rank, 1), seqlen)

    mix = torch.sigmoid(trap)
    same, earlier = mix * dt, (1 - mix) * dt  # (b, h, L)
    weight = same + F.pad(earlier[..., 1:], (0, 1))
    before_v = _ranks(states[3].to(dtype)[:, :, None], mimo_v)  # (b, h, 1, r, p)
    pushed = torch.einsum("bhrp,brhn->bhnp", before_v.squeeze(2), before_k)
    state = ssm.mT + earlier[..., 0, None, None] * pushed

    turns = _turns(angles, dt, angle, steps)  # (b, c, h, l, a)
    cos, sin = torch.cos(turns * (2 * math.pi)), torch.sin(turns * (2 * math.pi))
    q = _rotated(_heads(q, q_bias, steps), cos, sin, neighbours)  # (b, c, h, l, r, n)
    k = _rotated(_heads(k, k_bias, steps), cos, sin, neighbours)
    v = _ranks(_in_chunks(v, steps).transpose(2, 3), mimo_v)  # (b, c, h, l, r, p)
    last = (seqlen - 1) % steps
    final_k = k[:, -1, :, last].transpose(1, 2)
    q_rows, k_rows, v_rows = (t.flatten(3, 4) for t in (q, k, v))

    total, same, weight = (_in_chunks(t.mT, steps).transpose(2, 3) for t in (adt.double(), same, weight))
    total = torch.cumsum(total, -1)  # (b, c, h, l)
    causal = torch.ones(steps, steps, dtype=torch.bool, device=v.device).tril()
    # The mask comes before exp: above the diagonal exp may overflow, and 0 * inf is nan.
    decay = torch.exp((total[..., :, None] - total[..., None, :]).to(dtype).masked_fill(~causal, -torch.inf))
    weights = decay * weight[..., None, :]
    own = torch.eye(steps, dtype=torch.bool, device=v.device)
    weights = torch.where(own, same[..., None, :], weights)
    scores = q_rows @ k_rows.mT
    if rank > 1:
        scores = scores.unflatten(-1, (-1, rank)).unflatten(-3, (-1, rank))
        scores = (scores * weights[..., :, None, :, None]).flatten(-2).flatten(-3, -2)
    else:
        scores = scores * weights
    out = scores @ v_rows

    to_end = weight * torch.exp((total[..., -1:] - total).to(dtype))
    added = k_rows.mT @ (v * to_end[..., None, None]).flatten(3, 4)  # (b, c, h, n, p)
    chunk_decay = torch.exp(total[..., -1].to(dtype))[..., None, None]
    befores = []
    for c in range(added.shape[1]):
        befores.append(state)
        state = chunk_decay[:, c] * state + added[:, c]
    carried = (q_rows @ torch.stack(befores, 1)).unflatten(3, (-1, rank))
    out = out.unflatten(3, (-1, rank)) + carried * torch.exp(total.to(dtype))[..., None, None]

    if D is not None:
        out = out + v * D[:, None, None, None]
    if z is not None:
        out = out * F.silu(_ranks(_in_chunks(z, steps).transpose(2, 3), mimo_z))
    if mimo_out is not None:
        out = (out * mimo_out[:, None]).sum(4)  # (b, c, h, l, p)
        out = out.transpose(2, 3).flatten(1, 2)[:, :seqlen]
    else:
        out = out.permute(0, 1, 3, 4, 2, 5).flatten(1, 2)[:, :seqlen]
        out = out if mimo_v is not None else out.squeeze(2)
    end = turns[:, -1, :, last]
    final_angle = (end - torch.floor(end)) * (2 * math.pi)
    return out.to(out_dtype), (final_angle, state.mT, final_k, v_given[:, -1])


def _in_chunks(t, steps):
    """(b, L, ...) as (b, c, l, ...), with zeros at the end."""
    missing = -t.shape[1] % steps
    if missing:
        t = F.pad(t, (0, 0) * (t.dim() - 2) + (0, missing))
    return t.unflatten(1, (-1, steps))


def _turns(angles, dt, angle, steps):
    """The angle at each step in turns, less whole turns at the start of each chunk: (b, c, h, l, a).

    In float32 the sum of a long sequence would have lost its last digits, so whole turns go at once.
    """
    moved = 0.5 * torch.tanh(angles) * dt.mT[..., None]
    moved = torch.cumsum(_in_chunks(moved, steps).transpose(2, 3), 3)
    ends = moved[:, :, :, -1]
    start = angle / (2 * math.pi)
    starts = []
    for c in range(ends.shape[1]):
        starts.append(start)
        start = start + ends[:, c]
        start = start - torch.round(start)
    return torch.stack(starts, 1)[:, :, :, None] + moved


def _heads(t, bias, steps):
    """q or k for each head, with its bias: (b, L, r, g, n) -> (b, c, h, l, r, n)."""
    t = _in_chunks(t, steps).permute(0, 1, 4, 2, 3, 5).contiguous()
    groups = t.shape[2]
    return (t.unsqueeze(3) + bias.unflatten(0, (groups, -1))[:, :, None]).flatten(2, 3)


def _rotated(t, cos, sin, neighbours):
    """t (b, c, h, l, r, n), of which as many pairs are rotated as there are angles."""
    count, cos, sin = cos.shape[-1], cos.unsqueeze(-2), sin.unsqueeze(-2)
    if neighbours:
        pairs = t[..., : 2 * count].unflatten(-1, (-1, 2))
        first, second = pairs[..., 0], pairs[..., 1]
        turned = torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)
        return turned if 2 * count == t.shape[-1] else torch.cat([turned, t[..., 2 * count :]], -1)
    half = t.shape[-1] // 2
    first, second = t[..., :count], t[..., half : half + count]
    parts = [
        first * cos - second * sin,
        t[..., count:half],
        first * sin + second * cos,
        t[..., half + count :],
    ]
    return torch.cat(parts, -1)


def _ranks(t, weight):
    """t (..., h, l, p) for each rank: (..., h, l, r, p)."""
    t = t.unsqueeze(-2)
    return t if weight is None else t * weight[:, None]
