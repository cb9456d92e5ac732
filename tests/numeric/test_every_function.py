"""Each function once, at one small shape, forward and backward: quick enough for an emulated processor."""

from __future__ import annotations

import pytest
import reference
import torch
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from causal_conv1d.causal_conv1d_varlen import causal_conv1d_varlen_states
from mamba_ssm import Mamba, Mamba2, MambaLMHeadModel
from mamba_ssm.models.config_mamba import MambaConfig
from mamba_ssm.modules.mamba2_simple import Mamba2Simple
from mamba_ssm.modules.mha import MHA
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from mamba_ssm.ops.triton.layer_norm import layer_norm_fn, rms_norm_fn
from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
from reference import assert_close, compare_gradients, double

pytestmark = pytest.mark.usefixtures("path")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def leaves(dtype, *shapes):
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def check(function, expected_from, given, loose=2.0):
    wide = double(*given)
    expected = expected_from(*wide)
    with torch.no_grad():
        assert_close(function(*given), expected, loose)
    out = function(*given)
    assert_close(out, expected, loose)
    compare_gradients(out, given, expected, wide, 2 * loose)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_causal_conv1d(dtype):
    def expected(x, weight, bias):
        return reference.causal_conv1d(x, weight, bias, activation="silu")[0]

    given = [*leaves(dtype, (2, 19, 21)), *leaves(torch.float32, (19, 4), (19,))]
    check(lambda *a: causal_conv1d_fn(*a, activation="silu"), expected, given)
    x, weight, bias = (t.detach() for t in given)
    state = torch.zeros(2, 19, 4, dtype=dtype)
    steps = [causal_conv1d_update(x[:, :, t], state, weight, bias, "silu") for t in range(21)]
    assert_close(torch.stack(steps, dim=2), expected(x.double(), weight.double(), bias.double()))
    assert torch.equal(state, x[:, :, -4:])
    states = causal_conv1d_varlen_states(x[0].t(), torch.tensor([0, 5, 21]), 3)
    assert torch.equal(states[1], x[0, :, -3:])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_selective_scan(dtype):
    u, delta, B, C, z = leaves(dtype, (2, 18, 21), (2, 18, 21), (2, 3, 16, 21), (2, 3, 16, 21), (2, 18, 21))
    D, bias = leaves(torch.float32, (18,), (18,))
    A = (-0.5 - torch.rand(18, 16)).requires_grad_()
    check(
        lambda *a: selective_scan_fn(*a, delta_softplus=True),
        lambda *a: reference.selective_scan(*a, delta_softplus=True)[0],
        [u, delta, A, B, C, D, z, bias],
    )
    state, columns = torch.zeros(2, 18, 16), []
    with torch.no_grad():
        for t in range(21):
            B_t, C_t = (w[..., t].repeat_interleave(6, dim=1) for w in (B, C))
            step = selective_state_update(  # one head per channel, each with a group of its own
                state.unsqueeze(2),
                u[:, :, t, None],
                delta[:, :, t, None],
                A.unsqueeze(1),
                B_t,
                C_t,
                D[:, None],
                z[:, :, t, None],
                bias[:, None],
                dt_softplus=True,
            )
            columns.append(step.squeeze(-1))
        expected, last = reference.selective_scan(
            *(t.double() for t in (u, delta, A, B, C, D, z, bias)), delta_softplus=True
        )
    assert_close(torch.stack(columns, dim=2), expected, 2)
    assert_close(state, last, 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_chunk_scan(dtype):
    x, dt, B, C, z = leaves(dtype, (2, 21, 4, 6), (2, 21, 4), (2, 21, 2, 16), (2, 21, 2, 16), (2, 21, 4, 6))
    A = (-0.2 - torch.rand(4)).requires_grad_()
    D, bias = leaves(torch.float32, (4,), (4,))
    check(
        lambda x, dt, A, B, C, D, z, bias: mamba_chunk_scan_combined(
            x, dt, A, B, C, 8, D, z, bias, dt_softplus=True
        ),
        lambda x, dt, A, B, C, D, z, bias: reference.ssd(x, dt, A, B, C, D, z, bias, dt_softplus=True)[0],
        [x, dt, A, B, C, D, z, bias],
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norms(dtype):
    x, residual, z = leaves(dtype, (3, 22), (3, 22), (3, 22))
    weight, bias = leaves(torch.float32, (22,), (22,))
    check(
        lambda x, r, w: rms_norm_fn(x, w, None, r),
        lambda x, r, w: reference.norm(x + r, w),
        [x, residual, weight],
    )
    x, residual, weight = (t.detach().requires_grad_() for t in (x, residual, weight))
    check(
        lambda x, r, w, b: layer_norm_fn(x, w, b, r),
        lambda x, r, w, b: reference.norm(x + r, w, b, rms=False),
        [x, residual, weight, bias],
    )
    x, weight = (t.detach().requires_grad_() for t in (x, weight))
    check(
        lambda x, w, z: rmsnorm_fn(x, w, None, z, group_size=11, norm_before_gate=False),
        lambda x, w, z: reference.gated_norm(x, w, None, z, group_size=11, norm_before_gate=False),
        [x, weight, z],
    )


MODULES = {
    "mamba": (lambda: Mamba(16, d_state=8), reference.mamba),
    "vim v1": (lambda: Mamba(16, d_state=8, bimamba_type="v1"), reference.bimamba_v1),
    "vim v2": (lambda: Mamba(16, d_state=8, bimamba_type="v2"), reference.bimamba_v2),
    "mamba2": (lambda: Mamba2(16, d_state=8, headdim=8), lambda x, p: reference.mamba2(x, p, 8)),
    "mamba2 simple": (lambda: Mamba2Simple(16, d_state=8, headdim=8), lambda x, p: reference.mamba2(x, p, 8)),
    "attention": (
        lambda: MHA(16, 2, causal=True, rotary_emb_dim=8, d_conv=4),
        lambda x, p: reference.attention(x, p, 2, None, True, 8),
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name):
    make, expected_from = MODULES[name]
    module, x = make(), torch.randn(1, 13, 16)
    expected = expected_from(x.double(), reference.parameters(module))
    with torch.no_grad():
        assert_close(module(x), expected, 10)
    out = module(x)
    assert_close(out, expected, 10)
    out.sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_generation():
    config = MambaConfig(d_model=16, n_layer=2, vocab_size=24, ssm_cfg={"layer": "Mamba2", "headdim": 8})
    model = MambaLMHeadModel(config)
    ids = torch.randint(24, (1, 4))
    out = model.generate(ids, max_length=8, return_dict_in_generate=True, output_scores=True)
    full = reference.lm_logits(out.sequences, model, lambda x, p, _: reference.mamba2(x, p, 8))
    for i, score in enumerate(out.scores):
        assert_close(score, full[:, 3 + i], 40)
