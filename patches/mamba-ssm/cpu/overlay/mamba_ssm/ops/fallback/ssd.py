"""Mamba-2's scan in chunks: matrix products within a chunk, a short recurrence between chunks.

    h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] x[t]^T        A is one number per head
    y[t] = C[t] . h[t] + D x[t],  times silu(z[t]) where z is given

The functions down to `chunk_scan` are the steps of the triton code, one for one, and take the same arguments.
Shapes: batch b, seqlen L, nchunks c, chunk_size l, nheads h, headdim p, ngroups g, dstate n.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F

from mamba_ssm.ops.fallback.precision import cast, outside_autocast, working_dtype

# The result does not depend on the chunk size. A GPU wants large chunks for its tensor cores; a CPU does
# the fewest operations where the chunk is about as long as the state is wide.
CHUNK = 64


@outside_autocast
def chunk_cumsum(dt, A, chunk_size, dt_bias=None, dt_softplus=False, dt_limit=(0.0, float("inf"))):
    """dt as it enters the scan, and the running sum of dt A within each chunk.

    dt: (b, L, h); A, dt_bias: (h,)
    Returns dA_cumsum in float64 and dt in float32 or wider, both (b, h, c, l); dt is 0 past the end.

    Decays are exponentials of differences of dA_cumsum. Where dt is large both terms are, and in float32
    their difference would have lost its last digits. The tensors are small: float64 costs nothing here.
    """
    dtype = working_dtype(dt, A, dt_bias)
    dt, A, dt_bias = cast(dtype, dt, A, dt_bias)
    if dt_bias is not None:
        dt = dt + dt_bias
    if dt_softplus:
        dt = F.softplus(dt)
    if tuple(dt_limit) != (0.0, float("inf")) or not dt_softplus:
        dt = dt.clamp(*dt_limit)
    dt = _chunks(dt, chunk_size).permute(0, 3, 1, 2)
    return torch.cumsum((dt * A[:, None, None]).double(), dim=-1), dt


@outside_autocast
def chunk_state(B, x, dt, dA_cumsum, seq_idx=None):
    """What each chunk alone adds to the state by its end, (b, c, h, p, n), float32 or wider.

    B: (b, L, g, n); x: (b, L, h, p); dt, dA_cumsum: (b, h, c, l); seq_idx: (b, L)
    """
    chunk_size = dt.shape[-1]
    weight = dt * torch.exp((dA_cumsum[..., -1:] - dA_cumsum).to(dt.dtype))
    if seq_idx is not None:  # only the sequence that goes on into the next chunk; a negative index is padding
        last = _last_of_chunk(seq_idx, chunk_size)
        goes_on = (_chunks(seq_idx, chunk_size) == last[:, :, None]) & (last >= 0)[:, :, None]
        weight = weight * goes_on[:, None]
    B, x = cast(working_dtype(B, x, dt), _chunks(B, chunk_size), _chunks(x, chunk_size))
    weighted = x * weight.permute(0, 2, 3, 1).unsqueeze(-1)
    states = torch.einsum("bclgrp,bclgn->bcgrpn", _by_group(weighted, 3, B.shape[3]), B)
    return states.flatten(2, 3)


@outside_autocast
def state_passing(states, dA_chunk_cumsum, initial_states=None, seq_idx=None, chunk_size=None):
    """Carry the state from chunk to chunk.

    states: (b, c, h, d), each chunk's own; dA_chunk_cumsum: (b, h, c), its whole decay
    initial_states: (b, h, d), of the sequence numbered 0 where there is seq_idx
    Returns the state before each chunk, (b, c, h, d), and the one after the last, (b, h, d).
    """
    dtype = working_dtype(states, initial_states)
    states, initial_states = cast(dtype, states, initial_states)
    decay = torch.exp(dA_chunk_cumsum.to(dtype))
    if seq_idx is not None:
        last = _last_of_chunk(seq_idx, chunk_size)
        decay = decay * (last == F.pad(last, (1, 0))[:, :-1])[:, None]
    state = states.new_zeros(states.shape[0], *states.shape[2:]) if initial_states is None else initial_states
    before = []
    for c in range(states.shape[1]):
        before.append(state)
        state = decay[:, :, c, None] * state + states[:, c]
    return torch.stack(before, dim=1) if before else states, state


@outside_autocast
def bmm_chunk(a, b, chunk_size, seq_idx=None):
    """a[i] . b[j] for i, j of the same chunk, and of the same sequence; float32 or wider.

    a, b: (b, L, k) or (b, L, g, k)
    Returns (b, c, l, l) or (b, c, g, l, l).
    """
    a, b = cast(working_dtype(a, b), _chunks(a, chunk_size), _chunks(b, chunk_size))
    if a.dim() == 5:
        a, b = a.transpose(2, 3), b.transpose(2, 3)
    out = a @ b.transpose(-1, -2)
    if seq_idx is not None:
        seq = _chunks(seq_idx, chunk_size, padding=-1)
        same = seq[..., :, None] == seq[..., None, :]
        out = out.masked_fill(~(same if out.dim() == 4 else same.unsqueeze(2)), 0.0)
    return out


@outside_autocast
def chunk_scan(cb, x, dt, dA_cumsum, C, states, D=None, z=None, seq_idx=None):
    """The output, from the products C.B within chunks and the state before each chunk.

    cb: (b, c, g, l, l); x, z: (b, L, h, p); dt, dA_cumsum: (b, h, c, l); C: (b, L, g, n)
    states: (b, c, h, p, n); D: (h,) or (h, p); seq_idx: (b, L)
    Returns the output before and after the gate z, both (b, L, h, p), float32 or wider.
    """
    seqlen, ngroups = x.shape[1], C.shape[2]
    chunk_size = dt.shape[-1]
    dtype = working_dtype(cb, x, dt, C, states)
    cb, x, dt, C, states, D, z = cast(dtype, cb, x, dt, C, states, D, z)
    xs, C = _chunks(x, chunk_size), _chunks(C, chunk_size)

    # Within the chunk. The mask comes before exp: above the diagonal exp may overflow, and 0 * inf is nan.
    causal = torch.ones(chunk_size, chunk_size, dtype=torch.bool, device=x.device).tril()
    log_decay = (dA_cumsum.unsqueeze(-1) - dA_cumsum.unsqueeze(-2)).to(dtype)
    decay = torch.exp(log_decay.masked_fill(~causal, -torch.inf))  # (b, h, c, l, l)
    decay = (decay * dt.unsqueeze(-2)).transpose(1, 2)
    scores = (cb.unsqueeze(3) * _by_group(decay, 2, ngroups)).flatten(2, 3)  # (b, c, h, l, l)
    out = torch.einsum("bchls,bcshp->bclhp", scores, xs)

    # From the chunks before.
    carried = torch.exp(dA_cumsum.to(dtype)).permute(0, 2, 3, 1)  # (b, c, l, h)
    if seq_idx is not None:
        last = F.pad(_last_of_chunk(seq_idx, chunk_size), (1, 0))[:, :-1]
        carried = carried * (_chunks(seq_idx, chunk_size, padding=-1) == last[:, :, None]).unsqueeze(-1)
    from_before = torch.einsum("bclgn,bcgrpn->bclgrp", C, _by_group(states, 2, ngroups)).flatten(3, 4)
    out = out + from_before * carried.unsqueeze(-1)

    out = out.flatten(1, 2)[:, :seqlen]
    if D is not None:
        out = out + x * (D if D.dim() == 2 else D[:, None])
    return out, out if z is None else out * F.silu(z)


@outside_autocast
def chunk_state_varlen(B, x, dt, dA_cumsum, cu_seqlens, chunk_states):
    """The state at the end of each of the sequences that are packed in one row.

    B: (L, g, n); x: (L, h, p); dt, dA_cumsum: (h, c, l); cu_seqlens: (sequences + 1,)
    chunk_states: (c, h, p, n), the state before each chunk
    Returns (sequences, h, p, n) in the dtype of chunk_states.
    """
    chunk_size, nheads = dt.shape[-1], x.shape[1]
    dtype = working_dtype(B, x, dt, chunk_states)
    result = torch.zeros(
        cu_seqlens.shape[0] - 1, *chunk_states.shape[1:], dtype=chunk_states.dtype, device=x.device
    )
    bounds = cu_seqlens.tolist()
    for i, (start, end) in enumerate(pairwise(bounds)):
        if start == end:
            continue
        chunk = (end - 1) // chunk_size
        first = max(start, chunk * chunk_size)
        inside = slice(first - chunk * chunk_size, end - chunk * chunk_size)
        dA = dA_cumsum[:, chunk, : inside.stop]
        weight = dt[:, chunk, inside].to(dtype) * torch.exp((dA[:, -1:] - dA[:, inside]).to(dtype))
        weighted = x[first:end].to(dtype) * weight.t().unsqueeze(-1)
        B_heads = B[first:end].to(dtype).repeat_interleave(nheads // B.shape[1], dim=1)
        state = torch.einsum("lhp,lhn->hpn", weighted, B_heads)
        if start < first:  # the sequence began in a chunk before
            state = state + chunk_states[chunk].to(dtype) * torch.exp(dA[:, -1].to(dtype))[:, None, None]
        result[i] = state.to(result.dtype)
    return result


def mamba_chunk_scan_combined(
    x,
    dt,
    A,
    B,
    C,
    chunk_size,
    D=None,
    z=None,
    dt_bias=None,
    initial_states=None,
    seq_idx=None,
    cu_seqlens=None,
    dt_softplus=False,
    dt_limit=(0.0, float("inf")),
    return_final_states=False,
    return_varlen_states=False,
):
    """All steps. Differentiable in every tensor, and through the final states, but not the varlen ones.

    x, z: (b, L, h, p); dt: (b, L, h); A, dt_bias: (h,); B, C: (b, L, g, n); D: (h,) or (h, p)
    initial_states: (b, h, p, n); seq_idx: (b, L), where a negative index is padding, which leaves no state
    cu_seqlens: (sequences + 1,), for batch 1

    Returns out (b, L, h, p) in the dtype of x; then final states (b, h, p, n) in float32 or wider; then
    varlen states (sequences, h, p, n) in the dtype of C.
    """
    _check(x, dt, A, B, C, D, z, dt_bias, initial_states, seq_idx)
    chunk = min(chunk_size, CHUNK)
    dA_cumsum, dt = chunk_cumsum(dt, A, chunk, dt_bias, dt_softplus, dt_limit)
    states = chunk_state(B, x, dt, dA_cumsum, seq_idx)
    initial = None if initial_states is None else initial_states.flatten(2)
    states, final_states = state_passing(states.flatten(3), dA_cumsum[..., -1], initial, seq_idx, chunk)
    shape = (x.shape[3], B.shape[3])
    states, final_states = states.unflatten(-1, shape), final_states.unflatten(-1, shape)
    cb = bmm_chunk(C, B, chunk, seq_idx)
    _, out = chunk_scan(cb, x, dt, dA_cumsum, C, states, D, z, seq_idx)
    results = [out.to(x.dtype)]
    if return_final_states:
        results.append(final_states)
    if return_varlen_states:
        assert cu_seqlens is not None, "cu_seqlens must be provided if return_varlen_states is True"
        assert x.shape[0] == 1, (
            "passing cu_seqlens to get the varlen states is only supported if batch dimension is 1"
        )
        with torch.no_grad():
            varlen_states = chunk_state_varlen(B[0], x[0], dt[0], dA_cumsum[0], cu_seqlens, states[0])
        results.append(varlen_states.to(C.dtype))
    return results[0] if len(results) == 1 else tuple(results)


def _chunks(t, chunk_size, padding=0):
    """(b, L, ...) as (b, c, l, ...), padded at the end."""
    missing = -t.shape[1] % chunk_size
    if missing:
        t = F.pad(t, (0, 0) * (t.dim() - 2) + (0, missing), value=padding)
    return t.unflatten(1, (-1, chunk_size))


def _last_of_chunk(seq_idx, chunk_size):
    """The number of the sequence in which each chunk ends. (b, c)"""
    seqlen = seq_idx.shape[1]
    ends = torch.arange(chunk_size, seqlen + chunk_size, chunk_size, device=seq_idx.device)
    return seq_idx[:, ends.clamp(max=seqlen) - 1]


def _by_group(t, dim, ngroups):
    """The heads in dimension `dim` as (g, heads per group): neighbouring heads share a group."""
    return t.unflatten(dim, (ngroups, -1))


def _check(x, dt, A, B, C, D, z, dt_bias, initial_states, seq_idx):
    batch, seqlen, nheads, headdim = x.shape
    ngroups, dstate = B.shape[2:]
    assert nheads % ngroups == 0, "nheads must be divisible by ngroups"
    assert D is None or D.shape in ((nheads, headdim), (nheads,)), f"D has shape {tuple(D.shape)}"
    expected = [
        ("dt", dt, (batch, seqlen, nheads)),
        ("A", A, (nheads,)),
        ("B", B, (batch, seqlen, ngroups, dstate)),
        ("C", C, (batch, seqlen, ngroups, dstate)),
        ("z", z, tuple(x.shape)),
        ("dt_bias", dt_bias, (nheads,)),
        ("initial_states", initial_states, (batch, nheads, headdim, dstate)),
        ("seq_idx", seq_idx, (batch, seqlen)),
    ]
    for name, tensor, shape in expected:
        assert tensor is None or tensor.shape == shape, (
            f"{name} must have shape {shape}, and has {tuple(tensor.shape)}"
        )
