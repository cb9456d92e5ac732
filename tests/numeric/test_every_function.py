"""Each function once, at one small shape, forward and backward: quick enough for an emulated processor."""

from __future__ import annotations

import pytest
import reference
import selective_scan_cuda_core
import selective_scan_cuda_oflex
import torch
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from causal_conv1d.causal_conv1d_varlen import causal_conv1d_varlen_states
from mamba_ssm import Mamba, Mamba2, MambaLMHeadModel
from mamba_ssm.models.config_mamba import MambaConfig
from mamba_ssm.modules.block import Block
from mamba_ssm.modules.mamba2_simple import Mamba2Simple
from mamba_ssm.modules.mha import MHA
from mamba_ssm.modules.mlp import GatedMLP
from mamba_ssm.ops.selective_scan_interface import (
    bimamba_inner_fn,
    bimamba_inner_ref,
    mamba_inner_fn,
    mamba_inner_fn_no_out_proj,
    mamba_inner_ref,
    selective_scan_fn,
)
from mamba_ssm.ops.triton.k_activations import swiglu
from mamba_ssm.ops.triton.layer_norm import RMSNorm, layer_norm_fn, layer_norm_linear_fn, rms_norm_fn
from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined
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


def test_convolution_of_packed_sequences_and_states():
    x, weight, bias, initial = leaves(torch.float32, (2, 19, 12), (19, 3), (19,), (2, 19, 2))
    seq_idx = torch.tensor([[0] * 5 + [1] * 7, [0] * 10 + [-1] * 2], dtype=torch.int32)
    check(
        lambda x, w, b, i: causal_conv1d_fn(x, w, b, seq_idx, i),
        lambda x, w, b, i: reference.causal_conv1d(x, w, b, seq_idx, i)[0],
        [x, weight, bias, initial],
    )
    given = [t.detach().requires_grad_() for t in (x, weight, bias, initial)]
    check(
        lambda x, w, b, i: torch.cat(
            causal_conv1d_fn(x, w, b, initial_states=i, return_final_states=True), dim=2
        ),
        lambda x, w, b, i: torch.cat(reference.causal_conv1d(x, w, b, initial_states=i), dim=2),
        given,
    )


def test_convolution_step_by_step_in_a_ring():
    x, weight = torch.randn(2, 19, 9), torch.randn(19, 4)
    ring, rows = torch.zeros(5, 19, 6), torch.tensor([3, 0], dtype=torch.int32)
    steps = []
    for t in range(9):
        written = torch.full((2,), t, dtype=torch.int32)
        steps.append(causal_conv1d_update(x[:, :, t], ring, weight, None, None, written, rows))
    assert_close(torch.stack(steps, dim=2), reference.causal_conv1d(x.double(), weight.double())[0], 2)
    assert torch.equal(ring[3, :, 8 % 6], x[0, :, 8])
    assert not ring[[1, 2, 4]].any()


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


def test_complex_scan_with_constant_b_and_variable_c():
    u, delta, C = leaves(torch.float32, (2, 6, 9), (2, 6, 9), (2, 4, 18))
    A = torch.complex(-0.5 - torch.rand(6, 4), torch.randn(6, 4)).requires_grad_()
    B = torch.randn(6, 4, dtype=torch.complex64).requires_grad_()
    check(
        lambda *a: selective_scan_fn(*a, delta_softplus=True),
        lambda *a: reference.selective_scan(*a, delta_softplus=True)[0],
        [u, delta, A, B, C],
    )


@pytest.mark.parametrize("module", [selective_scan_cuda_core, selective_scan_cuda_oflex])
def test_vmambas_extension_modules(module):
    u, delta, B, C = leaves(torch.float32, (2, 16, 9), (2, 16, 9), (2, 4, 3, 9), (2, 4, 3, 9))
    A, (D, bias) = (-torch.rand(16, 3)).requires_grad_(), leaves(torch.float32, (16,), (16,))
    given = [u, delta, A, B, C, D, bias]
    wide = double(*given)
    expected, state = reference.selective_scan(*wide[:6], None, wide[6], True)
    out, x, *_ = module.fwd(*given, True, 1)
    assert_close(out, expected, 2)
    assert_close(x[:, :, -1, 1::2], state, 2)
    expected.sum().backward()
    for grad, tensor in zip(module.bwd(*given, torch.ones_like(out), x, True, 1), wide, strict=True):
        assert_close(grad, tensor.grad, 4)


def test_inner_functions():
    xz, conv, conv_bias, x_proj, dt_proj, out_proj, out_bias, D, bias = leaves(
        torch.float32, (1, 12, 7), (6, 1, 4), (6,), (2 + 2 * 3, 6), (6, 2), (5, 6), (5,), (6,), (6,)
    )
    A, A_b = -torch.rand(6, 3), -torch.rand(6, 3)
    first, last = (xz, conv, conv_bias, x_proj, dt_proj), (None, None, D, bias)
    there = mamba_inner_fn(*first, out_proj, out_bias, A, *last)
    assert_close(there, mamba_inner_ref(*first, out_proj, out_bias, A, *last).double(), 10)
    bare = mamba_inner_fn_no_out_proj(*first, A, *last)
    assert_close(bare.transpose(1, 2) @ out_proj.t() + out_bias, there.double(), 10)
    both = bimamba_inner_fn(*first, out_proj, out_bias, A, A_b, *last)
    assert_close(both, bimamba_inner_ref(*first, out_proj, out_bias, A, A_b, *last).double(), 10)
    (there.sum() + bare.sum() + both.sum()).backward()
    assert all(t.grad.isfinite().all() for t in (*first, out_proj, out_bias, D, bias))


@pytest.mark.parametrize("given", ["B", "C"])
def test_inner_with_a_coefficient_given(given):
    """The input is then projected to delta and the other one alone."""
    xz, conv, conv_bias, x_proj, dt_proj, out_proj, out_bias, D, bias, constant = leaves(
        torch.float32, (1, 12, 7), (6, 1, 4), (6,), (2 + 3, 6), (6, 2), (5, 6), (5,), (6,), (6,), (6, 3)
    )
    A, (B, C) = -torch.rand(6, 3), (constant, None) if given == "B" else (None, constant)
    arguments = (xz, conv, conv_bias, x_proj, dt_proj, out_proj, out_bias, A, B, C, D, bias)
    out = mamba_inner_fn(*arguments)
    assert_close(out, mamba_inner_ref(*arguments).double(), 10)
    bare = mamba_inner_fn_no_out_proj(*arguments[:5], *arguments[7:])
    assert_close(bare.transpose(1, 2) @ out_proj.t() + out_bias, out.double(), 10)


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


def test_split_conv1d_scan():
    heads, headdim, ngroups, dstate = 4, 6, 2, 5
    dim = heads * headdim
    wide_dim = dim + 2 * ngroups * dstate
    zxbcdt, conv, conv_bias, weight, out_proj = leaves(
        torch.float32, (1, 19, dim + wide_dim + heads), (wide_dim, 4), (wide_dim,), (dim,), (7, dim)
    )
    dt_bias, D = leaves(torch.float32, (heads,), (heads,))
    A = -0.2 - torch.rand(heads)
    out, state = mamba_split_conv1d_scan_combined(
        zxbcdt, conv, conv_bias, dt_bias, A, D, 8, return_final_states=True, rmsnorm_weight=weight,
        rmsnorm_eps=1e-5, outproj_weight=out_proj, headdim=headdim, ngroups=ngroups, norm_before_gate=False,
    )  # fmt: skip
    p = {
        "in_proj.weight": torch.eye(zxbcdt.shape[-1]),
        "conv1d.weight": conv.unsqueeze(1),
        "conv1d.bias": conv_bias,
        "dt_bias": dt_bias,
        "A_log": torch.log(-A),
        "D": D,
        "norm.weight": weight,
        "out_proj.weight": out_proj,
    }
    p = {name: value.detach().double() for name, value in p.items()}
    assert_close(out, reference.mamba2(zxbcdt.detach().double(), p, headdim, ngroups), 10)
    assert state.shape == (1, heads, headdim, dstate)
    out.sum().backward()
    assert all(t.grad.isfinite().all() for t in (zxbcdt, conv, conv_bias, dt_bias, D, weight, out_proj))


def test_norm_with_projection_and_swiglu():
    x, weight, projection = leaves(torch.float32, (3, 22), (22,), (8, 22))
    check(
        lambda x, w, p: layer_norm_linear_fn(x, w, None, p, None, is_rms_norm=True),
        lambda x, w, p: reference.norm(x, w) @ p.t(),
        [x, weight, projection],
    )
    a, b = leaves(torch.float32, (3, 11), (3, 11))
    check(lambda a, b: swiglu(torch.cat([a, b], dim=1)), lambda a, b: reference.silu(a) * b, [a, b])


def test_block_with_its_mlp():
    block = Block(16, lambda d: Mamba(d, d_state=8), lambda d: GatedMLP(d, 24), RMSNorm, fused_add_norm=True)
    x = torch.randn(1, 9, 16)
    p = reference.parameters(block)
    y = reference.norm(x.double(), p["norm.weight"], eps=1e-5)
    total = x.double() + reference.mamba(y, reference.inside(p, "mixer."))
    y = reference.norm(total, p["norm2.weight"], eps=1e-5)
    y, gate = reference.linear(y, p, "mlp.fc1").chunk(2, dim=-1)
    hidden, residual = block(x)
    assert_close(residual, total, 10)
    assert_close(hidden, reference.linear(y * reference.silu(gate), p, "mlp.fc2"), 10)
    hidden.sum().backward()


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


def test_a_hybrid_model_from_a_folder(tmp_path):
    attention = {"causal": True, "num_heads": 2, "d_conv": 4, "rotary_emb_dim": 8}
    config = MambaConfig(d_model=16, n_layer=2, vocab_size=24, attn_layer_idx=[1], attn_cfg=attention)
    MambaLMHeadModel(config).save_pretrained(tmp_path)
    model = MambaLMHeadModel.from_pretrained(str(tmp_path)).eval()
    ids = torch.randint(24, (2, 5))
    full = reference.lm_logits(
        ids,
        model,
        lambda x, p, i: reference.attention(x, p, 2, None, True, 8) if i else reference.mamba(x, p),
    )
    assert_close(model(ids).logits, full, 40)
    sampled = model.generate(ids, max_length=9, top_k=3, temperature=0.8)
    assert sampled.shape == (2, 9)
    assert torch.equal(sampled[:, :5], ids)
