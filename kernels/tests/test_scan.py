"""The compiled selective scan: accuracy on hard inputs, gradients, and every layout a tensor may have."""

from __future__ import annotations

import pytest
import reference
import selective_scan_cpu
import torch
from hypothesis import given
from hypothesis import strategies as st

selective_scan = selective_scan_cpu.selective_scan

# Of the largest output, against float64. For an output of 16 bits, one unit in its last place instead.
ACCURACY = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def error(actual, expected, scale=None):
    """Largest difference relative to the largest of `scale`, which is `expected` unless it may cancel."""
    if not expected.numel():
        return 0.0
    largest = (expected if scale is None else scale).double().abs().max().clamp_min(1e-30)
    return ((actual.double() - expected.double()).abs().max() / largest).item()


def make(batch, dim, seqlen, dstate, kinds=("variable", "variable"), optional=True, dtype=torch.float32, seed=0):
    """Inputs of the scan; a kind is "constant", "variable", or a number of groups."""
    rng = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=rng)

    def projection(kind):
        if kind == "constant":
            return randn(dim, dstate)
        return randn(batch, *(() if kind == "variable" else (kind,)), dstate, seqlen).to(dtype)

    u, delta = randn(batch, dim, seqlen).to(dtype), randn(batch, dim, seqlen).to(dtype)
    A = -torch.rand(dim, dstate, generator=rng) * 8
    B, C = (projection(kind) for kind in kinds)
    if not optional:
        return [u, delta.abs(), A, B, C, None, None, None]
    return [u, delta, A, B, C, randn(dim), randn(batch, dim, seqlen).to(dtype), randn(dim)]


def expected(inputs, softplus):
    return reference.selective_scan(*reference.double(*inputs), softplus)


SHAPES = [(1, 16, 64, 16), (2, 6, 37, 5), (1, 40, 300, 16), (3, 130, 9, 3), (2, 64, 1, 1), (1, 33, 519, 7)]
KINDS = [
    ("constant", "constant"),
    ("constant", "variable"),
    ("variable", "constant"),
    ("variable", "variable"),
    (2, 2),
]


@pytest.mark.parametrize("kinds", KINDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(shape, kinds):
    if 2 in kinds and shape[1] % 2:
        pytest.skip("an odd number of channels makes no two groups")
    for optional in (False, True):
        inputs = make(*shape, kinds, optional)
        assert selective_scan_cpu.supports(*inputs)
        out, last_state = selective_scan(*inputs, optional, True)
        want, want_state = expected(inputs, optional)
        assert error(out, want) < ACCURACY[torch.float32]
        assert error(last_state, want_state) < ACCURACY[torch.float32]


@pytest.mark.parametrize("shape", [(2, 4, 0, 3), (0, 4, 5, 3), (2, 4, 5, 0)], ids=str)
def test_nothing_to_do(shape):
    inputs = [t.requires_grad_() for t in make(*shape)]
    out, last_state = selective_scan(*inputs, True, True)
    assert out.shape == shape[:3]
    assert last_state.shape == (shape[0], shape[1], shape[3])
    assert not last_state.any()
    grads = torch.autograd.grad(out.sum(), inputs)
    assert all(grad.shape == t.shape and grad.isfinite().all() for grad, t in zip(grads, inputs, strict=True))


@pytest.mark.parametrize("dtype", ACCURACY)
@pytest.mark.parametrize("channel_last", [False, True])
def test_dtypes(dtype, channel_last):
    inputs = make(2, 40, 70, 16, dtype=dtype)
    if channel_last:
        inputs = [t.mT.contiguous().mT if t is not None and t.dim() == 3 else t for t in inputs]
    out = selective_scan(*inputs, True)
    assert out.dtype == dtype
    assert error(out, expected(inputs, True)[0]) < ACCURACY[dtype]


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 600), st.integers(1, 20)),
    delta_scale=st.sampled_from([1e-6, 1e-3, 0.1, 1.0, 30.0]),
    spread=st.sampled_from([0.0, 1.0, 6.0]),
    A_scale=st.sampled_from([1e-4, 1.0, 16.0, 1000.0]),
    seed=st.integers(0, 2**16),
)
def test_accuracy(shape, delta_scale, spread, A_scale, seed):
    """Steps from far too small to move a state to large enough to wipe it out, also mixed in one sequence."""
    batch, dim, seqlen, dstate = shape
    inputs = make(*shape, optional=False, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    inputs[1] = delta_scale * torch.exp(spread * torch.randn(batch, dim, seqlen, generator=rng)).clamp(1e-8, 1e4)
    inputs[2] = -A_scale * torch.rand(dim, dstate, generator=rng)
    out, last_state = selective_scan(*inputs, False, True)
    want, want_state = expected(inputs, False)
    # A single number may come out small because its terms cancel; with positive terms none does.
    u, delta, A, B, C, *absent = inputs
    size, state_size = expected([u.abs(), delta, A, B.abs(), C.abs(), *absent], False)
    assert error(out, want, size) < ACCURACY[torch.float32]
    assert error(last_state, want_state, state_size) < ACCURACY[torch.float32]


@pytest.mark.parametrize("delta", [1e-5, 1e-3, 0.3])
def test_constant_step_over_a_long_sequence(delta):
    """The same rounding at every step would add up; the states of such a sequence hardly decay."""
    inputs = make(1, 8, 8192, 4, optional=False)
    inputs[1] = torch.full((1, 8, 8192), delta)
    assert error(selective_scan(*inputs), expected(inputs, False)[0]) < ACCURACY[torch.float32]


def test_states_that_hardly_decay_add_up_small_inputs():
    """A decay of 1e-8 a step has fewer digits than a float of the state's size."""
    inputs = make(1, 16, 16384, 4, optional=False)
    inputs[0], inputs[3] = inputs[0].abs() + 0.1, inputs[3].abs() + 0.1
    inputs[1] = torch.full((1, 16, 16384), 1e-6)
    inputs[2] = torch.full((16, 4), -0.01)
    assert error(selective_scan(*inputs), expected(inputs, False)[0]) < 1e-5


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(8, 40), st.integers(1, 200), st.integers(1, 18)),
    kinds=st.sampled_from(KINDS[:4]),
    optional=st.booleans(),
    reverse=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_gradients(shape, kinds, optional, reverse, seed):
    inputs = [t if t is None else t.requires_grad_() for t in make(*shape, kinds, optional, seed=seed)]
    weight = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(seed))
    present = [i for i, t in enumerate(inputs) if t is not None]

    def flip(t, varies=True):
        return t.flip(-1) if reverse and t is not None and varies else t

    def exact(tensors, weight):
        """Output and gradients in float64."""
        wide = [t if t is None else t.detach().double().requires_grad_() for t in tensors]
        u, delta, A, B, C, D, z, bias = wide
        want, _ = reference.selective_scan(
            flip(u), flip(delta), A, flip(B, B.dim() > 2), flip(C, C.dim() > 2), D, flip(z), bias, optional
        )
        return flip(want), torch.autograd.grad(flip(want), [wide[i] for i in present], weight.double())

    want, wants = exact(inputs, weight)
    # Few numbers may all come out small because their terms cancel. With every term positive none do, and
    # the same computation says how large the terms are.
    steps = (1, 2, 7)  # delta, A and its bias keep their signs: they decide how long a state lives
    terms = [t if t is None or i in steps else t.abs() for i, t in enumerate(inputs)]
    size, sizes = exact(terms, weight.abs())
    out = selective_scan(*inputs, optional, reverse=reverse)
    assert error(out, want, size) < ACCURACY[torch.float32]
    grads = torch.autograd.grad(out, [inputs[i] for i in present], weight)
    for grad, want_grad, largest in zip(grads, wants, sizes, strict=True):
        assert grad.shape == want_grad.shape
        assert error(grad, want_grad, largest) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_16_bits(dtype):
    inputs = [t.requires_grad_() for t in make(2, 20, 70, 16, dtype=dtype)]
    wide = reference.double(*inputs)
    out, (want, _) = selective_scan(*inputs, True), reference.selective_scan(*wide, True)
    reference.compare_gradients(out, inputs, want, wide, loose=2.0)


@pytest.mark.parametrize("where", [0, 3, 40, 79])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e38])
@pytest.mark.parametrize("which", range(5))
def test_nan_and_infinity_travel(which, value, where):
    """Wherever the plain recurrence, in float32, is finite, so is the kernel, and nowhere else."""
    inputs = make(1, 20, 100, 4, optional=False)
    inputs[which] = inputs[which].clone()
    inputs[which].view(-1)[where] = value
    out = selective_scan(*inputs)
    u, delta, A, B, C = inputs[:5]
    h, steps = torch.zeros(1, 20, 4), []
    for t in range(100):
        h = torch.exp(delta[:, :, t, None] * A) * h + (delta[:, :, t] * u[:, :, t])[..., None] * B[:, None, :, t]
        steps.append((h * C[:, None, :, t]).sum(-1))
    want = torch.stack(steps, dim=-1)
    assert torch.equal(out.isfinite(), want.isfinite())
    finite = want.isfinite()
    torch.testing.assert_close(out[finite], want[finite], rtol=1e-4, atol=1e-4)


def test_layouts():
    """Slices, expanded axes, steps apart, unaligned memory, and time running backwards."""
    inputs = make(2, 24, 50, 16)
    want = selective_scan(*inputs, True)
    wide = torch.empty(2, 24 * 2, 50 * 3 + 1)[:, ::2, 1::3]
    wide.copy_(inputs[0])
    halves = torch.randn(2, 48, 50)
    halves[:, 24:] = inputs[6]
    bytes_ = torch.empty(2 * 24 * 50 * 4 + 4, dtype=torch.uint8)
    offset = bytes_[4:].view(torch.float32).view(2, 24, 50)
    offset.copy_(inputs[1])
    moved = [
        wide,
        offset,
        inputs[2].T.contiguous().T,
        inputs[3].permute(2, 0, 1).contiguous().permute(1, 2, 0),
        *inputs[4:],
    ]
    moved[6] = halves[:, 24:]
    assert torch.equal(selective_scan(*moved, True), want)
    expanded = [inputs[0][:, :, :1].expand(2, 24, 50), *inputs[1:]]
    dense = [inputs[0][:, :, :1].repeat(1, 1, 50), *inputs[1:]]
    assert torch.equal(selective_scan(*expanded, True), selective_scan(*dense, True))
    flipped = [t.flip(-1) if t is not None and t.dim() == 3 else t for t in inputs]
    torch.testing.assert_close(selective_scan(*flipped, True, reverse=True).flip(-1), want)


def test_elements_past_two_to_the_31():
    """Only the two rows at either end of 4 GiB of address space are touched."""
    seqlen, far = 40, 2**31 + 64
    inputs = make(1, 2, seqlen, 4, dtype=torch.bfloat16)
    try:
        memory = torch.empty(far + seqlen, dtype=torch.bfloat16)
    except RuntimeError:
        pytest.skip("this machine will not hand out 4 GiB of address space")
    u = memory.as_strided((1, 2, seqlen), (far + seqlen, far, 1))
    u.copy_(inputs[0])
    assert torch.equal(selective_scan(u, *inputs[1:], True), selective_scan(*inputs, True))


def test_shapes_that_do_not_fit():
    inputs = make(2, 6, 8, 4)
    for i in (1, 2, 3, 5, 6, 7):
        wrong = list(inputs)
        wrong[i] = torch.randn(*inputs[i].shape[:-1], inputs[i].shape[-1] + 1)
        with pytest.raises(ValueError, match="shape"):
            selective_scan(*wrong)


def test_what_is_left_to_pytorch():
    inputs = make(1, 4, 8, 4)
    assert not selective_scan_cpu.supports(inputs[0].double(), *inputs[1:])
    assert not selective_scan_cpu.supports(*inputs[:2], inputs[2].to(torch.complex64), *inputs[3:])
    assert not selective_scan_cpu.supports(inputs[0].to("meta"), *inputs[1:])


def test_operators():
    for optional in (False, True):
        inputs = [t if t is None else t.requires_grad_() for t in make(2, 6, 9, 4, optional=optional)]
        torch.library.opcheck(torch.ops.selective_scan_cpu.scan.default, (*inputs, optional, True, False))
