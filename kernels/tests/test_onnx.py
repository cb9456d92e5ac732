"""The operators of mambaport_onnx in ONNX Runtime give the bits of the same kernels called from torch."""

from __future__ import annotations

import ctypes

import causal_conv1d_cpu
import numpy as np
import pytest
import selective_scan_cpu
import torch
from hypothesis import given
from hypothesis import strategies as st

mambaport_onnx = pytest.importorskip("mambaport_onnx", reason="the installed wheels have no mambaport_onnx")
pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from mambaport_onnx.operators import describe  # noqa: E402
from onnx_graphs import model, run, session  # noqa: E402
from selective_scan_cpu._quantized import packed_shapes  # noqa: E402

SEEDS = st.integers(0, 2**16)
LENGTHS = st.sampled_from([0, 1, 2, 3, 17, 64, 300])


def randn(seed, *shapes):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=rng) for shape in shapes]


def equal(found, *wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b.numpy())


def last(tensor):
    """(batch, channels, ..., time) as (batch, time, channels, ...)."""
    return None if tensor is None else tensor.movedim(-1, 1)


def test_the_library_has_the_operators_of_the_description():
    library = ctypes.CDLL(mambaport_onnx.library_path())
    library.mambaport_onnx_describe.restype = ctypes.c_int64
    size = library.mambaport_onnx_describe(None, ctypes.c_int64(0))
    text = ctypes.create_string_buffer(size + 1)
    assert library.mambaport_onnx_describe(text, ctypes.c_int64(size + 1)) == size
    assert text.value.decode() == describe()


@given(
    batch=st.integers(0, 3), dim=st.integers(1, 40), seqlen=LENGTHS, width=st.integers(2, 4), silu=st.booleans(),
    optional=st.booleans(), channels_last=st.booleans(), reverse=st.booleans(), wide=st.integers(0, 2), seed=SEEDS,
)  # fmt: skip
def test_conv(batch, dim, seqlen, width, silu, optional, channels_last, reverse, wide, seed):
    many, weight, bias, states = randn(seed, (batch, dim * 3, seqlen), (dim, width), (dim,), (batch, dim, width - 1))
    x = many[:, wide * dim : wide * dim + dim]
    with_states = optional and not reverse
    args = {"initial_states": states if with_states else None, "return_final_states": with_states}
    want = causal_conv1d_cpu.causal_conv1d(
        last(x).contiguous().transpose(1, 2) if channels_last else x.contiguous(), weight, bias if optional else None,
        activation="silu" if silu else None, reverse=reverse, **args,
    )  # fmt: skip
    out, *final = run(
        "CausalConv", ["out", "final_states"] if with_states else ["out"],
        x=last(many) if channels_last else many, weight=weight, bias=bias if optional else None,
        initial_states=args["initial_states"], silu=int(silu), channels_last=int(channels_last), reverse=int(reverse),
        x_offset=wide * dim,
    )  # fmt: skip
    out = out.swapaxes(1, 2) if channels_last else out
    equal([out, *final], *(want if with_states else [want]))


@given(seqlen=LENGTHS, seed=SEEDS)
def test_conv_of_packed_sequences(seqlen, seed):
    x, weight = randn(seed, (2, 9, seqlen), (9, 4))
    index = torch.randint(-1, 3, (2, seqlen), generator=torch.Generator().manual_seed(seed)).sort(1)[0].int()
    want = causal_conv1d_cpu.causal_conv1d(x, weight, seq_idx=index, activation="silu")
    equal(run("CausalConv", ["out"], x=x, weight=weight, seq_idx=index, silu=1), want)


@given(
    batch=st.integers(0, 3), dim=st.integers(1, 40), steps=st.integers(0, 5), width=st.integers(2, 4),
    more=st.integers(0, 2), bias=st.booleans(), seed=SEEDS,
)  # fmt: skip
def test_conv_update(batch, dim, steps, width, more, bias, seed):
    shape = (batch, dim, steps) if steps else (batch, dim)
    x, state, weight, b = randn(seed, shape, (batch, dim, width - 1 + more), (dim, width), (dim,))
    found = run("CausalConvUpdate", x=x, state=state, weight=weight, bias=b if bias else None, silu=1)
    want = causal_conv1d_cpu.causal_conv1d_update(x, state, weight, b if bias else None, activation="silu")
    equal(found, want, state)


@given(
    batch=st.integers(0, 2), dim=st.sampled_from([2, 6, 40]), seqlen=LENGTHS, dstate=st.integers(1, 20),
    kind=st.sampled_from(["variable", "groups", "constant", "mixed"]), optional=st.booleans(),
    channels_last=st.booleans(), reverse=st.booleans(), seed=SEEDS,
)  # fmt: skip
def test_selective_scan(batch, dim, seqlen, dstate, kind, optional, channels_last, reverse, seed):
    groups = (2,) if kind == "groups" else ()
    variable, constant = (batch, *groups, dstate, seqlen), (dim, dstate)
    u, delta, z, A, B, C, D, bias = randn(
        seed, *[(batch, dim, seqlen)] * 3, (dim, dstate), constant if kind == "constant" else variable,
        constant if kind in ("constant", "mixed") else variable, (dim,), (dim,),
    )  # fmt: skip
    A = -A.abs()
    D, z, bias = (D, z, bias) if optional else (None, None, None)

    def laid(t):
        return last(t) if channels_last and t is not None and t.dim() > 2 else t

    wanted = [laid(t) for t in (u, delta, B, C, z)]
    wanted = [t if t is None or t.dim() == 2 or not channels_last else t.contiguous().movedim(1, -1) for t in wanted]
    want = selective_scan_cpu.selective_scan(
        wanted[0], wanted[1], A, wanted[2], wanted[3], D, wanted[4], bias, True, return_last_state=True, reverse=reverse
    )
    out, state = run(
        "SelectiveScan", u=laid(u), delta=laid(delta), A=A, B=laid(B), C=laid(C), D=D, z=laid(z), delta_bias=bias,
        delta_softplus=1, reverse=int(reverse), channels_last=int(channels_last),
    )  # fmt: skip
    equal([out.swapaxes(1, 2) if channels_last else out, state], *want)


def test_a_scan_goes_on_from_a_state():
    u, delta, A, B, C = randn(0, *[(2, 6, 50)] * 2, (6, 4), *[(2, 4, 50)] * 2)
    A = -A.abs()
    whole, state = run("SelectiveScan", u=u, delta=delta, A=A, B=B, C=C, delta_softplus=1)
    cut = [[t[..., :20], t[..., 20:]] for t in (u, delta, B, C)]
    parts, first = [], None
    for u, delta, B, C in zip(*cut, strict=True):
        out, first = run("SelectiveScan", u=u, delta=delta, A=A, B=B, C=C, first_state=first, delta_softplus=1)
        parts.append(out)
    np.testing.assert_allclose(np.concatenate(parts, 2), whole, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(first, state, rtol=1e-6, atol=1e-6)


@given(
    batch=st.integers(0, 2), dim=st.sampled_from([2, 6, 40]), seqlen=LENGTHS, dstate=st.integers(1, 20),
    rank=st.integers(1, 9), optional=st.booleans(), channels_last=st.booleans(), reverse=st.booleans(),
    offset=st.integers(0, 1), seed=SEEDS,
)  # fmt: skip
def test_projected_scan(batch, dim, seqlen, dstate, rank, optional, channels_last, reverse, offset, seed):
    u, xz, onto, projected, weight, A, D, bias = randn(
        seed, (batch, dim, seqlen), (batch, 2 * dim, seqlen), (batch, dim, seqlen),
        (batch, rank + 2 * dstate, seqlen), (dim, rank), (dim, dstate), (dim,), (dim,),
    )  # fmt: skip
    A = -A.abs()
    z = xz[:, offset * dim : offset * dim + dim]
    z, onto, D, bias = (z, onto, D, bias) if optional else (None,) * 4
    laid = last if channels_last else lambda t: t

    def strided(t):
        return None if t is None else last(t).contiguous().movedim(1, -1) if channels_last else t.contiguous()

    sum_before = None if onto is None else onto.clone()  # the call may take its memory

    want = selective_scan_cpu.projected_scan(
        strided(u), strided(projected), weight, A, D, strided(z), bias, True, strided(sum_before), 0.5, reverse
    )
    out, _ = run(
        "ProjectedScan", u=laid(u), projected=laid(projected), delta_weight=weight, A=A, D=D,
        z=laid(xz) if optional else None, delta_bias=bias, onto=laid(onto) if optional else None, delta_softplus=1,
        scale=0.5, reverse=int(reverse), channels_last=int(channels_last), z_offset=offset * dim,
    )  # fmt: skip
    equal([out.swapaxes(1, 2) if channels_last else out], want)


@given(
    batch=st.integers(0, 2), heads=st.sampled_from([2, 4]), head_dim=st.integers(1, 20), seqlen=LENGTHS,
    dstate=st.integers(1, 20), optional=st.sampled_from([0, 1, 2]), seed=SEEDS,
)  # fmt: skip
def test_chunk_scan(batch, heads, head_dim, seqlen, dstate, optional, seed):
    x, z, dt, A, B, C, D, bias, states = randn(
        seed, *[(batch, seqlen, heads, head_dim)] * 2, (batch, seqlen, heads), (heads,),
        *[(batch, seqlen, 2, dstate)] * 2, (heads, head_dim) if optional == 2 else (heads,), (heads,),
        (batch, heads, head_dim, dstate),
    )  # fmt: skip
    A = -A.abs()
    index = (torch.arange(seqlen) // 20).expand(batch, seqlen).int().contiguous() if optional == 2 else None
    D, z, bias, states = (D, z, bias, states) if optional else (None,) * 4
    want = selective_scan_cpu.chunk_scan(x, dt, A, B, C, D, z, bias, states, index, True, (0.01, 0.9), True)
    found = run(
        "ChunkScan", x=x, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=bias, initial_states=states, seq_idx=index,
        dt_softplus=1, dt_min=0.01, dt_max=0.9,
    )  # fmt: skip
    equal(found, *want)


@given(
    batch=st.integers(0, 3), heads=st.sampled_from([0, 2, 4]), dim=st.integers(1, 40), dstate=st.integers(1, 40),
    tied=st.booleans(), optional=st.booleans(), seed=SEEDS,
)  # fmt: skip
def test_state_update(batch, heads, dim, dstate, tied, optional, seed):
    axis, groups = ((heads,), (2,)) if heads else ((), ())
    x, dt, z, B, C, state, A, D, bias = randn(
        seed, (batch, *axis, dim), (batch, *axis) if tied and heads else (batch, *axis, dim), (batch, *axis, dim),
        *[(batch, *groups, dstate)] * 2, (batch, *axis, dim, dstate),
        (axis or (dim,)) if tied else (*axis, dim, dstate), *[axis if tied and heads else (*axis, dim)] * 2,
    )  # fmt: skip
    A = -A.abs()
    D, z, bias = (D, z, bias) if optional else (None,) * 3
    found = run("StateUpdate", state=state, x=x, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=bias, dt_softplus=1)

    def spread(t):
        return t if t is None or not (tied and heads) else t[..., None].expand(*t.shape, dim)

    if tied:
        A = (A[:, None, None] if heads else A[:, None]).expand(*axis, dim, dstate)
    want = selective_scan_cpu.selective_state_update(state, x, spread(dt), A, B, C, spread(D), z, spread(bias), True)
    equal(found, want, state)


@given(
    batch=st.integers(0, 3), features=st.integers(1, 70), dim=st.integers(1, 140), dstate=st.integers(1, 40),
    rank=st.integers(1, 20), width=st.integers(2, 4), optional=st.booleans(), seed=SEEDS,
)  # fmt: skip
def test_mamba_step(batch, features, dim, dstate, rank, width, optional, seed):
    names = [
        "x",
        "conv_state",
        "ssm_state",
        "in_weight",
        "in_bias",
        "conv_weight",
        "conv_bias",
        "x_weight",
        "dt_weight",
        "dt_bias",
        "A_log",
        "D",
        "out_weight",
        "out_bias",
    ]
    shapes = [
        (batch, 1, features), (batch, dim, width), (batch, dim, dstate), (2 * dim, features), (2 * dim,),
        (dim, 1, width), (dim,), (rank + 2 * dstate, dim), (dim, rank), (dim,), (dim, dstate), (dim,), (features, dim),
        (features,),
    ]  # fmt: skip
    values = dict(zip(names, randn(seed, *shapes), strict=True))
    for name in () if optional else ("in_bias", "conv_bias", "dt_bias", "D", "out_bias"):
        values[name] = None
    found = run("MambaStep", **values)
    rows = []
    for row in range(batch):
        one = {k: v[row : row + 1] if k in ("x", "conv_state", "ssm_state") else v for k, v in values.items()}
        rows.append(selective_scan_cpu.mamba_step(*one.values()))
    out = torch.cat(rows) if rows else values["x"]
    equal(found, out, values["conv_state"], values["ssm_state"])


@given(
    rest=st.sampled_from([(), (0,), (1,), (3, 5), (2, 1, 4)]), dim=st.sampled_from([1, 6, 40]), rms=st.booleans(),
    optional=st.booleans(), gate=st.sampled_from([0, 1, 2]), group=st.sampled_from([1, 2]), seed=SEEDS,
)  # fmt: skip
def test_norm(rest, dim, rms, optional, gate, group, seed):
    x, residual, z, weight, bias = randn(seed, *[(*rest, dim * group)] * 3, *[(dim * group,)] * 2)
    bias, residual = (bias, residual) if optional else (None, None)
    if gate:
        want = selective_scan_cpu.gated_norm(x, weight, bias, z, 1e-5, dim, gate == 1, rms)
        found = run("Norm", ["out"], x=x, weight=weight, bias=bias, z=z, eps=1e-5, group=dim, gate=gate, rms=int(rms))
        equal(found, want)
    else:
        want = selective_scan_cpu.layer_norm(x, weight, bias, residual, 1e-5, prenorm=True, is_rms_norm=rms)
        equal(run("Norm", x=x, weight=weight, bias=bias, residual=residual, eps=1e-5, rms=int(rms)), *want)


@given(rest=st.sampled_from([(), (0,), (1,), (2,), (1, 2)]), rows=st.integers(1, 200), seed=SEEDS)
def test_linear(rest, rows, seed):
    x, weight, bias = randn(seed, (*rest, 50), (rows, 50), (rows,))
    found = run("Linear", x=x, weight=weight, bias=bias)[0].reshape(-1, rows)
    for row, one in zip(found, x.reshape(-1, 50), strict=True):
        equal([row], selective_scan_cpu.linear(one, weight, bias))


@given(
    rest=st.sampled_from([(3,), (3, 2), (40,)]), rows=st.integers(1, 200), columns=st.sampled_from([0, 1, 50, 400]),
    optional=st.booleans(), seed=SEEDS,
)  # fmt: skip
def test_linear_of_many_rows(rest, rows, columns, optional, seed):
    x, weight, bias = randn(seed, (*rest, columns), (rows, columns), (rows,))
    bias = bias if optional else None
    found = run("Linear", x=x, weight=weight, bias=bias)[0]
    want = torch.nn.functional.linear(*(None if t is None else t.double() for t in (x, weight, bias)))
    np.testing.assert_allclose(found, want.numpy(), rtol=1e-5, atol=1e-5 * max(columns, 1) ** 0.5)


@given(
    rest=st.sampled_from([(), (0,), (1,), (2, 3), (70,)]), rows=st.integers(1, 200),
    columns=st.sampled_from([1, 31, 32, 50, 400]), optional=st.booleans(), seed=SEEDS,
)  # fmt: skip
def test_quantized_linear(rest, rows, columns, optional, seed):
    x, scales, bias = randn(seed, (*rest, columns), (rows,), (rows,))
    bias = bias if optional else None
    (tiles, parts, *tile), (padded,) = packed_shapes(rows, columns, 8)
    weight = torch.randint(-127, 128, (tiles, parts, *tile), generator=torch.Generator().manual_seed(seed)).to(
        torch.int8
    )
    of_tiles = torch.nn.functional.pad(scales, (0, padded - rows))
    want = selective_scan_cpu.quantized_linear(x, weight, of_tiles, bias, rows)
    equal(run("QuantizedLinear", x=x, weight=weight, scales=scales, bias=bias), want)


@pytest.mark.parametrize("shape", [(2, 16, 16, 4), (3, 8, 16, 4)])
def test_quantized_weights_that_do_not_fit_are_refused(shape):
    x, scales = randn(0, (1, 33), (48,))
    with pytest.raises(Exception, match=r"QuantizedLinear: weight has shape .* expected \(3, 16, 16, 4\) for 48 rows"):
        run("QuantizedLinear", x=x, weight=torch.zeros(shape, dtype=torch.int8), scales=scales)


STEPS = 5
CHANNELS = st.sampled_from([1, 3, 8, 17, 24, 40])
STATES = st.sampled_from([1, 5, 16, 19])


def one_by_one(name, states, over_time, fixed, axis=1, **attributes):
    """Compares STEPS steps in one run with as many runs of one step, each of which goes on from the state before.

    Args:
        states: the names of the input and of the output that hold the state
        over_time: inputs with an axis of steps, the axis number `axis`
    """
    before, after = states
    whole, last_state = run(name, ["out", after], **over_time, **fixed, **attributes)
    outs, state = [None] * STEPS, fixed[before]
    order = range(STEPS)
    for i in reversed(order) if attributes.get("reverse") else order:
        one = {key: None if t is None else t.narrow(axis, i, 1) for key, t in over_time.items()}
        outs[i], state = run(name, ["out", after], **one, **{**fixed, before: state}, **attributes)
    for found, wanted in ((np.concatenate(outs, axis), whole), (state, last_state)):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max(initial=1.0))


def chosen(values, names, absent):
    """The values by name; None for those of `absent`."""
    return {name: None if name in absent else value for name, value in zip(names, values, strict=True)}


def some_of(*names):
    return st.sets(st.sampled_from(names))


@given(
    batch=st.integers(0, 3), dim=CHANNELS, width=st.integers(2, 4), wide=st.integers(0, 9), silu=st.integers(0, 1),
    channels_last=st.integers(0, 1), absent=some_of("bias"), seed=SEEDS,
)  # fmt: skip
def test_one_step_of_a_convolution(batch, dim, width, wide, silu, channels_last, absent, seed):
    x, *rest = randn(seed, (batch, dim + wide, STEPS), (dim, width), (dim,), (batch, dim, width - 1))
    one_by_one(
        "CausalConv", ("initial_states", "final_states"), {"x": last(x) if channels_last else x},
        chosen(rest, ["weight", "bias", "initial_states"], absent), axis=1 if channels_last else 2,
        silu=silu, channels_last=channels_last, x_offset=wide,
    )  # fmt: skip


SCAN_OPTIONS = {
    "batch": st.integers(0, 3), "dim": CHANNELS, "dstate": STATES, "delta_softplus": st.integers(0, 1),
    "channels_last": st.integers(0, 1), "reverse": st.integers(0, 1), "offset": st.integers(0, 3),
    "scale": st.sampled_from([1.0, 0.5]), "absent": some_of("D", "z", "delta_bias", "onto"), "seed": SEEDS,
}  # fmt: skip


def one_step_of_a_scan(
    name, over_time, fixed, batch, dim, dstate, delta_softplus, channels_last, reverse, offset, scale, absent, seed
):
    """`over_time` and `fixed`: shapes beyond those that both scans have; an axis of steps is the last."""
    over_time = {"u": (batch, dim, STEPS), "z": (batch, dim + offset, STEPS), "onto": (batch, dim, STEPS), **over_time}
    fixed = {"A": (dim, dstate), "D": (dim,), "delta_bias": (dim,), "first_state": (batch, dim, dstate), **fixed}
    values = chosen(randn(seed, *over_time.values(), *fixed.values()), [*over_time, *fixed], absent)
    values["A"] = -values["A"].abs()
    if not delta_softplus:  # a delta below 0 would make the states grow
        of_delta = {"delta", "delta_bias", "delta_weight", "projected"}
        values = {key: t.abs() if key in of_delta and t is not None else t for key, t in values.items()}
    steps = {key: last(values.pop(key)) if channels_last else values.pop(key) for key in over_time}
    one_by_one(
        name, ("first_state", "last_state"), steps, values, axis=1 if channels_last else -1, scale=scale,
        delta_softplus=delta_softplus, channels_last=channels_last, reverse=reverse, z_offset=offset,
    )  # fmt: skip


@given(rank=st.sampled_from([1, 5, 16]), **SCAN_OPTIONS)
def test_one_step_of_a_projected_scan(rank, **options):
    batch, dim, dstate = (options[key] for key in ("batch", "dim", "dstate"))
    projected = {"projected": (batch, rank + 2 * dstate, STEPS)}
    one_step_of_a_scan("ProjectedScan", projected, {"delta_weight": (dim, rank)}, **options)


@given(groups=st.sampled_from([0, 1]), **SCAN_OPTIONS)
def test_one_step_of_a_selective_scan(groups, **options):
    batch, dim, dstate = (options[key] for key in ("batch", "dim", "dstate"))
    shape = (batch, *[1] * groups, dstate, STEPS)
    one_step_of_a_scan("SelectiveScan", {"delta": (batch, dim, STEPS), "B": shape, "C": shape}, {}, **options)


@given(
    batch=st.integers(0, 3), groups=st.integers(1, 2), heads=st.integers(1, 2),
    head_dim=st.sampled_from([1, 3, 16, 20]), dstate=STATES, dt_softplus=st.integers(0, 1), wide_D=st.booleans(),
    bounds=st.sampled_from([(0.0, float("inf")), (0.1, float("inf")), (0.0, 0.4), (0.1, 0.4)]),
    absent=some_of("D", "z", "dt_bias"), seed=SEEDS,
)  # fmt: skip
def test_one_step_of_a_chunk_scan(batch, groups, heads, head_dim, dstate, dt_softplus, wide_D, bounds, absent, seed):
    heads *= groups
    over_time = {"x": (heads, head_dim), "z": (heads, head_dim), "dt": (heads,), "B": (groups, dstate)}
    over_time = {key: (batch, STEPS, *shape) for key, shape in {**over_time, "C": (groups, dstate)}.items()}
    fixed = {"A": (heads,), "D": (heads, head_dim) if wide_D else (heads,), "dt_bias": (heads,)}
    fixed["initial_states"] = (batch, heads, head_dim, dstate)
    values = chosen(randn(seed, *over_time.values(), *fixed.values()), [*over_time, *fixed], absent)
    values["A"] = -values["A"].abs()
    one_by_one(
        "ChunkScan", ("initial_states", "final_states"), {key: values.pop(key) for key in over_time}, values,
        dt_softplus=dt_softplus, dt_min=bounds[0], dt_max=bounds[1],
    )  # fmt: skip


def test_one_session_takes_every_length_with_any_number_of_threads():
    names = ["u", "delta", "A", "B", "C"]
    made = model("SelectiveScan", names, ["out"], delta_softplus=1)
    sessions = [session(made, threads) for threads in (1, 2, 5)]
    for seqlen in (2000, 1, 0, 197):
        u, delta, A, B, C = randn(seqlen, *[(1, 300, seqlen)] * 2, (300, 16), *[(1, 16, seqlen)] * 2)
        feed = {k: t.numpy() for k, t in zip(names, (u, delta, -A.abs(), B, C), strict=True)}
        found = [one.run(None, feed)[0] for one in sessions]
        equal(found, *[selective_scan_cpu.selective_scan(u, delta, -A.abs(), B, C, delta_softplus=True)] * 3)


def test_bound_states_are_advanced_in_place():
    x, state, weight = (t.numpy().copy() for t in randn(0, (1, 6, 1), (1, 6, 4), (6, 4)))
    want = run("CausalConvUpdate", x=x, state=state, weight=weight)
    made = session(model("CausalConvUpdate", ["x", "state", "weight"]))
    kept = onnxruntime.OrtValue.ortvalue_from_numpy(state)
    binding = made.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_cpu_input("weight", weight)
    binding.bind_ortvalue_input("state", kept)
    binding.bind_output("out")
    binding.bind_ortvalue_output("next_state", kept)
    made.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], want[0])
    np.testing.assert_array_equal(kept.numpy(), want[1])
