"""Mamba-3's functions and its module on the GPU, forward and backward, against the recurrence in float64."""

from __future__ import annotations

import copy

import mamba3_reference as recurrence
import pytest
import torch
from test_models import worst

modules = pytest.importorskip("mamba_ssm.modules.mamba3", reason="this release has no Mamba-3")
from mamba_ssm import Mamba3  # noqa: E402
from mamba_ssm.ops.triton.mamba3.mamba3_siso_combined import mamba3_siso_combined  # noqa: E402

# The kernels for GPUs turn q, k, v, z, the trapezoid's weights and the angles into
# bfloat16, whatever their dtype.
FORWARD, BACKWARD = 3e-2, 6e-2
DTYPES = [torch.float32, torch.bfloat16]


def siso_inputs(batch=2, seqlen=70, groups=1, heads=4, dstate=32, headdim=32, angles=8):
    return {
        "q": torch.randn(batch, seqlen, groups, dstate),
        "k": torch.randn(batch, seqlen, groups, dstate),
        "v": torch.randn(batch, seqlen, heads, headdim),
        "adt": -0.3 * torch.rand(batch, heads, seqlen),
        "dt": 0.3 * torch.rand(batch, heads, seqlen),
        "trap": torch.randn(batch, heads, seqlen),
        "q_bias": torch.randn(heads, dstate),
        "k_bias": torch.randn(heads, dstate),
        "angles": torch.randn(batch, seqlen, heads, angles),
        "D": torch.randn(heads),
        "z": torch.randn(batch, seqlen, heads, headdim),
    }


def exact(x):
    wide = {name: t.detach().cpu().double().requires_grad_() for name, t in x.items()}
    shaped = dict(wide)
    for name in ("q", "k"):
        shaped[name] = wide[name].unsqueeze(2)
        shaped[f"{name}_bias"] = wide[f"{name}_bias"].unsqueeze(1)
    return wide, recurrence.mamba3(**shaped)


def call(x, chunk, cu_seqlens=None):
    return mamba3_siso_combined(
        x["q"], x["k"], x["v"], x["adt"], x["dt"], x["trap"], x["q_bias"], x["k_bias"], x["angles"], x["D"],
        x["z"], None, chunk, True, cu_seqlens,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("seqlen", "sizes"),
    [
        (1, {}),
        (70, {"heads": 8}),
        (130, {"groups": 2, "dstate": 64, "headdim": 64, "angles": 16}),
        (70, {"headdim": 20, "dstate": 24}),  # no powers of two: computed in PyTorch
        (70, {"headdim": 8}),
    ],
    ids=str,
)
def test_siso(device, dtype, seqlen, sizes):
    x = siso_inputs(seqlen=seqlen, **sizes)
    x.update({name: x[name].to(dtype) for name in ("q", "k", "v", "z", "trap")})
    x = {name: t.to(device).requires_grad_() for name, t in x.items()}
    out, _, state, *_ = call(x, 64)
    wide, (want, last) = exact(x)
    assert worst(out, want) < FORWARD
    assert worst(state, last.ssm) < FORWARD
    weight = torch.randn(want.shape).to(dtype)
    grads = torch.autograd.grad(out, list(x.values()), weight.to(device))
    wants = torch.autograd.grad(want, list(wide.values()), weight.double())
    for name, grad, wanted in zip(x, grads, wants, strict=True):
        if seqlen > 1 or wanted.abs().max() > 1e-9:
            assert worst(grad, wanted) < BACKWARD, name


@pytest.mark.parametrize("lengths", [(33, 1, 66), (64, 64), (7, 90), (0, 17, 0, 25, 0)])
def test_packed_siso(device, lengths):
    x = {name: t.to(device) for name, t in siso_inputs(batch=1, seqlen=sum(lengths)).items()}
    ends = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)
    with torch.no_grad():
        out, *states = call(x, 64, ends)
        begin = 0
        for number, length in enumerate(lengths):
            if length == 0:
                assert not any(state[number].any() for state in states)
                continue
            part = {
                name: t if t.dim() < 3 or "bias" in name
                else t[:, :, begin : begin + length] if name in ("adt", "dt", "trap")
                else t[:, begin : begin + length]
                for name, t in x.items()
            }  # fmt: skip
            alone, *last = call(part, 64)
            assert worst(out[:, begin : begin + length], alone) < FORWARD
            for state, one in zip(states[1:], last[1:], strict=True):  # the first are angles, modulo 2 pi
                assert worst(state[number], one[0]) < FORWARD
            begin += length


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"is_outproj_norm": True}, {"is_mimo": True, "mimo_rank": 4}], ids=str
)
def test_the_module(device, dtype, options):
    """Against the same module in float64 on the CPU, which tests/numeric compares with the recurrence."""
    chunk = 16 if "is_mimo" in options else 64
    module = Mamba3(128, d_state=64, headdim=64, chunk_size=chunk, layer_idx=0, **options).to(dtype)
    wide = copy.deepcopy(module).double()
    there = copy.deepcopy(module).to(device)
    hidden = torch.randn(2, 96, 128).to(dtype)
    want = wide(hidden.double())
    out = there(hidden.to(device))
    assert worst(out, want) < 2 * FORWARD
    weight = torch.randn(want.shape)
    grads = torch.autograd.grad(out, list(there.parameters()), weight.to(device, dtype))
    wants = torch.autograd.grad(want, list(wide.parameters()), weight.to(dtype).double())
    for (name, _), grad, wanted in zip(module.named_parameters(), grads, wants, strict=True):
        assert worst(grad, wanted) < 2 * BACKWARD, name
        apart = grad.cpu().double() - wanted
        assert float(apart.norm() / wanted.norm().clamp_min(1e-9)) < BACKWARD, name


@pytest.mark.parametrize("options", [{}, {"is_mimo": True, "mimo_rank": 4}], ids=str)
def test_steps_follow_the_forward_pass(device, options):
    module = Mamba3(128, d_state=64, headdim=64, chunk_size=16, layer_idx=0, **options).to(device)
    hidden = torch.randn(2, 24, 128, device=device)
    with torch.no_grad():
        want = module(hidden)
        states = module.allocate_inference_cache(2, 24)
        for step in range(24):
            out, *states = module.step(hidden[:, step : step + 1], *states)
            assert worst(out, want[:, step : step + 1]) < FORWARD, step
