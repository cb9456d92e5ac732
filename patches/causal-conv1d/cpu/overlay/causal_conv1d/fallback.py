"""The causal convolution in plain PyTorch: any device, any floating dtype, any memory layout.

These functions take their arguments as `causal_conv1d.causal_conv1d_fn` and its neighbours do, in full:
3-d x, and an activation that is already known to be allowed. They compute in float32, or in float64
where an argument is, and round once, to the dtype of x.
"""

import torch
import torch.nn.functional as F


def causal_conv1d_fn(
    x,
    weight,
    bias=None,
    seq_idx=None,
    initial_states=None,
    return_final_states=False,
    final_states_out=None,
    activation=None,
):
    """Differentiable in x, weight, bias and initial_states; out has the memory layout of x.

    x: (batch, dim, seqlen)
    weight: (dim, width)
    bias: (dim,)
    seq_idx: (batch, seqlen). No output sees an input of another sequence; a negative one marks padding,
        where the output is 0.
    initial_states: (batch, dim, width - 1), the inputs before the first, of the sequence of the first
    final_states_out: (batch, dim, width - 1), to be written to where return_final_states is True

    out: (batch, dim, seqlen), or (out, final_states)
    """
    width = weight.shape[1]
    window = _prepend(x, initial_states, width - 1)
    line = None if seq_idx is None else _indices(seq_idx, initial_states is not None, width - 1)
    out = _convolve(window, weight, bias, line)
    if activation is not None:
        out = F.silu(out)
    if seq_idx is not None:
        out = out.masked_fill(seq_idx.unsqueeze(1) < 0, 0.0)
    out = out.to(x.dtype)
    if x.stride(1) == 1:
        out = out.transpose(1, 2).contiguous().transpose(1, 2)
    if not return_final_states:
        return out
    final_states = window[:, :, window.shape[2] - (width - 1) :]
    if final_states_out is None:
        return out, final_states.clone()
    return out, final_states_out.copy_(final_states)


def causal_conv1d_update(
    x,
    conv_state,
    weight,
    bias=None,
    activation=None,
    cache_seqlens=None,
    conv_state_indices=None,
):
    """Convolve the next inputs and move conv_state on by them, in place. For use without gradients, as in CUDA.

    x: (batch, dim, seqlen)
    conv_state: (batch or more, dim, state_len), state_len >= width - 1: the last inputs, oldest first
    cache_seqlens: (batch,). Given, conv_state is a ring, and x is written from cache_seqlens % state_len on.
    conv_state_indices: (batch,), the row of conv_state for each row of x. A negative one marks padding:
        its output is 0 and no state changes.

    out: (batch, dim, seqlen)
    """
    seqlen = x.shape[2]
    width, state_len = weight.shape[1], conv_state.shape[2]
    if conv_state_indices is None:
        state, padding = conv_state, None
    else:
        rows = conv_state_indices.long()
        padding = rows < 0
        state = conv_state[rows.clamp(min=0)]

    if cache_seqlens is None:
        line = torch.cat([state.to(x.dtype), x], dim=2)
        window = line[:, :, state_len - (width - 1) :]
        new_state = line[:, :, seqlen:]
    else:
        start = cache_seqlens.long()
        history = state.gather(2, _ring(start - (width - 1), width - 1, state))
        window = torch.cat([history.to(x.dtype), x], dim=2)
        kept = min(seqlen, state_len)  # a longer x comes round and overwrites its own beginning
        ring = _ring(start + seqlen - kept, kept, state)
        new_state = state.scatter(2, ring, x[:, :, seqlen - kept :].to(state.dtype))

    out = _convolve(window, weight, bias)
    if activation is not None:
        out = F.silu(out)
    if padding is None:
        conv_state.copy_(new_state)
    else:
        out = out.masked_fill(padding[:, None, None], 0.0)
        conv_state[rows[~padding]] = new_state[~padding].to(conv_state.dtype)
    return out.to(x.dtype)


@torch.no_grad()
def causal_conv1d_varlen_states(x, cu_seqlens, state_len):
    """The last state_len inputs of each sequence, zeros before a shorter one.

    x: (total_tokens, dim)
    cu_seqlens: (batch + 1,), where each sequence starts, and the total

    states: (batch, dim, state_len)
    """
    starts, ends = cu_seqlens[:-1].long(), cu_seqlens[1:].long()
    rows = ends[:, None] + torch.arange(-state_len, 0, device=x.device)
    outside = rows < starts[:, None]
    states = F.pad(x, (0, 0, 0, 1))[rows.masked_fill(outside, x.shape[0])]  # the row past the end is 0
    return states.transpose(1, 2)


def causal_conv1d_bwd(
    x,
    weight,
    bias,
    dout,
    seq_idx=None,
    initial_states=None,
    dfinal_states=None,
    dx=None,
    return_dinitial_states=False,
    silu_activation=False,
):
    """The backward pass as the CUDA extension gives it: (dx, dweight, dbias, dinitial_states).

    A given dx is written to.
    """
    names = ["x", "weight", "bias", "initial_states"]
    inputs = [None if t is None else t.detach().requires_grad_() for t in (x, weight, bias, initial_states)]
    with torch.enable_grad():
        outs = causal_conv1d_fn(
            inputs[0],
            inputs[1],
            inputs[2],
            seq_idx,
            inputs[3],
            return_final_states=dfinal_states is not None,
            activation="silu" if silu_activation else None,
        )
    given = [t for t in inputs if t is not None]
    if dfinal_states is None:
        grads = torch.autograd.grad([outs], given, [dout])
    else:
        grads = torch.autograd.grad(list(outs), given, [dout, dfinal_states])
    grad = dict(zip((n for n, t in zip(names, inputs, strict=True) if t is not None), grads, strict=True))
    dx = grad["x"] if dx is None else dx.copy_(grad["x"])
    dinitial_states = grad.get("initial_states") if return_dinitial_states else None
    return dx, grad["weight"], grad.get("bias"), dinitial_states


def _prepend(x, states, length):
    """x with `length` inputs before it, the given states or zeros, in the memory layout of x."""
    if states is None:
        states = x.new_zeros(x.shape[0], x.shape[1], length)
    states = states.to(x.dtype)
    if x.stride(1) == 1:  # channels last
        return torch.cat([states.transpose(1, 2), x.transpose(1, 2)], dim=1).transpose(1, 2)
    return torch.cat([states, x], dim=2)


def _indices(seq_idx, has_states, length):
    """The index of each input of the window. Initial states have that of the first step, zeros have none's."""
    seqlen = seq_idx.shape[1]
    before = seq_idx[:, :1].expand(-1, length) if has_states and seqlen else seq_idx.new_full((1, 1), -1)
    return torch.cat([before.expand(seq_idx.shape[0], length), seq_idx], dim=1)


def _convolve(window, weight, bias, indices=None):
    """Each output is the weighted sum of the `width` inputs that end at it.

    window: (batch, dim, width - 1 + seqlen)
    indices: (batch, width - 1 + seqlen), the sequence of each input
    """
    dim, width = weight.shape
    seqlen = window.shape[2] - (width - 1)
    dtype = torch.promote_types(torch.promote_types(window.dtype, weight.dtype), torch.float32)
    window, weight = window.to(dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    if indices is None and seqlen > 0:
        device = window.device.type
        if not torch.amp.is_autocast_available(device):  # meta, for one
            return F.conv1d(window, weight.unsqueeze(1), bias, groups=dim)
        with torch.autocast(device, enabled=False):
            return F.conv1d(window, weight.unsqueeze(1), bias, groups=dim)
    out = window.new_zeros(()) if bias is None else bias[:, None]
    for tap in range(width):
        inputs = window[:, :, tap : tap + seqlen]
        if indices is not None:
            other = indices[:, tap : tap + seqlen] != indices[:, width - 1 :]
            inputs = inputs.masked_fill(other.unsqueeze(1), 0.0)
        out = out + weight[:, tap, None] * inputs
    return out


def _ring(start, length, state):
    """Indices into the ring `state` along its last dimension: `length` of them from `start` on."""
    steps = start[:, None] + torch.arange(length, device=state.device)
    return steps.remainder(state.shape[2]).unsqueeze(1).expand(-1, state.shape[1], -1)
