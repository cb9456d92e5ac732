"""A whole mixer on one token in one call, beside the module's own steps in double precision."""

from __future__ import annotations

import pytest
import reference
import selective_scan_cpu as kernels
import torch
from hypothesis import given
from hypothesis import strategies as st

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def make(seed, features, dim, dstate, rank, width, biases, dtype):
    rng = torch.Generator().manual_seed(seed)

    def randn(*shape, scale=1.0):
        return scale * torch.randn(*shape, generator=rng)

    weights = [
        randn(2 * dim, features, scale=features**-0.5), randn(2 * dim),
        randn(dim, 1, width), randn(dim),
        randn(rank + 2 * dstate, dim, scale=dim**-0.5),
        randn(dim, rank, scale=rank**-0.5), randn(dim),
        randn(dim, dstate), randn(dim),
        randn(features, dim, scale=dim**-0.5), randn(features),
    ]  # fmt: skip
    for i in () if biases else (1, 3, 6, 10):
        weights[i] = None
    # A_log and D stay float32, as the module keeps them.
    weights = [t if t is None or i in (7, 8) else t.to(dtype) for i, t in enumerate(weights)]
    x, conv_state, ssm_state = randn(1, 1, features), randn(1, dim, width), randn(1, dim, dstate)
    return x.to(dtype), conv_state.to(dtype), ssm_state.to(dtype), weights


def step_in_float64(x, conv_state, ssm_state, weights):
    """Out, the convolution's state and the scan's after it."""
    wide = [None if t is None else t.double() for t in (x, conv_state, ssm_state, *weights)]
    x, conv_state, h, W_in, b_in, W_conv, b_conv, W_x, W_dt, b_dt, A_log, D, W_out, b_out = wide
    dim, dstate, rank = len(D), A_log.shape[1], W_dt.shape[1]
    xz = W_in @ x.flatten() + (0 if b_in is None else b_in)
    conv_state = torch.cat([conv_state[0, :, 1:], xz[:dim, None]], 1)
    u = reference.silu((conv_state * W_conv[:, 0]).sum(1) + (0 if b_conv is None else b_conv))
    dt, B, C = (W_x @ u).split([rank, dstate, dstate])
    delta = reference.softplus(W_dt @ dt + (0 if b_dt is None else b_dt))[:, None]
    h = torch.exp(-delta * torch.exp(A_log)) * h[0] + delta * B * u[:, None]
    y = (h @ C + D * u) * reference.silu(xz[dim:])
    return (W_out @ y + (0 if b_out is None else b_out))[None, None], conv_state[None], h[None]


@given(
    features=st.integers(1, 70),
    dim=st.integers(1, 140),
    dstate=st.integers(1, 40),
    rank=st.integers(1, 20),
    width=st.integers(2, 4),
    biases=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_step(features, dim, dstate, rank, width, biases, dtype, seed):
    x, conv_state, ssm_state, weights = make(seed, features, dim, dstate, rank, width, biases, dtype)
    want, want_conv, want_ssm = step_in_float64(x, conv_state, ssm_state, weights)
    assert kernels.supports_mamba_step(x, conv_state, ssm_state, *weights)
    out = kernels.mamba_step(x, conv_state, ssm_state, *weights)
    assert out.dtype == dtype
    assert out.shape == x.shape
    # Against the size of what is added up: a single output may be the small difference of large terms.
    size = max(1.0, want.abs().max().item())
    tolerance = 4e-6 if dtype == torch.float32 else 2 ** -(7 if dtype == torch.bfloat16 else 10)
    assert (out.double() - want).abs().max().item() <= 4 * tolerance * size
    for state, wanted in ((conv_state, want_conv), (ssm_state, want_ssm)):
        assert (state.double() - wanted).abs().max().item() <= tolerance * max(1.0, wanted.abs().max().item())


def test_threads_change_nothing():
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            x, conv_state, ssm_state, weights = make(0, 256, 512, 16, 16, 4, True, torch.float32)
            results.append((kernels.mamba_step(x, conv_state, ssm_state, *weights), conv_state, ssm_state))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_operator():
    x, conv_state, ssm_state, weights = make(0, 8, 12, 4, 3, 4, True, torch.float32)
    args = (x, conv_state, ssm_state, *weights)
    torch.library.opcheck(torch.ops.selective_scan_cpu.mamba_step.default, args)


@pytest.mark.parametrize("which", ["conv_state", "ssm_state"])
def test_x_may_be_a_view_of_a_state(which):
    x, conv_state, ssm_state, weights = make(0, 8, 12, 4, 3, 4, True, torch.float32)
    state = conv_state if which == "conv_state" else ssm_state
    x = state.view(-1)[:8].view(x.shape)
    apart = [x.clone(), conv_state.clone(), ssm_state.clone()]
    want = kernels.mamba_step(*apart, *weights)
    assert torch.equal(kernels.mamba_step(x, conv_state, ssm_state, *weights), want)
    assert torch.equal(conv_state, apart[1])
    assert torch.equal(ssm_state, apart[2])


def test_what_it_refuses():
    x, conv_state, ssm_state, weights = make(0, 8, 12, 4, 3, 4, True, torch.float32)
    assert not kernels.supports_mamba_step(x.expand(2, 1, -1), conv_state, ssm_state, *weights)
    weights[0].requires_grad_()
    assert not kernels.supports_mamba_step(x, conv_state, ssm_state, *weights)
    with torch.no_grad(), pytest.raises(ValueError, match="ssm_state has shape"):
        kernels.mamba_step(x, conv_state, ssm_state[:, 1:], *weights)
