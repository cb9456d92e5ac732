"""causal_conv1d: the convolution, its update, the states of packed sequences."""

from __future__ import annotations

import pytest
import reference
import torch
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from causal_conv1d.causal_conv1d_varlen import causal_conv1d_varlen_states, causal_conv1d_varlen_states_ref
from causal_conv1d.cpp_functions import (
    causal_conv1d_bwd_function,
    causal_conv1d_fwd_function,
    causal_conv1d_update_function,
)
from reference import assert_close, compare_gradients, double

pytestmark = pytest.mark.usefixtures("path")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def make(batch, dim, seqlen, dtype, layout="first", requires_grad=True):
    """x in one of the layouts that upstream takes: channels first, channels last, or a slice."""
    if layout == "first":
        x = torch.randn(batch, dim, seqlen).to(dtype)
    elif layout == "last":
        x = torch.randn(batch, seqlen, dim).to(dtype).transpose(1, 2)
    else:
        x = torch.randn(batch, seqlen, 3 * dim).to(dtype)[:, :, dim : 2 * dim].transpose(1, 2)
    return x.detach().requires_grad_(requires_grad)


def weights(dim, width, bias=True, dtype=torch.float32):
    weight = torch.randn(dim, width).to(dtype).requires_grad_()
    return weight, torch.randn(dim).to(dtype).requires_grad_() if bias else None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("layout", ["first", "last", "slice"])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_gradients(dtype, width, layout, activation, bias):
    x = make(2, 16, 37, dtype, layout)
    weight, b = weights(16, width, bias)
    out = causal_conv1d_fn(x, weight, b, activation=activation)
    x64, w64, b64 = double(x, weight, b)
    expected, _ = reference.causal_conv1d(x64, w64, b64, activation=activation)
    assert out.dtype == dtype
    assert_close(out, expected)
    assert out.stride() == torch.empty_like(x).stride(), "the layout of x is kept, as CUDA keeps it"
    compare_gradients(out, [x, weight, b], expected, [x64, w64, b64])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seqlen", [1, 2, 3, 20])
@pytest.mark.parametrize("layout", ["first", "last"])
def test_states(dtype, seqlen, layout):
    x = make(2, 8, seqlen, dtype, layout)
    initial = make(2, 8, 3, dtype, "last")
    weight, bias = weights(8, 4)
    out, final = causal_conv1d_fn(
        x, weight, bias, initial_states=initial, return_final_states=True, activation="silu"
    )
    x64, i64, w64, b64 = double(x, initial, weight, bias)
    expected, expected_final = reference.causal_conv1d(x64, w64, b64, None, i64, "silu")
    assert_close(out, expected)
    assert final.dtype == dtype
    assert torch.equal(final.double(), expected_final), "states are copied, not computed"
    # Through both outputs.
    both, expected_both = torch.cat([out, final], dim=2), torch.cat([expected, expected_final], dim=2)
    compare_gradients(both, [x, initial, weight, bias], expected_both, [x64, i64, w64, b64])


def test_final_states_go_into_a_given_tensor():
    x = make(2, 8, 9, torch.float32, "last", requires_grad=False)
    weight, bias = weights(8, 4)
    given = torch.full((2, 3, 8), 7.0).transpose(1, 2)
    out, final = causal_conv1d_fn(x, weight, bias, return_final_states=True, final_states_out=given)
    assert final.data_ptr() == given.data_ptr()
    assert torch.equal(given, x[:, :, -3:])
    assert_close(out, reference.causal_conv1d(x.double(), weight.double(), bias.double())[0])


def test_a_sequence_in_two_parts_is_the_whole():
    x = make(1, 8, 20, torch.float32, requires_grad=False)
    weight, bias = weights(8, 4)
    whole = causal_conv1d_fn(x, weight, bias, activation="silu")
    first, state = causal_conv1d_fn(x[:, :, :7], weight, bias, return_final_states=True, activation="silu")
    second = causal_conv1d_fn(x[:, :, 7:], weight, bias, initial_states=state, activation="silu")
    assert_close(torch.cat([first, second], dim=2), whole.double())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("with_states", [False, True], ids=["zeros", "states"])
def test_packed_sequences_and_padding(dtype, activation, layout, with_states):
    """Initial states are of the first step's sequence: longer than the taps, shorter, and padding."""
    rows = [[0] * 5 + [1] * 1 + [2] * 9 + [-1] * 4, [3] * 2 + [4] * 17, [-1] * 2 + [5] * 17]
    seq_idx = torch.tensor(rows, dtype=torch.int32)
    x = make(3, 8, 19, dtype, layout)
    weight, bias = weights(8, 4)
    states = make(3, 8, 3, dtype, layout) if with_states else None
    out = causal_conv1d_fn(x, weight, bias, seq_idx, states, activation=activation)
    x64, w64, b64, s64 = double(x, weight, bias, states)
    expected, _ = reference.causal_conv1d(x64, w64, b64, seq_idx, s64, activation=activation)
    assert_close(out, expected)
    assert (out[0, :, -4:] == 0).all()
    compare_gradients(out, [x, weight, bias, states], expected, [x64, w64, b64, s64])


@pytest.mark.parametrize("layout", ["first", "last"])
def test_packed_parts_with_states_are_the_whole(layout):
    """A row that is cut inside a sequence goes on with the last inputs as its initial states."""
    seq_idx = torch.tensor([[2] * 4 + [3] * 9 + [4] * 7, [2] * 9 + [3] * 11], dtype=torch.int32)
    x = make(2, 8, 20, torch.float32, layout, requires_grad=False)
    weight, bias = weights(8, 4)
    whole = causal_conv1d_fn(x, weight, bias, seq_idx, activation="silu")
    for cut in (5, 8, 11):
        other = seq_idx[:, cut - 3 : cut] != seq_idx[:, cut, None]
        states = x[:, :, cut - 3 : cut].masked_fill(other[:, None], 0.0)
        index = seq_idx[:, cut:].contiguous()
        rest = causal_conv1d_fn(x[:, :, cut:], weight, bias, index, states, activation="silu")
        assert_close(rest, whole[:, :, cut:].double())


def test_gradcheck():
    x, weight, bias, initial = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in [(2, 3, 6), (3, 4), (3,), (2, 3, 3)]
    )

    def run(x, weight, bias, initial):
        return causal_conv1d_fn(
            x, weight, bias, initial_states=initial, return_final_states=True, activation="silu"
        )

    assert torch.autograd.gradcheck(run, (x, weight, bias, initial))
    seq_idx = torch.tensor([[0, 0, 1, 1, 1, -1], [0, 1, 2, 2, 3, 3]], dtype=torch.int32)
    assert torch.autograd.gradcheck(
        lambda *a: causal_conv1d_fn(*a, seq_idx=seq_idx, activation="silu"), (x, weight, bias)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seqlen", [None, 1, 2, 5, 9])
@pytest.mark.parametrize("state_len", [3, 4, 7])
@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("indexed", [False, True])
def test_update(dtype, seqlen, state_len, ring, indexed):
    """seqlen None is 2-d x. The rows of the state are followed one input at a time."""
    batch, dim, width, entries = 3, 8, 4, 5 if indexed else 3
    x = torch.randn(batch, dim, seqlen or 1).to(dtype)
    state = torch.randn(entries, dim, state_len).to(dtype)
    weight, bias = weights(dim, width)
    lengths = torch.tensor([0, 2, 11], dtype=torch.int32) if ring else None
    indices = torch.tensor([4, -1, 1], dtype=torch.int32) if indexed else None
    expected_state, expected = state.clone(), torch.zeros(x.shape, dtype=torch.float64)
    for b in range(batch):
        row = int(indices[b]) if indexed else b
        if row < 0:
            continue
        start = int(lengths[b]) if ring else 0
        if ring:
            history = [state[row, :, (start + k - (width - 1)) % state_len] for k in range(width - 1)]
        else:
            history = [state[row, :, state_len - (width - 1) + k] for k in range(width - 1)]
        line = torch.stack([*history, *x[b].unbind(-1)], dim=-1)
        expected[b] = reference.causal_conv1d(
            line[None, :, width - 1 :].double(), weight.double(), bias.double(), None,
            line[None, :, : width - 1].double(), "silu",
        )[0]  # fmt: skip
        for t, column in enumerate(x[b].unbind(-1)):
            if ring:
                expected_state[row, :, (start + t) % state_len] = column
            else:
                expected_state[row] = torch.cat([expected_state[row, :, 1:], column[:, None]], dim=1)
    given = x[:, :, 0] if seqlen is None else x
    out = causal_conv1d_update(given, state, weight, bias, "silu", lengths, indices)
    assert out.shape == given.shape
    assert out.dtype == dtype
    assert_close(out, expected[:, :, 0] if seqlen is None else expected)
    assert torch.equal(state, expected_state)


def test_update_continues_the_convolution():
    x = make(2, 8, 12, torch.float32, requires_grad=False)
    weight, bias = weights(8, 4)
    whole = causal_conv1d_fn(x, weight, bias, activation="silu")
    state = torch.zeros(2, 8, 4)
    steps = [causal_conv1d_update(x[:, :, t], state, weight, bias, "silu") for t in range(12)]
    assert_close(torch.stack(steps, dim=2), whole.double())
    assert not steps[0].requires_grad, "an update has no gradient, whatever its weights ask for"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_varlen_states(dtype):
    cu_seqlens = torch.tensor([0, 3, 3, 11, 12, 40], dtype=torch.int32)
    x = torch.randn(40, 16).to(dtype)
    states = causal_conv1d_varlen_states(x, cu_seqlens, state_len=5)
    expected = torch.zeros(5, 16, 5, dtype=dtype)
    for i, (start, end) in enumerate([(0, 3), (3, 3), (3, 11), (11, 12), (12, 40)]):
        kept = x[max(start, end - 5) : end].t()
        expected[i, :, 5 - kept.shape[1] :] = kept
    assert torch.equal(states, expected)
    assert torch.equal(causal_conv1d_varlen_states_ref(x, cu_seqlens, 5), expected)


def test_raw_functions():
    """What mamba_ssm and others call: dx goes into the given tensor, and states are written to."""
    x = make(2, 8, 10, torch.float32, "last", requires_grad=False)
    initial = make(2, 8, 3, torch.float32, "last", requires_grad=False)
    weight, bias = weights(8, 4)
    dout, dfinal = torch.randn_like(x), torch.randn_like(initial)
    final = torch.empty_like(initial)
    out = causal_conv1d_fwd_function(x, weight, bias, None, initial, final, True)
    x64, w64, b64, i64 = double(x, weight, bias, initial)
    expected, expected_final = reference.causal_conv1d(x64, w64, b64, None, i64, "silu")
    assert_close(out, expected)
    assert torch.equal(final.double(), expected_final)
    given = torch.full((2, 8, 20), 7.0)[:, :, 5:15]
    dx, dweight, dbias, dinitial = causal_conv1d_bwd_function(
        x, weight, bias, dout, None, initial, dfinal, given, True, True
    )
    ((expected * dout).sum() + (expected_final * dfinal).sum()).backward()
    assert dx.data_ptr() == given.data_ptr()
    for actual, wanted in [(dx, x64), (dweight, w64), (dbias, b64), (dinitial, i64)]:
        assert_close(actual, wanted.grad)
    state = torch.zeros(2, 8, 4)
    step = causal_conv1d_update_function(x[:, :, :1], state, weight, bias, True, None, None)
    assert_close(
        step,
        reference.causal_conv1d(x[:, :, :1].double(), weight.double(), bias.double(), None, None, "silu")[0],
    )


def test_what_is_refused():
    x = make(2, 8, 10, torch.float32)
    weight, bias = weights(8, 4)
    with pytest.raises(NotImplementedError, match="activation"):
        causal_conv1d_fn(x, weight, bias, activation="gelu")
    with pytest.raises(RuntimeError, match="weight must have shape"):
        causal_conv1d_fn(x, weight[:4], bias)
    with pytest.raises(RuntimeError, match="conv_state holds 2"):
        causal_conv1d_update(x.detach(), torch.zeros(2, 8, 2), weight, bias)
    with pytest.raises(AssertionError, match="we don't return final_states"):
        causal_conv1d_fn(x, weight, seq_idx=torch.zeros(2, 10, dtype=torch.int32), return_final_states=True)


def test_autocast_leaves_the_arithmetic_alone():
    x = make(1, 8, 16, torch.float32)
    weight, bias = weights(8, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = causal_conv1d_fn(x, weight, bias, activation="silu")
    assert_close(
        out, reference.causal_conv1d(x.double(), weight.double(), bias.double(), activation="silu")[0]
    )
