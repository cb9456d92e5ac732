"""Mamba-3's scan and its single step, against the recurrence in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import mamba3_reference as recurrence
import pytest
import reference
import selective_scan_cpu as kernels
import torch
from hypothesis import given
from hypothesis import strategies as st
from mamba3_inputs import arguments, step_arguments


def states(x, sequences):
    heads, rank, dstate = x["q_bias"].shape
    return (
        20 * torch.randn(sequences, heads, x["angles"].shape[-1]),
        torch.randn(sequences, heads, x["v"].shape[-1], dstate),
        torch.randn(sequences, rank, heads, dstate),
        torch.randn(sequences, heads, x["v"].shape[-1]),
    )


def assert_result(actual, wanted, loose=2.0):
    (out, last), (wanted_out, wanted_last) = actual, wanted
    reference.assert_close(out, wanted_out, loose)
    apart = (last[0].double() - wanted_last[0] + math.pi) % (2 * math.pi) - math.pi
    assert not apart.numel() or apart.abs().max() < 1e-5
    for a, w in zip(last[1:], wanted_last[1:], strict=True):
        reference.assert_close(a, w, loose)


def wide(t):
    return None if t is None else t.double()


@given(
    batch=st.integers(1, 2),
    seqlen=st.integers(1, 80),
    rank=st.sampled_from([1, 1, 2, 3, 4, 8, 40]),
    groups=st.sampled_from([1, 2]),
    heads=st.sampled_from([2, 4]),
    dstate=st.integers(1, 40),
    head_dim=st.integers(1, 40),
    optional=st.booleans(),
    begins=st.booleans(),
    neighbours=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**16),
)
def test_scan(batch, seqlen, rank, groups, heads, dstate, head_dim, optional, begins, neighbours, dtype, seed):
    torch.manual_seed(seed)
    seqlen = seqlen if rank < 8 else 1 + seqlen // 8
    angles = dstate // (2 if seed % 2 else 4)
    x = arguments(batch, seqlen, rank, groups, heads, dstate, head_dim, angles, rank > 1 or seed % 3 == 0, optional)
    for name in ("q", "k", "v", "z", "trap"):
        x[name] = None if x[name] is None else x[name].to(dtype)
    first = states(x, batch) if begins else None
    assert kernels.supports_mamba3(*x.values(), first)
    result = kernels.mamba3(*x.values(), first, neighbours=neighbours)
    given_wide = {name: wide(t) for name, t in x.items()}
    assert_result(result, recurrence.mamba3(**given_wide, states=first and [*map(wide, first)], pairwise=neighbours))


@given(
    batch=st.integers(1, 2),
    seqlen=st.integers(1, 70),
    groups=st.sampled_from([1, 2]),
    dstate=st.integers(1, 36),
    head_dim=st.integers(1, 40),
    optional=st.booleans(),
    begins=st.booleans(),
    neighbours=st.booleans(),
    threads=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**16),
)
def test_gradients(batch, seqlen, groups, dstate, head_dim, optional, begins, neighbours, threads, seed):
    torch.manual_seed(seed)
    x = arguments(batch, seqlen, 1, groups, 4, dstate, head_dim, dstate // (2 if seed % 2 else 4), False, optional)
    x = {name: t.requires_grad_() for name, t in x.items() if t is not None}
    first = [state.requires_grad_() for state in states(x, batch)] if begins else None
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        out, last = kernels.mamba3(**x, states=first, neighbours=neighbours)
        weights = [torch.randn(t.shape) for t in (out, *last)]
        inputs = [*x.values(), *(first or [])]
        grads = torch.autograd.grad((out, *last), inputs, weights)
    finally:
        torch.set_num_threads(before)
    wide_x, wide_first = dict(zip(x, reference.double(*x.values()), strict=True)), first and reference.double(*first)
    out, last = recurrence.mamba3(**wide_x, states=wide_first, pairwise=neighbours)
    wide_inputs = [*wide_x.values(), *(wide_first or [])]
    wanted = torch.autograd.grad((out, *last), wide_inputs, [w.double() for w in weights], allow_unused=True)
    for grad, want in zip(grads, wanted, strict=True):
        reference.assert_close(grad, torch.zeros(grad.shape) if want is None else want, 4)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_torch_s_default_dtype_does_not_count(default):
    """Memory that the kernels write float32 to is of float32."""
    x = {name: t.requires_grad_() for name, t in arguments(2, 40, 1, 1, 4, 16, 8, 4).items() if t is not None}
    first = [state.requires_grad_() for state in states(x, 2)]
    inputs = [*x.values(), *first]

    def results():
        out, last = kernels.mamba3(**x, states=first)
        return [out, *last, *torch.autograd.grad([t.sum() for t in (out, *last)], inputs)]

    wanted = results()
    torch.set_default_dtype(default)
    try:
        found = results()
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_gradients_of_packed_sequences():
    x = {name: t.requires_grad_() for name, t in arguments(1, 50, 1, 2, 4, 16, 9, 4).items() if t is not None}
    first = [state.requires_grad_() for state in states(x, 4)]
    bounds = [0, 7, 7, 33, 50]
    out, last = kernels.mamba3(**x, states=first, cu_seqlens=torch.tensor(bounds))
    inputs, parts = [*x.values(), *first], []
    for i, (start, end) in enumerate(pairwise(bounds)):
        part = {
            name: t[:, start:end]
            if name in ("q", "k", "v", "z", "angles")
            else t[..., start:end]
            if name in ("adt", "dt", "trap")
            else t
            for name, t in x.items()
        }
        parts.append(kernels.mamba3(**part, states=[state[i : i + 1] for state in first]))
    apart = [torch.cat([out for out, _ in parts], 1), *map(torch.cat, zip(*(last for _, last in parts), strict=True))]
    weights = [torch.randn(t.shape) for t in apart]
    packed = torch.autograd.grad((out, *last), inputs, weights)
    for grad, want in zip(packed, torch.autograd.grad(apart, inputs, weights), strict=True):
        torch.testing.assert_close(grad, want, rtol=1e-5, atol=1e-5)


def test_packed_sequences_and_empty_ones():
    x = arguments(1, 50, 2, 2, 4, 16, 9, 4, mimo=True)
    bounds = [0, 0, 7, 33, 33, 50, 50]
    first = states(x, 6)
    out, last = kernels.mamba3(*x.values(), first, torch.tensor(bounds, dtype=torch.int64), neighbours=False)
    for i, (start, end) in enumerate(pairwise(bounds)):
        of_one = [state[i : i + 1] for state in first]
        part = {
            name: t[:, start:end] if name in ("q", "k", "v", "z", "angles")
            else t[..., start:end] if name in ("adt", "dt", "trap") else t
            for name, t in x.items()
        }  # fmt: skip
        alone = kernels.mamba3(*part.values(), of_one, neighbours=False)
        assert torch.equal(out[:, start:end], alone[0])
        for packed, single, begin in zip(last, alone[1], of_one, strict=True):
            assert torch.equal(packed[i : i + 1], single)
            if start == end and begin is not of_one[0]:
                assert torch.equal(single, begin)


@pytest.mark.parametrize("bounds", [[1, 50], [0, 51], [0, 30, 20, 50], [0, 49]], ids=str)
def test_bounds_that_do_not_rise_are_refused(bounds):
    x = arguments(1, 50, 1, 1, 2, 4, 3, 1)
    with pytest.raises(IndexError, match="cu_seqlens must rise from 0 to 50"):
        kernels.mamba3(*x.values(), None, torch.tensor(bounds))


def test_shapes_that_do_not_fit_are_refused():
    x = arguments(1, 5, 1, 1, 2, 8, 3, 2)
    for name in ("k", "v", "adt", "trap", "q_bias", "D", "z"):
        wrong = {**x, name: x[name][..., :1] if x[name].shape[-1] > 1 else x[name][..., :0]}
        with pytest.raises(ValueError, match="expected"):
            kernels.mamba3(*wrong.values())
    with pytest.raises(ValueError, match="mimo_v is needed"):
        kernels.mamba3(*arguments(1, 5, 2, 1, 2, 8, 3, 2).values())


def test_strided_views_and_threads():
    x = arguments(2, 33, 1, 1, 4, 16, 20, 8)
    moved = {
        name: t if t is None else t.transpose(0, -1).contiguous().transpose(0, -1) for name, t in x.items()
    }  # the same numbers, the first axis innermost
    out, last = kernels.mamba3(*x.values())
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again, last_again = kernels.mamba3(*moved.values())
    finally:
        torch.set_num_threads(threads)
    for a, b in zip((out, *last), (again, *last_again), strict=True):
        assert torch.equal(a, b)


def test_the_operator_is_traced():
    x = arguments(1, 20, 1, 1, 2, 8, 5, 2)
    tensors = (*x.values(), None, None, None, None, None, True)
    torch.library.opcheck(torch.ops.selective_scan_cpu.mamba3, tensors, test_utils=("test_schema", "test_faketensor"))


@given(
    rank=st.sampled_from([1, 1, 2, 4]),
    groups=st.sampled_from([1, 2]),
    dstate=st.integers(2, 40),
    head_dim=st.integers(1, 40),
    norm=st.booleans(),
    neighbours=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**16),
)
def test_step(rank, groups, dstate, head_dim, norm, neighbours, dtype, seed):
    torch.manual_seed(seed)
    heads, features, angles = 4, 24, dstate // 4
    x, before, parameters = step_arguments(rank, groups, heads, dstate, head_dim, angles, features, norm, dtype)
    (in_weight, in_bias, out_weight, out_bias, dt_bias, D, B_weight, C_weight, B_bias, C_bias, mimo_v, mimo_z, mimo_out,
     norm_weight) = map(wide, parameters)  # fmt: skip
    inner, width = heads * head_dim, dstate * groups * rank
    sizes = [inner, inner, width, width, heads, heads, heads, angles]
    z, v, B, C, dt, A, trap, rates = (x.double() @ in_weight.T + in_bias).split(sizes, -1)

    def normed(t, weight):
        return t / (t.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    B, C = (normed(t.view(1, 1, rank, groups, dstate), w) for t, w in ((B, B_weight), (C, C_weight)))
    z, v = z.view(1, 1, heads, head_dim), v.view(1, 1, heads, head_dim)
    dt = reference.softplus(dt + dt_bias)
    adt = -reference.softplus(A).clamp(min=0.4) * dt
    y, last = recurrence.mamba3(
        C, B, v, adt[..., None], dt[..., None], trap[..., None], C_bias, B_bias,
        rates[:, None, None].expand(1, 1, heads, angles), D, None if norm else z, mimo_v, None if norm else mimo_z,
        None if norm else mimo_out, [*map(wide, before)], neighbours,
    )  # fmt: skip
    if norm:
        gate = z.unsqueeze(2) * mimo_z.transpose(0, 1) if rank > 1 else z
        y = normed(y, norm_weight.view(heads, head_dim)) * reference.silu(gate)
        y = (y * mimo_out.transpose(0, 1)).sum(2) if rank > 1 else y
    want = y.flatten(1) @ out_weight.T + out_bias

    assert kernels.supports_mamba3_step(x, *before, *parameters)
    out = kernels.mamba3_step(x, *before, *parameters, groups, neighbours, 0.4, 1e-5, 1e-5, 1e-5)
    assert_result((out, before), (want, last), 4)


def test_step_refuses_states_that_share_memory():
    x, before, parameters = step_arguments(1, 1, 4, 8, 5, 2, 24, False, torch.float32)
    shared = (before[0], before[1][:, :1].expand(1, 4, 5, 8), *before[2:])
    with pytest.raises(RuntimeError, match="ssm_state is to be written to"):
        kernels.mamba3_step(x, *shared, *parameters, 1, True, 1e-4, 1e-5, 1e-5, 1e-5)
