"""The operators that are proven: inputs, attributes, and the results step by step in float64."""

import numpy as np

BATCH, DIM, SEQLEN, DSTATE, RANK, WIDTH, HEADS, HEAD = 2, 20, 37, 16, 3, 4, 3, 8


def cases():
    """Each case: the operator, its inputs by name (None: absent), its attributes, its results by name.

    Inputs are float32, results float64.
    """
    draw = np.random.default_rng(0).standard_normal

    def array(*shape):
        return draw(shape).astype(np.float32)

    rates, skip, bias = -np.exp(array(DIM, DSTATE)), array(DIM), array(DIM)
    x, delta, gate = array(BATCH, DIM, SEQLEN), array(BATCH, DIM, SEQLEN), array(BATCH, DIM, SEQLEN)
    b, c = array(BATCH, DSTATE, SEQLEN), array(BATCH, DSTATE, SEQLEN)
    weight, conv_bias = array(DIM, WIDTH), array(DIM)
    yield (
        "CausalConv",
        {"x": x, "weight": weight, "bias": conv_bias},
        {"silu": 1},
        {"out": convolution(x, weight, conv_bias)},
    )
    out, last = scan(x, delta, rates, b, c, skip, gate, bias)
    yield (
        "SelectiveScan",
        {"u": x, "delta": delta, "A": rates, "B": b, "C": c, "D": skip, "z": gate, "delta_bias": bias},
        {"delta_softplus": 1},
        {"out": out, "last_state": last},
    )
    rows, projected, delta_weight = last_axis(x), array(BATCH, SEQLEN, RANK + 2 * DSTATE), array(DIM, RANK)
    gates, onto = last_axis(gate), array(BATCH, SEQLEN, DIM)
    low, b_rows, c_rows = np.split(projected.astype(np.float64), [RANK, RANK + DSTATE], axis=2)
    backward = [item[:, ::-1] for item in (rows, low @ delta_weight.T, b_rows, c_rows, gates)]
    u, steps, b_back, c_back, z_back = (item.transpose(0, 2, 1) for item in backward)
    out, _ = scan(u, steps, rates, b_back, c_back, skip, z_back, bias)
    yield (
        "ProjectedScan",
        {
            "u": rows,
            "projected": projected,
            "delta_weight": delta_weight,
            "A": rates,
            "D": skip,
            "z": gates,
            "delta_bias": bias,
            "onto": onto,
        },
        {"delta_softplus": 1, "reverse": 1, "channels_last": 1, "scale": 0.5},
        {"out": 0.5 * (onto + out.transpose(0, 2, 1)[:, ::-1])},
    )
    heads = array(BATCH, SEQLEN, HEADS, HEAD)
    dt, rate = array(BATCH, SEQLEN, HEADS), -np.exp(array(HEADS))
    b2, c2 = array(BATCH, SEQLEN, 1, DSTATE), array(BATCH, SEQLEN, 1, DSTATE)
    flat = [heads.reshape(BATCH, SEQLEN, -1), np.repeat(dt, HEAD, axis=2), b2[:, :, 0], c2[:, :, 0]]
    u, steps, b_steps, c_steps = (item.transpose(0, 2, 1) for item in flat)
    out, last = scan(u, steps, np.repeat(rate, HEAD)[:, None], b_steps, c_steps)
    yield (
        "ChunkScan",
        {"x": heads, "dt": dt, "A": rate, "B": b2, "C": c2},
        {"dt_softplus": 1},
        {
            "out": out.transpose(0, 2, 1).reshape(heads.shape),
            "final_states": last.reshape(BATCH, HEADS, HEAD, DSTATE),
        },
    )
    state = array(BATCH, DIM, DSTATE)
    first = {"x": x[..., 0], "dt": delta[..., 0], "A": rates, "B": b[..., 0], "C": c[..., 0]}
    out, last = scan(
        x[..., :1], delta[..., :1], rates, b[..., :1], c[..., :1], skip, gate[..., :1], bias, state
    )
    yield (
        "StateUpdate",
        {"state": state, **first, "D": skip, "z": gate[..., 0], "dt_bias": bias},
        {"dt_softplus": 1},
        {"out": out[..., 0], "next_state": last},
    )
    features, residual = array(BATCH, SEQLEN, DIM), array(BATCH, SEQLEN, DIM)
    total = features.astype(np.float64) + residual
    normed = total / np.sqrt((total**2).mean(axis=-1, keepdims=True) + 1e-5) * skip
    yield (
        "Norm",
        {"x": features, "weight": skip, "bias": None, "residual": residual},
        {"eps": 1e-5, "rms": 1},
        {"out": normed},
    )


def last_axis(value):
    """(batch, dim, seqlen) as (batch, seqlen, dim)."""
    return np.ascontiguousarray(value.transpose(0, 2, 1))


def silu(value):
    return value / (1 + np.exp(-value))


def convolution(x, weight, bias):
    """(batch, dim, seqlen): every sum of WIDTH inputs, with silu."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (WIDTH - 1, 0)))
    taps = [weight[:, tap, None] * padded[..., tap : tap + x.shape[2]] for tap in range(WIDTH)]
    return silu(sum(taps) + bias[:, None].astype(np.float64))


def scan(u, delta, rates, b, c, skip=None, gate=None, bias=None, state=None):
    """The recurrence step by step: (batch, dim, seqlen), and the last state (batch, dim, dstate)."""
    u, delta, b, c = (item.astype(np.float64) for item in (u, delta, b, c))
    delta = np.logaddexp(0.0, delta if bias is None else delta + bias[:, None])
    state = np.zeros((*u.shape[:2], b.shape[1])) if state is None else state.astype(np.float64)
    out = np.empty_like(u)
    for t in range(u.shape[2]):
        step = delta[..., t, None]
        state = np.exp(step * rates) * state + step * u[..., t, None] * b[:, None, :, t]
        out[..., t] = (state * c[:, None, :, t]).sum(axis=2)
    out = out if skip is None else out + skip[:, None] * u
    return (out if gate is None else out * silu(gate.astype(np.float64))), state
