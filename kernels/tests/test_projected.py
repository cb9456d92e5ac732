"""The scan that makes its own delta, and adds itself to another direction's result."""

from __future__ import annotations

import pytest
import reference
import selective_scan_cpu as kernels
import torch
from hypothesis import given
from hypothesis import strategies as st

# Of the largest output, against float64: for 16 bits, a unit in the last place of the output or of onto.
ACCURACY = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def make(batch, dim, seqlen, dstate, rank, innermost, dtype, seed=0):
    """u, projected, delta_weight, A, D, z, delta_bias and onto; `innermost` is the axis without gaps."""
    rng = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=rng)

    def sequence(features):
        tensor = randn(batch, features, seqlen).to(dtype)
        return tensor.mT.contiguous().mT if innermost == "features" else tensor

    A = -8 * torch.rand(dim, dstate, generator=rng)
    u, projected, z, onto = (sequence(n) for n in (dim, rank + 2 * dstate, dim, dim))
    return [u, projected, randn(dim, rank) * rank**-0.5, A, randn(dim), z, randn(dim), onto]


def expected(u, projected, delta_weight, A, D, z, delta_bias, onto, softplus, scale, reverse):
    """In float64, by a product and a scan; flipped, for the other direction."""
    u, projected, delta_weight, A, D, z, delta_bias, onto = reference.double(
        u, projected, delta_weight, A, D, z, delta_bias, onto
    )
    if reverse:
        u, projected, z = (None if t is None else t.flip(-1) for t in (u, projected, z))
    dstate = A.shape[1]
    delta, B, C = projected.split([delta_weight.shape[1], dstate, dstate], dim=1)
    out, _ = reference.selective_scan(u, delta_weight @ delta, A, B, C, D, z, delta_bias, softplus)
    out = out.flip(-1) if reverse else out
    return scale * (out if onto is None else out + onto)


@given(
    shape=st.tuples(
        st.integers(1, 3), st.integers(1, 140), st.integers(1, 300), st.integers(1, 20), st.integers(1, 60)
    ),
    innermost=st.sampled_from(["features", "steps"]),
    dtype=st.sampled_from(list(ACCURACY)),
    optional=st.booleans(),
    scale=st.sampled_from([1.0, 0.5]),
    reverse=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_forward(shape, innermost, dtype, optional, scale, reverse, seed):
    inputs = make(*shape, innermost, dtype, seed)
    if not optional:
        inputs[4:] = [None] * 4
    assert kernels.supports_projected_scan(*inputs)
    want = expected(*inputs, True, scale, reverse)
    *tensors, onto = inputs
    given_onto = None if onto is None else onto.clone()
    out = kernels.projected_scan(*tensors, True, given_onto, scale, reverse)
    assert out.dtype == dtype
    # A lone output may be the small difference of large terms.
    assert (out.double() - want).abs().max() <= 2 * ACCURACY[dtype] * want.abs().max().clamp_min(1.0)


def test_without_softplus():
    inputs = make(2, 40, 33, 16, 12, "features", torch.float32)
    inputs[2], inputs[1][:, :12] = inputs[2].abs(), inputs[1][:, :12].abs()
    inputs[6] = inputs[6].abs()
    out = kernels.projected_scan(*inputs[:7])
    want = expected(*inputs[:7], None, False, 1.0, False)
    assert (out.double() - want).abs().max() <= 2e-6 * want.abs().max()


def test_threads_change_nothing():
    inputs = make(2, 100, 300, 16, 12, "features", torch.float32)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(kernels.projected_scan(*inputs[:7], True, inputs[7].clone(), 0.5))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_traced_it_leaves_onto_alone():
    *tensors, onto = make(1, 20, 30, 4, 3, "features", torch.float32)
    kept = onto.clone()
    want = kernels.projected_scan(*tensors, True, onto.clone(), 0.5)
    run = torch.compile(lambda onto: kernels.projected_scan(*tensors, True, onto, 0.5), backend="aot_eager")
    assert torch.equal(run(onto), want)
    assert torch.equal(onto, kept)
    torch.library.opcheck(torch.ops.selective_scan_cpu.projected_scan.default, (*tensors, True, onto, 0.5, False))


def test_it_is_not_for_gradients():
    inputs = make(1, 8, 9, 4, 3, "steps", torch.float32)
    assert kernels.supports_projected_scan(*inputs)
    assert not kernels.supports_projected_scan(inputs[0].requires_grad_(), *inputs[1:])


@pytest.mark.parametrize(("index", "name"), [(1, "projected"), (2, "delta_weight"), (4, "D"), (5, "z")])
def test_shapes_that_do_not_fit(index, name):
    inputs = make(1, 8, 9, 4, 3, "steps", torch.float32)
    inputs[index] = inputs[index][:-1] if index in (2, 4) else inputs[index][:, :-1]
    with pytest.raises(ValueError, match=f"{name} has shape"):
        kernels.projected_scan(*inputs[:7])
