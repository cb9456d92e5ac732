"""The compiled kernels beside the scan: the single step, Mamba-2's scan, and the norms."""

from __future__ import annotations

import pytest
import reference
import selective_scan_cpu as kernels
import torch
from hypothesis import given
from hypothesis import strategies as st

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def randn(seed, *shapes):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=rng) for shape in shapes]


@given(
    batch=st.integers(1, 3),
    heads=st.sampled_from([0, 1, 2, 4]),  # 0: no axis of heads
    dim=st.integers(1, 40),
    dstate=st.integers(1, 40),
    tied=st.booleans(),
    optional=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_state_update(batch, heads, dim, dstate, tied, optional, dtype, seed):
    axis = (heads,) if heads else ()
    groups = (max(1, heads // 2),) if heads else ()
    x, dt, z, B, C, state, A, D, bias = randn(
        seed, *[(batch, *axis, dim)] * 3, *[(batch, *groups, dstate)] * 2, (batch, *axis, dim, dstate),
        (*axis, dim, dstate), *[(*axis, dim)] * 2,
    )  # fmt: skip
    A = -A[..., :1, :1].abs().expand_as(A) if tied else -A.abs()
    x, dt, z, B, C = (t.to(dtype) for t in (x, dt, z, B, C))
    if not optional:
        D = z = bias = None
    row = batch * 2 - 1
    states = torch.randn(batch * 2, *state.shape[1:])
    indices = torch.arange(batch) * 2
    states[indices] = state
    untouched = states[row].clone()

    # One step of the scan from this state, as a scan of one step that begins with it.
    f = [None if t is None else t.double() for t in (x, dt, A, B, C, D, z, bias, state)]
    x64, dt64, A64, B64, C64, D64, z64, bias64, h = f
    dt64 = dt64 if bias64 is None else dt64 + bias64
    dt64 = reference.softplus(dt64)[..., None]
    if heads:
        B64, C64 = (t.repeat_interleave(heads // t.shape[1], 1)[:, :, None] for t in (B64, C64))
    else:
        B64, C64 = B64[:, None], C64[:, None]
    h = torch.exp(dt64 * A64) * h + dt64 * B64 * x64[..., None]
    want = (h * C64).sum(-1)
    want = want if D64 is None else want + D64 * x64
    want = want if z64 is None else want * reference.silu(z64)

    assert kernels.supports_state_update(states, x, dt, A, B, C, D, z, bias, True, indices)
    out = kernels.selective_state_update(states, x, dt, A, B, C, D, z, bias, True, indices)
    reference.assert_close(out, want)
    reference.assert_close(states[indices], h)
    assert torch.equal(states[row], untouched)


def step_arguments():
    """x, then all arguments of selective_state_update that follow x."""
    x, dt, B, C, A = randn(0, *[(2, 8)] * 2, *[(2, 3)] * 2, (8, 3))
    return x, (dt.abs(), -A.abs(), B, C)


@pytest.mark.parametrize("layout", ["slices", "before", "within"])
def test_state_update_where_x_and_the_state_are_views_of_one_tensor(layout):
    x, rest = step_arguments()
    pool = torch.randn(80)
    if layout == "slices":
        x, state = pool.view(2, 8, 5)[:, :, 3], pool.view(2, 8, 5)[:, :, :3]
    else:
        start = 0 if layout == "before" else 30
        x, state = pool[start : start + 16].view(2, 8), pool[10:58].view(2, 8, 3)
    apart = state.clone()
    want = kernels.selective_state_update(apart, x.clone(), *rest)
    assert torch.equal(kernels.selective_state_update(state, x, *rest), want)
    assert torch.equal(state, apart)


@pytest.mark.parametrize("row", [2**32, -(2**32), 2**32 - 1])
def test_an_index_that_int32_does_not_hold_is_refused(row):
    x, rest = step_arguments()
    state = torch.randn(3, 8, 3)
    before = state.clone()
    indices = torch.tensor([0, row])
    with pytest.raises(IndexError, match=f"state_batch_indices holds {row}"):
        kernels.selective_state_update(state, x, *rest, state_batch_indices=indices)
    with pytest.raises(IndexError, match=f"state_batch_indices holds {row}"):
        torch.ops.selective_scan_cpu.state_update(state, x, *rest, None, None, None, False, indices)
    assert torch.equal(state, before)
    x, dt, A, B = randn(0, (1, 2, 2, 3), (1, 2, 2), (2,), (1, 2, 1, 4))
    with pytest.raises(IndexError, match=f"seq_idx holds {row}"):
        kernels.chunk_scan(x, dt, A, B, B, seq_idx=torch.tensor([[0, row]]))


def test_indices_of_int64_in_a_compiled_graph():
    """The graph is one piece, and the numbers are checked when the graph runs."""
    x, rest = step_arguments()
    state = torch.randn(3, 8, 3)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def step(state, indices):
        return kernels.selective_state_update(state, x, *rest, state_batch_indices=indices)

    apart = state.clone()
    want = kernels.selective_state_update(apart, x, *rest, state_batch_indices=torch.tensor([2, 0]))
    assert torch.equal(step(state, torch.tensor([2, 0])), want)
    assert torch.equal(state, apart)
    with pytest.raises(IndexError, match="state_batch_indices holds 4294967296"):
        step(state, torch.tensor([0, 2**32]))


@given(
    batch=st.integers(1, 2),
    seqlen=st.integers(1, 300),
    heads=st.sampled_from([2, 4]),
    head_dim=st.integers(1, 40),
    dstate=st.integers(1, 33),
    groups=st.sampled_from([1, 2]),
    optional=st.booleans(),
    packed=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_chunk_scan(batch, seqlen, heads, head_dim, dstate, groups, optional, packed, dtype, seed):
    x, z, dt, B, C, A, D, bias, initial = randn(
        seed, *[(batch, seqlen, heads, head_dim)] * 2, (batch, seqlen, heads),
        *[(batch, seqlen, groups, dstate)] * 2,
        (heads,), (heads, head_dim), (heads,), (batch, heads, head_dim, dstate),
    )  # fmt: skip
    x, z, dt, B, C = (t.to(dtype) for t in (x, z, dt, B, C))
    if not optional:
        z = D = bias = initial = None
    rng = torch.Generator().manual_seed(seed)
    seq_idx = torch.randint(0, 4, (batch, seqlen), generator=rng).sort(1)[0] if packed else None
    limits = (0.01, 0.5) if optional else (0.0, float("inf"))
    args = (x, dt, -A.abs(), B, C, D, z, bias, initial)
    assert kernels.supports_chunk_scan(*args, seq_idx)
    out, final = kernels.chunk_scan(*args, seq_idx, True, limits, True)
    wide = [None if t is None else t.double() for t in args]
    want, states = reference.ssd(*wide, seq_idx, True, limits)
    reference.assert_close(out, want)
    reference.assert_close(final, states[:, -1])


@given(
    rows=st.integers(1, 20),
    dim=st.integers(1, 100),
    rms=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    residual_dtype=st.sampled_from([None, *DTYPES]),
    with_bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_layer_norm(rows, dim, rms, dtype, residual_dtype, with_bias, seed):
    x, residual, weight, bias = randn(seed, (rows, dim), (rows, dim), (dim,), (dim,))
    x, residual = x.to(dtype), None if residual_dtype is None else residual.to(residual_dtype)
    bias = bias if with_bias else None
    y, total = kernels.layer_norm(x, weight, bias, residual, 1e-3, True, True, rms)
    assert y.dtype == dtype
    assert total.dtype == (residual_dtype or torch.float32)
    want_total = x.double() if residual is None else x.double() + residual.double()
    reference.assert_close(total, want_total)
    want = reference.norm(want_total, weight.double(), None if bias is None else bias.double(), 1e-3, rms)
    reference.assert_close(y, want)


@given(
    rows=st.integers(1, 20),
    groups=st.integers(1, 4),
    group_size=st.integers(1, 40),
    rms=st.booleans(),
    before=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_gated_norm(rows, groups, group_size, rms, before, dtype, seed):
    dim = groups * group_size
    x, z, weight, bias = randn(seed, (rows, dim), (rows, dim), (dim,), (dim,))
    x, z = x.to(dtype), z.to(dtype)
    y = kernels.gated_norm(x, weight, bias, z, 1e-3, group_size, before, rms)
    wide = (t.double() for t in (x, weight, bias, z))
    reference.assert_close(y, reference.gated_norm(*wide, 1e-3, group_size, before, rms))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 5), (100, 768), (130, 33)], ids=str)
def test_linear(dtype, shape):
    x, weight, bias = (t.to(dtype) for t in randn(0, (1, 1, shape[1]), shape, shape[:1]))
    assert kernels.supports_linear(x, weight, bias)
    assert not kernels.supports_linear(x.expand(1, 2, -1), weight, bias)
    want = (weight.double() @ x.double().flatten())[None, None]
    reference.assert_close(kernels.linear(x, weight), want)
    reference.assert_close(kernels.linear(x, weight, bias), want + bias.double())
    torch.library.opcheck(torch.ops.selective_scan_cpu.linear.default, (x, weight, bias))


def test_a_norm_without_weight_is_refused():
    x = torch.randn(2, 8)
    assert not kernels.supports_norm(x, None)
    for norm in (kernels.layer_norm, kernels.gated_norm):
        with pytest.raises(TypeError, match=r"weight is None, expected a tensor of shape \(8,\)"):
            norm(x, None)


def test_a_gradient_is_left_to_pytorch():
    x, weight = torch.randn(2, 8, requires_grad=True), torch.randn(8)
    assert not kernels.supports_norm(x, weight)
    with torch.no_grad():
        assert kernels.supports_norm(x, weight)


def test_operators():
    state, x, A, B = randn(0, (2, 8, 4), (2, 8), (8, 4), (2, 4))
    ops = torch.ops.selective_scan_cpu
    torch.library.opcheck(ops.state_update.default, (state, x, x, A, B, B, None, None, None, True, None))
    x, dt, A, B = randn(0, (1, 5, 2, 3), (1, 5, 2), (2,), (1, 5, 1, 4))
    args = (x, dt, A, B, B, None, None, None, None, None, True, 0.0, 1.0, True)
    torch.library.opcheck(ops.chunk_scan.default, args)
    x, weight = randn(0, (3, 8), (8,))
    torch.library.opcheck(ops.norm.default, (x, weight, None, x, None, 1e-5, 8, 0, True, torch.float32))
