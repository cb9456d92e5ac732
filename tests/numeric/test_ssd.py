"""Mamba-2's chunked scan: its steps, the whole, and fused with the convolution, norm and projection."""

from __future__ import annotations

import math

import pytest
import reference
import torch
from mamba_ssm.modules.ssd_minimal import ssd_minimal_discrete
from mamba_ssm.ops.triton.ssd_chunk_scan import chunk_scan, chunk_scan_ref
from mamba_ssm.ops.triton.ssd_chunk_state import (
    _chunk_cumsum_fwd,
    chunk_state,
    chunk_state_ref,
    chunk_state_varlen,
)
from mamba_ssm.ops.triton.ssd_combined import (
    mamba_chunk_scan,
    mamba_chunk_scan_combined,
    mamba_split_conv1d_scan_combined,
    ssd_chunk_scan_combined_ref,
    ssd_selective_scan,
)
from mamba_ssm.ops.triton.ssd_state_passing import state_passing, state_passing_ref
from reference import assert_close, compare_gradients, double
from torch.nn import functional as F  # noqa: N812

pytestmark = pytest.mark.usefixtures("path")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
BATCH, NHEADS, HEADDIM, DSTATE = 2, 4, 6, 5


def arguments(seqlen, dtype=torch.float32, ngroups=2, D="head", batch=BATCH):
    def leaf(*shape, of=dtype):
        return torch.randn(*shape).to(of).requires_grad_()

    named = {
        "x": leaf(batch, seqlen, NHEADS, HEADDIM),
        "dt": leaf(batch, seqlen, NHEADS),
        "A": (-0.2 - torch.rand(NHEADS)).requires_grad_(),
        "B": leaf(batch, seqlen, ngroups, DSTATE),
        "C": leaf(batch, seqlen, ngroups, DSTATE),
        "z": leaf(batch, seqlen, NHEADS, HEADDIM),
        "dt_bias": leaf(NHEADS, of=torch.float32),
        "initial_states": leaf(batch, NHEADS, HEADDIM, DSTATE),
    }
    if D:
        named["D"] = leaf(*((NHEADS,) if D == "head" else (NHEADS, HEADDIM)), of=torch.float32)
    return named


def check(given, chunk_size, seq_idx=None, loose=2.0, gradient_loose=4.0, **options):
    wide = {name: double(t) for name, t in given.items()}
    expected, states = reference.ssd(**wide, seq_idx=seq_idx, **options)
    for grad in (False, True):  # a compiled kernel may serve one and not the other
        with torch.set_grad_enabled(grad):
            out, final = mamba_chunk_scan_combined(
                **given, chunk_size=chunk_size, seq_idx=seq_idx, **options, return_final_states=True
            )
        assert out.dtype == given["x"].dtype
        assert final.dtype == torch.promote_types(torch.float32, given["x"].dtype)
        assert_close(out, expected, loose)
        assert_close(final, states[:, -1], loose)
    compare_gradients(out, list(given.values()), expected, list(wide.values()), gradient_loose)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ngroups", [1, 2, 4])
@pytest.mark.parametrize("D", [None, "head", "feature"])
def test_combined(dtype, ngroups, D):
    check(arguments(23, dtype, ngroups, D), 8, dt_softplus=True)


@pytest.mark.parametrize("seqlen", [1, 7, 8, 9, 64, 65, 150])
@pytest.mark.parametrize("chunk_size", [8, 256])
def test_lengths_and_chunks(seqlen, chunk_size):
    check(arguments(seqlen), chunk_size, dt_softplus=True)


@pytest.mark.parametrize("dt_limit", [(0.0, math.inf), (0.3, 1.0)], ids=str)
@pytest.mark.parametrize("dt_softplus", [True, False])
def test_dt_limit(dt_limit, dt_softplus):
    check(arguments(20), 8, dt_softplus=dt_softplus, dt_limit=dt_limit)


@pytest.mark.parametrize("name", ["z", "dt_bias", "initial_states"])
def test_optional_arguments(name):
    given = arguments(20)
    del given[name]
    check(given, 8, dt_softplus=True)


@pytest.mark.parametrize("chunk_size", [4, 64])
def test_packed_sequences(chunk_size):
    """Sequence 0 goes on from the initial states; the others begin with nothing, also within a chunk."""
    seq_idx = torch.tensor([[0] * 3 + [1] * 9 + [2] * 1 + [3] * 10, [0] * 23], dtype=torch.int32)
    check(arguments(23), chunk_size, seq_idx, dt_softplus=True)


@pytest.mark.parametrize("chunk_size", [4, 64])
def test_padding_at_the_end_of_a_row_leaves_no_state(chunk_size):
    """As upstream's kernels since 2.2.5. The outputs of padding have no meaning, and are not compared."""
    seq_idx = torch.tensor([[0] * 5 + [1] * 8 + [-1] * 10, [0] * 23], dtype=torch.int32)
    given = arguments(23)
    wide = {name: double(t) for name, t in given.items()}
    expected, states = reference.ssd(**wide, seq_idx=seq_idx, dt_softplus=True)
    out, final = mamba_chunk_scan_combined(
        **given, chunk_size=chunk_size, seq_idx=seq_idx, dt_softplus=True, return_final_states=True
    )
    real = (seq_idx >= 0)[:, :, None, None]
    ends = torch.tensor([0.0, 1.0])[:, None, None, None]
    assert torch.equal(final[0], torch.zeros_like(final[0]))
    both = torch.cat([torch.where(real, out, 0.0).flatten(), final.flatten()])
    expected = torch.cat([torch.where(real, expected, 0.0).flatten(), (states[:, -1] * ends).flatten()])
    assert_close(both, expected, 2.0)
    compare_gradients(both, list(given.values()), expected, list(wide.values()), 4.0)


def test_long_decay_stays_finite():
    """The decay from the chunk's end to its start overflows where it is not masked: no inf, no nan."""
    given = arguments(128, batch=1)
    given["dt"] = (given["dt"].detach() + 40.0).requires_grad_()
    check(given, 64, dt_softplus=True)


def test_states_of_packed_sequences():
    lengths = [3, 17, 1, 40, 9]
    cu_seqlens = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    seq_idx = torch.repeat_interleave(torch.arange(5, dtype=torch.int32), torch.tensor(lengths))[None]
    given = arguments(70, batch=1)
    del given["initial_states"]
    for chunk_size in (8, 64):
        out, final, states = mamba_chunk_scan_combined(
            **given, chunk_size=chunk_size, seq_idx=seq_idx, cu_seqlens=cu_seqlens, dt_softplus=True,
            return_final_states=True, return_varlen_states=True,
        )  # fmt: skip
        expected, after = reference.ssd(
            **{name: double(t) for name, t in given.items()}, seq_idx=seq_idx, dt_softplus=True
        )
        assert_close(out, expected, 2)
        assert_close(final, after[:, -1], 2)
        assert_close(states, after[0, cu_seqlens[1:].long() - 1], 2)


def test_gradcheck():
    shapes = {"x": (1, 5, 2, 2), "dt": (1, 5, 2), "A": (2,), "B": (1, 5, 1, 2), "C": (1, 5, 1, 2), "D": (2,)}
    shapes |= {"z": (1, 5, 2, 2), "dt_bias": (2,), "initial_states": (1, 2, 2, 2)}
    given = {name: double(torch.randn(shape)) for name, shape in shapes.items()}
    names = list(given)
    seq_idx = torch.tensor([[0, 0, 1, 1, 1]], dtype=torch.int32)

    def run(*tensors):
        return mamba_chunk_scan_combined(
            **dict(zip(names, tensors, strict=True)), chunk_size=2, seq_idx=seq_idx, dt_softplus=True,
            return_final_states=True,
        )  # fmt: skip

    assert torch.autograd.gradcheck(run, tuple(given.values()))


# The steps


def steps(seqlen=24, chunk_size=8):
    given = {name: t.detach() for name, t in arguments(seqlen).items()}
    dA_cumsum, dt = _chunk_cumsum_fwd(given["dt"], given["A"], chunk_size, given["dt_bias"], True)
    return given, dA_cumsum.requires_grad_(), dt.requires_grad_()


def test_cumsum():
    given, dA_cumsum, dt = steps(21)
    step = reference.softplus(given["dt"].double() + given["dt_bias"].double())
    padded = F.pad(step, (0, 0, 0, 3)).unflatten(1, (3, 8)).permute(0, 3, 1, 2)
    assert_close(dt, padded)
    assert_close(dA_cumsum, (padded * given["A"].double()[:, None, None]).cumsum(-1))


def test_steps_agree_with_the_references_of_upstream():
    given, dA_cumsum, dt = steps()
    x, B, C, D, z = (given[name].requires_grad_() for name in ("x", "B", "C", "D", "z"))

    def both(actual, expected, leaves):
        assert_close(actual, expected.double(), 4)
        weight = torch.randn_like(expected)
        for a, e in zip(*(torch.autograd.grad(t, leaves, weight) for t in (actual, expected)), strict=True):
            assert_close(a, e.double(), 10)

    both(chunk_state(B, x, dt, dA_cumsum), chunk_state_ref(B, x, dt, dA_cumsum), (B, x, dt, dA_cumsum))
    states = torch.randn(BATCH, 3, NHEADS, 30, requires_grad=True)
    initial = torch.randn(BATCH, NHEADS, 30, requires_grad=True)
    total = dA_cumsum[..., -1].detach().requires_grad_()
    for actual, expected in zip(
        state_passing(states, total, initial), state_passing_ref(states, total, initial), strict=True
    ):
        assert_close(actual, expected.double(), 4)
    prev = torch.randn(BATCH, 3, NHEADS, HEADDIM, DSTATE, requires_grad=True)
    leaves = (B, C, x, dt, dA_cumsum, prev, D, z)
    both(chunk_scan(*leaves), chunk_scan_ref(*leaves), leaves)


def test_varlen_states_of_an_empty_sequence():
    given, dA_cumsum, dt = steps()
    cu_seqlens = torch.tensor([0, 8, 8, 24])
    before = torch.randn(3, NHEADS, HEADDIM, DSTATE)
    states = chunk_state_varlen(given["B"][0], given["x"][0], dt[0], dA_cumsum[0], cu_seqlens, before)
    assert (states[1] == 0).all()


def test_the_other_entry_points_agree():
    given = {name: t.detach() for name, t in arguments(24).items()}
    x, dt, A, B, C, D, z, bias = (given[n] for n in ("x", "dt", "A", "B", "C", "D", "z", "dt_bias"))
    expected = mamba_chunk_scan_combined(x, dt, A, B, C, 8, D, z, bias, dt_softplus=True)
    assert_close(mamba_chunk_scan(x, dt, A, B, C, 8, D, z, bias, dt_softplus=True), expected.double(), 4)
    assert_close(
        ssd_chunk_scan_combined_ref(x, dt, A, B, C, 8, D, z, bias, dt_softplus=True), expected.double(), 4
    )
    assert_close(ssd_selective_scan(x, dt, A, B, C, D, z, bias, dt_softplus=True), expected.double(), 4)
    step = F.softplus(dt + bias)
    heads = [h // (NHEADS // 2) for h in range(NHEADS)]
    minimal, _ = ssd_minimal_discrete(x * step[..., None], A * step, B[:, :, heads], C[:, :, heads], 8)
    plain = mamba_chunk_scan_combined(x, dt, A, B, C, 8, dt_bias=bias, dt_softplus=True)
    assert_close(minimal, plain.double(), 4)


# With the convolution, norm and projection


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "rmsnorm", [None, True, False], ids=["no norm", "norm before gate", "norm after gate"]
)
@pytest.mark.parametrize("extra", [0, 7])
@pytest.mark.parametrize("project", [True, False])
def test_split_conv1d_scan(dtype, rmsnorm, extra, project):
    dim, ngroups, seqlen = NHEADS * HEADDIM, 2, 19
    channels = dim + 2 * ngroups * DSTATE

    def leaf(*shape, of=dtype, scale=1.0):
        return (scale * torch.randn(*shape)).to(of).requires_grad_()

    given = {
        "zxbcdt": leaf(BATCH, seqlen, 2 * extra + dim + channels + NHEADS),
        "conv1d_weight": leaf(channels, 4),
        "conv1d_bias": leaf(channels),
        "dt_bias": leaf(NHEADS, of=torch.float32),
        "A": (-0.2 - torch.rand(NHEADS)).requires_grad_(),
        "D": leaf(NHEADS, of=torch.float32),
        "initial_states": leaf(BATCH, NHEADS, HEADDIM, DSTATE),
        "rmsnorm_weight": None if rmsnorm is None else leaf(dim),
        "outproj_weight": leaf(9, extra + dim, scale=0.2) if project else None,
        "outproj_bias": leaf(9) if project else None,
    }
    seq_idx = torch.tensor([[0] * 5 + [1] * 14, [0] * 19], dtype=torch.int32)
    wide = {name: double(t) for name, t in given.items()}
    z0, x0, z, xBC, dt = wide["zxbcdt"].split([extra, extra, dim, channels, NHEADS], dim=-1)
    xBC, _ = reference.causal_conv1d(
        xBC.transpose(1, 2), wide["conv1d_weight"], wide["conv1d_bias"], seq_idx, activation="silu"
    )
    x, B, C = xBC.transpose(1, 2).split([dim, ngroups * DSTATE, ngroups * DSTATE], dim=-1)
    expected, states = reference.ssd(
        x.unflatten(-1, (NHEADS, HEADDIM)),
        dt,
        wide["A"],
        B.unflatten(-1, (ngroups, DSTATE)),
        C.unflatten(-1, (ngroups, DSTATE)),
        wide["D"],
        z.unflatten(-1, (NHEADS, HEADDIM)) if rmsnorm is None else None,
        wide["dt_bias"],
        wide["initial_states"],
        seq_idx,
        True,
    )
    expected = expected.flatten(2)
    if rmsnorm is not None:
        expected = reference.gated_norm(
            expected, wide["rmsnorm_weight"], None, z, 1e-6, dim // ngroups, rmsnorm
        )
    if extra:
        expected = torch.cat([reference.silu(z0) * x0, expected], dim=-1)
    if project:
        expected = expected @ wide["outproj_weight"].t() + wide["outproj_bias"]
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            out, final = mamba_split_conv1d_scan_combined(
                **given, chunk_size=8, seq_idx=seq_idx, headdim=HEADDIM, ngroups=ngroups,
                norm_before_gate=rmsnorm is not False, return_final_states=True,
            )  # fmt: skip
        assert out.dtype == dtype
        assert_close(out, expected, 6)
        assert_close(final, states[:, -1], 2 if dtype == torch.float32 else 2000)
    if dtype == torch.float32:
        compare_gradients(out, list(given.values()), expected, list(wide.values()), 20)
