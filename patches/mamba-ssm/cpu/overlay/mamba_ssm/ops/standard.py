"""The operations in ONNX's own operators: the standard form of `exporting`.

Mamba-1's scan is ONNX's Scan over the steps, and Mamba-2's a Scan over chunks of matrix products. So the number of nodes
does not depend on the length, no exponential overflows, and the length may change from call to call.
docs/how-to/onnx.md compares the forms that were measured.
"""

import torch
import torch.nn.functional as F

CHUNK = 32
# 2 * artanh(s) / s as a polynomial of s**2, s from 0 to 1/3: off by 2e-7 of the result or less.
ARTANH = (1.99999964, 0.66675848, 0.39593187, 0.34203619)


def softplus(x):
    """log(1 + exp(x)), within 5e-7 of the result, in operators that runtimes compute on vectors.

    ONNX Runtime's Softplus and Log take one number at a time. log1p(e) is 2 * artanh(e / (2 + e)).
    """
    e = torch.exp(-x.abs())
    s = e / (e + 2)
    square = s * s
    series = ARTANH[-1] * square + ARTANH[-2]
    for coefficient in ARTANH[-3::-1]:
        series = series * square + coefficient
    return F.relu(x) + s * series


def convolve(rows, weight, bias, state=None, reverse=False):
    """The convolution with silu, as a convolution of an image one row high, for which runtimes have fast kernels.

    rows: (batch, seqlen, dim); weight: (dim, width); bias: (dim,); state: (batch, dim, width - 1)

    Returns out, of the shape of rows, in float32, and the next state, or None without a state.
    """
    before = weight.shape[1] - 1
    next_state = None
    if state is not None:
        rows = torch.cat([state.transpose(1, 2).to(rows.dtype), rows], dim=1)
        next_state = rows[:, -before:].transpose(1, 2)
    image = rows.float().unsqueeze(1).permute(0, 3, 1, 2)
    if state is None:
        image = F.pad(image, (0, before) if reverse else (before, 0))
    weight = (weight.flip(1) if reverse else weight).float()[:, None, None]
    out = F.silu(F.conv2d(image, weight, None if bias is None else bias.float(), groups=weight.shape[0]))
    return out.permute(0, 2, 3, 1).squeeze(1), next_state


def inner(
    rows, conv_weight, conv_bias, x_proj_weight, delta_proj_weight, A, D, delta_bias, delta_softplus, reverse, onto,
    scale, conv_state, ssm_state,
):  # fmt: skip
    """`exporting.inner`."""
    (dim, dstate), rank, dtype = A.shape, delta_proj_weight.shape[1], rows.dtype
    x, z = rows.split([dim, dim], dim=-1)
    u, conv_state = convolve(x, conv_weight, conv_bias, conv_state, reverse)
    low, B, C = F.linear(u.to(dtype), x_proj_weight).float().transpose(0, 1).split([rank, dstate, dstate], dim=-1)
    delta = F.linear(low, delta_proj_weight.float())
    out, last = scan_steps(
        u.transpose(0, 1), delta, A, B.unsqueeze(2), C.unsqueeze(2), D, delta_bias, delta_softplus, reverse, ssm_state
    )
    out = out.transpose(0, 1) * F.silu(z.float())
    out = out if onto is None else out + onto
    out = (out if scale == 1 else out * scale).to(dtype)
    return out if ssm_state is None else (out, conv_state, last)


def both_directions(rows, forward, backward, scale):
    """`exporting.both_directions` in one Scan, in which the backward direction reads the steps from the last."""
    (dim, dstate), rank, dtype = forward[4].shape, forward[3].shape[1], rows.dtype
    x, z = rows.split([dim, dim], dim=-1)
    us, lows, Bs, Cs = [], [], [], []
    for steps, (conv_weight, conv_bias, x_proj_weight, *_) in ((x, forward), (x.flip([1]), backward)):
        u, _ = convolve(steps, conv_weight, conv_bias)
        projected = F.linear(u.to(dtype), x_proj_weight).float().transpose(0, 1)
        parts = (u, *projected.split([rank, dstate, dstate], dim=-1))
        for of_both, part in zip((us, lows, Bs, Cs), parts, strict=True):
            of_both.append(part)
    delta = F.linear(torch.cat(lows, dim=-1), torch.block_diag(forward[3].float(), backward[3].float()))
    A, D, delta_bias = (torch.cat(pair) for pair in zip(forward[4:], backward[4:], strict=True))
    B, C = torch.stack(Bs, dim=2), torch.stack(Cs, dim=2)
    if scale != 1:  # C and D are the smallest tensors that scale the result
        C, D = C * scale, D.float() * scale
    out, _ = scan_steps(torch.cat(us, dim=-1).transpose(0, 1), delta, A, B, C, D, delta_bias, True)
    out, out_b = out.split([dim, dim], dim=-1)
    return ((out + out_b.flip([0])).transpose(0, 1) * F.silu(z.float())).to(dtype)


def scan_steps(u, delta, A, B, C, D, delta_bias, delta_softplus, reverse=False, first_state=None):
    """Mamba-1's scan as ONNX's Scan over the steps, in float32. The steps are the outermost axis.

    u, delta: (seqlen, batch, dim); A: (dim, dstate)
    B, C: (seqlen, batch, groups, dstate), or constant in time (dim, dstate)
    first_state: (batch, dim, dstate)

    Returns out: (seqlen, batch, dim), and the last state, of the shape of first_state.
    """
    groups = next((t.shape[2] for t in (B, C) if t.dim() == 4), 1)
    delta = delta if delta_bias is None else delta + delta_bias.float()
    delta = softplus(delta) if delta_softplus else delta

    def steps(t, axis):
        """(seqlen, batch, features) as (seqlen, batch, groups, 1, features / groups), or with the 1 last."""
        t = (t.unflatten(-1, (groups, -1)) if t.dim() == 3 else t).unsqueeze(axis)
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
        first = u.new_zeros(u.shape[1], groups, A.shape[1], A.shape[0] // groups)
    else:
        first = states(first_state)
    last, ys = run_scan(step, first, over_time, fixed)
    out = (ys.flip([0]) if reverse else ys).flatten(2)
    out = out if D is None else out + D.float() * u
    return out, last.transpose(-1, -2).flatten(1, 2)


def scan_chunks(x, dt, A, B, C, initial_states):
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
    last, ys = run_scan(step, first, [chunks], [until, later])
    y = ys.transpose(2, 3).movedim(0, 1).flatten(1, 2)[:, :seqlen]
    return y, last.flatten(1, 2)


def run_scan(step, first, inputs, constants):
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
