"""The operations as torch.onnx.export takes them: in ONNX's own operators, or each as one operator of mambaport's.

The environment variable MAMBAPORT_ONNX_FORM says which: ``standard``, the default, or ``fused``.

In the standard form, Mamba-1's scan is ONNX's Scan over the steps, and Mamba-2's a Scan over chunks of matrix
products. So the number of nodes does not depend on the length, no exponential overflows, and the length may change
from call to call. docs/how-to/onnx.md compares the forms that were measured.
"""

import os

import torch
import torch.nn.functional as F

# As in causal_conv1d.exporting: each package works without the other. A unit test compares form().
VARIABLE = "MAMBAPORT_ONNX_FORM"
FORMS = ("standard", "fused")
DOMAIN = "ai.mambaport"
CHUNK = 32


def form():
    """``standard`` or ``fused`` while torch.onnx.export makes a graph; None at all other times.

    Raises ValueError where MAMBAPORT_ONNX_FORM is another word.
    """
    if not (torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export()):
        return None
    word = os.environ.get(VARIABLE, "").strip().lower() or FORMS[0]
    if word not in FORMS:
        raise ValueError(f"{VARIABLE} is {word!r}; set it to {' or '.join(FORMS)}, or unset it")
    return word


def inner(
    rows, conv_weight, conv_bias, x_proj_weight, delta_proj_weight, A, D=None, delta_bias=None, delta_softplus=True,
    reverse=False, onto=None, scale=1.0, conv_state=None, ssm_state=None,
):  # fmt: skip
    """Mamba-1 between its input and output projections, with the features of a step innermost.

    rows: (batch, seqlen, 2 * dim)
    conv_weight: (dim, width); x_proj_weight: (delta_rank + 2 * dstate, dim); delta_proj_weight: (dim, delta_rank)
    A: (dim, dstate), real; onto: (batch, seqlen, dim); the result is scale * (onto + out)
    conv_state: (batch, dim, width - 1), ssm_state: (batch, dim, dstate): both or neither

    Returns out: (batch, seqlen, dim), or (out, conv_state, ssm_state) with the states after the last step.
    """
    fused, dtype, stateful = form() == "fused", rows.dtype, ssm_state is not None
    (batch, seqlen, _), (dim, dstate), width = rows.shape, A.shape, conv_weight.shape[1]
    if fused:
        shapes = [(batch, seqlen, dim), (batch, dim, width - 1)][: 1 + stateful]
        flags = {"silu": 1, "reverse": int(reverse), "channels_last": 1, "x_offset": 0}
        u, *conv_state = node("CausalConv", (rows, conv_weight, conv_bias, conv_state), shapes, flags)
    else:
        x = rows[..., :dim].transpose(1, 2)
        u, *conv_state = _convolve(x, conv_weight, conv_bias, conv_state, reverse)
        u = u.transpose(1, 2)
    projected = F.linear(u.to(dtype), x_proj_weight)
    if fused:
        flags = {"delta_softplus": int(delta_softplus), "reverse": int(reverse), "scale": float(scale)}
        flags |= {"channels_last": 1, "z_offset": dim}
        inputs = (u, projected, delta_proj_weight, A, D, rows, delta_bias, onto, ssm_state)
        shapes = [(batch, seqlen, dim), (batch, dim, dstate)][: 1 + stateful]
        out, *ssm_state = node("ProjectedScan", inputs, shapes, flags)
    else:
        rank = delta_proj_weight.shape[1]
        dt, B, C = projected.float().split([rank, dstate, dstate], dim=-1)
        delta = F.linear(dt, delta_proj_weight.float())
        out, *ssm_state = _scan_rows(
            u.float(), delta, A, B.unsqueeze(2), C.unsqueeze(2), D, rows[..., dim:], delta_bias, delta_softplus,
            reverse, ssm_state,
        )  # fmt: skip
        ssm_state = ssm_state[:stateful]
        out = out if onto is None else out + onto
        out = out if scale == 1 else out * scale
    return (out.to(dtype), *conv_state, *ssm_state) if stateful else out.to(dtype)


def selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, reverse):
    """`dispatch.selective_scan` for a real A.

    Raises NotImplementedError for a complex A.
    """
    if A.is_complex():
        raise NotImplementedError("ONNX has no complex numbers: a scan with a complex A cannot be exported")
    batch, dim, seqlen = u.shape
    if form() == "fused":
        flags = {"delta_softplus": int(delta_softplus), "reverse": int(reverse)}
        inputs = (u, delta, A, B, C, D, z, delta_bias)
        shapes = [(batch, dim, seqlen), (batch, dim, A.shape[1])][: 1 + return_last_state]
        out, *last = node("SelectiveScan", inputs, shapes, flags)
        return (out.to(u.dtype), last[0]) if return_last_state else out.to(u.dtype)
    rows, deltas, gates = (None if t is None else t.transpose(1, 2) for t in (u, delta, z))
    B, C = (t if t.dim() == 2 else (t if t.dim() == 4 else t.unsqueeze(1)).permute(0, 3, 1, 2) for t in (B, C))
    out, last = _scan_rows(
        rows.float(), deltas.float(), A, B, C, D, gates, delta_bias, delta_softplus, reverse
    )
    out = out.transpose(1, 2).to(u.dtype)
    return (out, last) if return_last_state else out


def selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus):
    """`dispatch.selective_state_update` as one operator; state moves on in place."""
    flags = {"dt_softplus": int(dt_softplus)}
    inputs = (state, x, dt, A, B, C, D, z, dt_bias)
    out, next_state = node("StateUpdate", inputs, [tuple(x.shape), tuple(state.shape)], flags)
    state.copy_(next_state)
    return out.to(x.dtype)


def layer_norm(x, weight, bias, residual, eps, prenorm, residual_in_fp32, is_rms_norm):
    """`dispatch.layer_norm` as one operator."""
    shapes = [tuple(x.shape)] * (1 + prenorm)
    flags = {"eps": float(eps), "rms": int(is_rms_norm)}
    y, *total = node("Norm", (x, weight, bias, residual), shapes, flags)
    if not prenorm:
        return y.to(x.dtype)
    total_dtype = residual.dtype if residual is not None else torch.float32 if residual_in_fp32 else x.dtype
    return y.to(x.dtype), total[0].to(total_dtype)


def gated_norm(x, weight, bias, z, eps, group_size, norm_before_gate, is_rms_norm):
    """`dispatch.gated_norm` as one operator."""
    gate = 0 if z is None else 1 if norm_before_gate else 2
    flags = {"eps": float(eps), "rms": int(is_rms_norm), "group": int(group_size or 0), "gate": gate}
    return node("Norm", (x, weight, bias, None, z), [tuple(x.shape)], flags)[0].to(x.dtype)


def mamba_chunk_scan_combined(
    x, dt, A, B, C, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None, dt_softplus=False,
    dt_limit=(0.0, float("inf")), return_final_states=False,
):  # fmt: skip
    """`dispatch.mamba_chunk_scan_combined`, whose result does not depend on its chunk_size.

    Raises NotImplementedError for packed sequences in the standard form.
    """
    batch, seqlen, heads, width = x.shape
    dstate = B.shape[3]
    if form() == "fused":
        flags = {"dt_softplus": int(dt_softplus), "dt_min": float(dt_limit[0]), "dt_max": float(dt_limit[1])}
        seq_idx = None if seq_idx is None else seq_idx.to(torch.int32)
        inputs = (x, dt, A, B, C, D, z, dt_bias, initial_states, seq_idx)
        shapes = [(batch, seqlen, heads, width), (batch, heads, width, dstate)][: 1 + return_final_states]
        out, *last = node("ChunkScan", inputs, shapes, flags)
        if return_final_states and seq_idx is not None:  # a row that ends in padding leaves no state
            last[0] = last[0].masked_fill((seq_idx[:, -1] < 0)[:, None, None, None], 0.0)
        return (out.to(x.dtype), last[0]) if return_final_states else out.to(x.dtype)
    if seq_idx is not None:
        raise NotImplementedError(
            f"seq_idx, the packed sequences of Mamba-2, is exported in the fused form alone: set {VARIABLE}=fused"
        )
    dt = dt.float() if dt_bias is None else dt.float() + dt_bias.float()
    dt = F.softplus(dt) if dt_softplus else dt
    if tuple(dt_limit) != (0.0, float("inf")) or not dt_softplus:
        dt = dt.clamp(*dt_limit)
    y, last = _scan_chunks(x.float(), dt, A.float(), B.float(), C.float(), initial_states)
    if D is not None:
        y = y + x.float() * (D if D.dim() == 2 else D[:, None]).float()
    y = (y if z is None else y * F.silu(z.float())).to(x.dtype)
    return (y, last) if return_final_states else y


def node(name, inputs, shapes, attributes):
    """The outputs of a node, of these shapes, in float32, as all of mambaport's operators have."""
    inputs = [t.float() if t is not None and t.is_floating_point() else t for t in inputs]
    dtypes = [torch.float32] * len(shapes)
    return torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{name}", inputs, attributes, dtypes=dtypes, shapes=shapes, version=1
    )


def _convolve(x, weight, bias, state, reverse):
    """The convolution with silu, and, where there is a state, the next state."""
    from mamba_ssm.ops import unfused  # which imports this module

    if state is None:
        return (unfused.causal_conv1d(x, weight, bias, reverse=reverse),)
    return unfused.causal_conv1d_fn(
        x, weight, bias, initial_states=state, return_final_states=True, activation="silu"
    )


def _scan_rows(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, first_state=None):
    """The scan as ONNX's Scan over the steps, in float32.

    u, delta, z: (batch, seqlen, dim); A: (dim, dstate)
    B, C: (batch, seqlen, groups, dstate), or constant in time (dim, dstate)
    first_state: (batch, dim, dstate)

    Returns out: (batch, seqlen, dim), and the last state, of the shape of first_state.
    """
    groups = next((t.shape[2] for t in (B, C) if t.dim() == 4), 1)
    delta = delta if delta_bias is None else delta + delta_bias.float()
    delta = F.softplus(delta) if delta_softplus else delta

    def steps(t, axis):
        """(batch, seqlen, features) as (seqlen, batch, groups, 1, features / groups), or with the 1 last."""
        t = t.unflatten(-1, (groups, -1)) if t.dim() == 3 else t
        t = t.transpose(0, 1).unsqueeze(axis)
        return t.flip([0]) if reverse else t

    def states(t):
        """(..., dim, dstate) as (..., groups, dstate, dim / groups): the channels, of which there are more, innermost."""
        t = t.float().unflatten(-2, (groups, -1)).transpose(-1, -2)
        return t.clone(memory_format=torch.contiguous_format)  # also where an axis is 1: see below

    B_varies, C_varies = B.dim() == 4, C.dim() == 4
    over_time = [steps(delta, 3), steps(delta * u, 3)]
    over_time += [steps(B.float(), 4)] if B_varies else []
    over_time += [steps(C.float(), 3)] if C_varies else []
    fixed = [states(A), *([] if B_varies else [states(B)]), *([] if C_varies else [states(C)])]

    def step(state, inputs, constants):
        (dt, inflow, *inputs), (rates, *constants) = inputs, constants
        b = inputs.pop(0) if B_varies else constants.pop(0)
        state = torch.exp(dt * rates) * state + inflow * b
        return state, (inputs[0] @ state if C_varies else (constants[0] * state).sum(-2, keepdim=True))

    # torch's scan refuses a first state whose strides differ from those of the next state, which are contiguous.
    if first_state is None:
        first = u.new_zeros(u.shape[0], groups, A.shape[1], A.shape[0] // groups)
    else:
        first = states(first_state)
    last, ys = _scan(step, first, over_time, fixed)
    ys = ys.flip([0]) if reverse else ys
    out = ys.squeeze(3).transpose(0, 1).flatten(2)
    out = out if D is None else out + D.float() * u
    out = out if z is None else out * F.silu(z.float())
    return out, last.transpose(-1, -2).flatten(1, 2)


def _scan_chunks(x, dt, A, B, C, initial_states):
    """Mamba-2's scan as ONNX's Scan over chunks, in float32.

    x: (batch, seqlen, heads, head_dim); dt: (batch, seqlen, heads); A: (heads,)
    B, C: (batch, seqlen, groups, dstate); initial_states: (batch, heads, head_dim, dstate)

    Returns out, of the shape of x, and the last states, of the shape of initial_states.
    """
    batch, seqlen, heads, width = x.shape
    groups, dstate = B.shape[2:]
    # One tensor for all, because each pad and division of a symbolic length costs the exporter seconds. dt is 0 beyond
    # the end, which keeps the state.
    rows = torch.cat([(x * dt.unsqueeze(-1)).flatten(2), dt * A, B.flatten(2), C.flatten(2)], dim=-1)
    features = [heads * width, heads, groups * dstate, groups * dstate]
    count = (seqlen + CHUNK - 1) // CHUNK
    chunks = F.pad(rows, (0, 0, 0, count * CHUNK - seqlen)).unflatten(1, (count, CHUNK)).transpose(0, 1)
    # The log of the decay between two steps is summed for each pair: a difference of running sums would lose digits.
    ones = x.new_ones(CHUNK, CHUNK)
    until, later = ones.tril(), ones.tril(-1)

    def step(state, inputs, constants):
        until, later = constants
        x, log, b, c = inputs[0].split(features, dim=-1)
        x = x.unflatten(-1, (groups, heads // groups, width)).permute(0, 2, 3, 1, 4)
        log = log.unflatten(-1, (groups, heads // groups, 1)).permute(0, 2, 3, 1, 4)
        b, c = (t.unflatten(-1, (groups, 1, dstate)).permute(0, 2, 3, 1, 4) for t in (b, c))
        decay = torch.exp(until @ (log * later)) * until
        since_start = torch.exp(until @ log)
        y = (c @ b.mT * decay) @ x + since_start * (c @ state.mT)
        state = since_start[..., -1:, :] * state + (torch.exp(later.t() @ log) * x).mT @ b
        return state, y.flatten(1, 2)

    if initial_states is None:
        initial_states = x.new_zeros(batch, heads, width, dstate)
    first = initial_states.float().unflatten(1, (groups, -1))
    last, ys = _scan(step, first, [chunks], [until, later])
    y = ys.transpose(2, 3).movedim(0, 1).flatten(1, 2)[:, :seqlen]
    return y, last.flatten(1, 2)


def _scan(step, first, inputs, constants):
    """ONNX's Scan: step(state, inputs of one step, constants) returns the next state and an output.

    torch's operator is called, not torch's function of the same name, which compiles each step and refuses the ninth.

    Raises RuntimeError where torch has no such operator.
    """
    try:
        from torch._higher_order_ops.scan import scan_op
    except ImportError:
        raise RuntimeError(
            f"torch {torch.__version__} cannot export a scan to ONNX: install torch 2.9 or newer for the export"
        ) from None

    def flat(state, *rest):
        return list(step(state, rest[: len(inputs)], rest[len(inputs) :]))

    # A file has no gradients, and with them torch's scan saves the tensors of each step, of symbolic sizes, and fails.
    first, *tensors = (t.detach() for t in (first, *inputs, *constants))
    return scan_op(flat, (first,), tuple(tensors[: len(inputs)]), tuple(tensors[len(inputs) :]))
