"""The compiled convolution and its update: every width, layout and option, and their gradients."""

from __future__ import annotations

import causal_conv1d_cpu
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

causal_conv1d, update = causal_conv1d_cpu.causal_conv1d, causal_conv1d_cpu.causal_conv1d_update
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def make(batch, dim, seqlen, width, channel_last=False, dtype=torch.float32, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, dim, seqlen, generator=rng).to(dtype)
    x = x.mT.contiguous().mT if channel_last else x
    return x, torch.randn(dim, width, generator=rng), torch.randn(dim, generator=rng)


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 600), st.integers(2, 4)),
    channel_last=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    with_bias=st.booleans(),
    silu=st.booleans(),
    mode=st.sampled_from(["plain", "packed", "states", "packed states", "reverse"]),
    seed=st.integers(0, 2**16),
)
def test_forward_and_gradients(shape, channel_last, dtype, with_bias, silu, mode, seed):
    batch, dim, seqlen, width = shape
    x, weight, bias = make(*shape, channel_last, dtype, seed)
    activation = "silu" if silu else None
    bias = bias if with_bias else None
    rng = torch.Generator().manual_seed(seed)
    packed = torch.randint(-1, 3, (batch, seqlen), generator=rng).sort(1)[0] if "packed" in mode else None
    initial = torch.randn(batch, dim, width - 1, generator=rng).to(dtype) if "states" in mode else None
    inputs = [t if t is None else t.requires_grad_() for t in (x, weight, bias, initial)]
    wide = reference.double(*inputs)
    assert causal_conv1d_cpu.supports(x, weight, bias, packed, initial)
    result = causal_conv1d(*inputs[:3], packed, initial, mode == "states", activation, mode == "reverse")
    wide_x = wide[0].flip(-1) if mode == "reverse" else wide[0]
    want, want_final = reference.causal_conv1d(wide_x, wide[1], wide[2], packed, wide[3], activation)
    want = want.flip(-1) if mode == "reverse" else want
    out, total, want_total = result, result, want
    if mode == "states":
        out, final = result
        assert torch.equal(final.double(), want_final)
        total, want_total = torch.cat([out, final], -1), torch.cat([want, want_final], -1)
    reference.assert_close(out, want)
    reference.compare_gradients(total, inputs, want_total, wide, loose=2.0)


@pytest.mark.parametrize("seqlen", range(5))
def test_rows_shorter_than_the_taps(seqlen):
    x, weight, bias = make(2, 20, seqlen, 4)
    initial = torch.randn(2, 20, 3, requires_grad=True)
    out, final = causal_conv1d(x.requires_grad_(), weight, bias, None, initial, True, "silu")
    assert torch.equal(final, torch.cat([initial, x], -1)[..., seqlen:])
    (out.sum() + final.sum()).backward()
    assert x.grad.isfinite().all()
    assert initial.grad.isfinite().all()
    if seqlen:
        reference.assert_close(
            out,
            reference.causal_conv1d(*reference.double(x, weight, bias), None, initial.double(), "silu")[0],
        )
    else:
        assert torch.equal(initial.grad, torch.ones_like(initial))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("extra", [0, 1, 4])
@pytest.mark.parametrize("seqlen", [1, 2, 7])
def test_update(dtype, width, extra, seqlen):
    """A state as long as the taps need or longer, shifted or a ring, fed one step or several."""
    length = width - 1 + extra
    x, weight, bias = make(3, 20, seqlen, width, dtype=dtype)
    for channel_last in (False, True):
        state = torch.randn(3, 20, length).to(dtype)
        state = state.mT.contiguous().mT if channel_last else state
        line = torch.cat([state, x], -1)
        want = reference.causal_conv1d(*reference.double(line, weight, bias), activation="silu")[0][..., -seqlen:]
        reference.assert_close(update(x, state, weight, bias, "silu"), want)
        assert torch.equal(state, line[..., -length:])
    if seqlen > length or (extra == 0 and seqlen > 1):
        return
    ring, fed = torch.randn(3, 20, length).to(dtype), torch.tensor([0, 5, 1000003])
    lines = torch.stack([ring[b].roll(-int(n) % length, -1) for b, n in enumerate(fed)])
    want = reference.causal_conv1d(*reference.double(torch.cat([lines, x], -1), weight, bias), activation="silu")[0][
        ..., -seqlen:
    ]
    reference.assert_close(update(x, ring, weight, bias, "silu", cache_seqlens=fed), want)
    after = torch.stack([ring[b].roll(-int(n + seqlen) % length, -1) for b, n in enumerate(fed)])
    assert torch.equal(after, torch.cat([lines, x], -1)[..., -length:])


def test_update_of_chosen_entries():
    x, weight, _ = make(3, 40, 1, 4)
    state = torch.randn(7, 40, 4)
    before = state.clone()
    out = update(x[..., 0], state, weight, conv_state_indices=torch.tensor([5, -1, 2]))
    assert not out[1].any()
    assert torch.equal(state[[0, 1, 3, 4, 6]], before[[0, 1, 3, 4, 6]])
    assert torch.equal(state[5, :, -1], x[0, :, 0])
    assert torch.equal(state[2, :, -1], x[2, :, 0])
    with pytest.raises(IndexError):
        update(x[..., 0], state, weight, conv_state_indices=torch.tensor([0, 1, 7]))


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("conv_state_indices", [2**32, 1]),
        ("conv_state_indices", [0, -(2**32)]),
        ("cache_seqlens", [2**31, 1]),
    ],
)
def test_an_index_that_int32_does_not_hold_is_refused(name, numbers, direct):
    x, weight, _ = make(2, 8, 1, 4)
    state = torch.randn(3, 8, 4) if name == "conv_state_indices" else torch.randn(2, 8, 4)
    before, indices = state.clone(), {name: torch.tensor(numbers)}
    operator = torch.ops.causal_conv1d_cpu.update
    words = (x, state, weight, None, indices.get("cache_seqlens"), indices.get("conv_state_indices"), False)
    with pytest.raises(IndexError, match=f"{name} holds"):
        update(x, state, weight, **indices) if direct else operator(*words)
    assert torch.equal(state, before)


def test_a_label_that_int32_does_not_hold_is_refused():
    x, weight, bias = make(1, 8, 3, 4)
    with pytest.raises(IndexError, match="seq_idx holds 4294967296"):
        causal_conv1d(x, weight, bias, torch.tensor([[0, 0, 2**32]]))
    weight.requires_grad_()
    with pytest.raises(IndexError, match="seq_idx holds 4294967296"):
        causal_conv1d(x, weight, bias, torch.tensor([[0, 0, 2**32]]))


def in_one_pool(layout):
    """(x, state) of shapes (2, 8) and (2, 8, 3), views of one tensor."""
    pool = torch.randn(2 * 8 * 5)
    if layout == "slices side by side":
        return pool[:80].view(2, 8, 5)[:, :, 3], pool[:80].view(2, 8, 5)[:, :, :3]
    if layout == "x apart, after the state":
        return pool[48:64].view(2, 8), pool[:48].view(2, 8, 3)
    if layout == "x starts before the state":
        return pool[:16].view(2, 8), pool[10:58].view(2, 8, 3)
    if layout == "x starts before the state, strided":
        return pool[:80].view(2, 8, 5)[:, :, 0], pool[2:50].view(2, 8, 3)
    return pool[20:36].view(2, 8), pool[:48].view(2, 8, 3)


LAYOUTS = [
    "slices side by side",
    "x apart, after the state",
    "x starts before the state",
    "x starts before the state, strided",
    "x within the state",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_update_where_x_and_the_state_are_views_of_one_tensor(layout):
    x, state = in_one_pool(layout)
    weight = torch.randn(8, 4)
    apart = state.clone()
    want = update(x.clone(), apart, weight)
    assert torch.equal(update(x, state, weight), want)
    assert torch.equal(state, apart)


def test_a_state_whose_elements_share_memory_is_refused():
    x, weight, _ = make(2, 8, 1, 4)
    with pytest.raises(RuntimeError, match="share memory"):
        update(x, torch.randn(1, 8, 3).expand(2, 8, 3), weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_travel(value):
    x, weight, bias = make(1, 20, 50, 4)
    x[0, 3, 10] = value
    out = causal_conv1d(x, weight, bias, activation="silu")
    want = reference.causal_conv1d(*(t.double() for t in (x, weight, bias)), activation="silu")[0]
    torch.testing.assert_close(out.double(), want, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_shapes_that_do_not_fit():
    x, weight, bias = make(2, 8, 9, 4)
    for wrong in (
        (x, weight[:7], bias),
        (x, weight, bias[:7]),
        (x, weight, bias, torch.zeros(2, 8, dtype=torch.int32)),
    ):
        with pytest.raises(ValueError, match="shape"):
            causal_conv1d(*wrong)
    with pytest.raises(NotImplementedError):
        causal_conv1d(x, weight, bias, activation="relu")


def test_operators():
    x, weight, bias = make(2, 8, 9, 4)
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    torch.library.opcheck(torch.ops.causal_conv1d_cpu.conv.default, (*inputs, None, None, True, True, False))
    x, weight, bias = make(2, 8, 1, 4)
    state = torch.randn(2, 8, 4)
    torch.library.opcheck(torch.ops.causal_conv1d_cpu.update.default, (x, state, weight, bias, None, None, True))
