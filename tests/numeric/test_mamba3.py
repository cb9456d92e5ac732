"""Mamba-3: its functions, its module, and language models of it, against the recurrence in float64."""

from __future__ import annotations

import math
import types
from itertools import pairwise

import mamba3_reference as recurrence
import pytest
import reference
import torch

modules = pytest.importorskip("mamba_ssm.modules.mamba3", reason="this release has no Mamba-3")
from mamba_ssm import MambaLMHeadModel  # noqa: E402
from mamba_ssm.models.config_mamba import MambaConfig  # noqa: E402
from mamba_ssm.ops import mamba3 as functions  # noqa: E402
from mamba_ssm.ops.tilelang.mamba3.mamba3_mimo import mamba3_mimo  # noqa: E402
from mamba_ssm.ops.triton.mamba3.mamba3_siso_combined import mamba3_siso_combined  # noqa: E402
from mamba_ssm.ops.triton.mamba3.mamba3_siso_step import mamba3_siso_step  # noqa: E402
from mamba_ssm.utils.generation import InferenceParams  # noqa: E402


def inputs(rank=1, batch=2, seqlen=70, groups=2, heads=4, dstate=16, headdim=20, angles=4, mimo=False):
    """Arguments of the recurrence, in float32."""
    tensors = {
        "q": torch.randn(batch, seqlen, rank, groups, dstate),
        "k": torch.randn(batch, seqlen, rank, groups, dstate),
        "v": torch.randn(batch, seqlen, heads, headdim),
        "adt": -0.3 * torch.rand(batch, heads, seqlen),
        "dt": 0.3 * torch.rand(batch, heads, seqlen),
        "trap": torch.randn(batch, heads, seqlen),
        "q_bias": torch.randn(heads, rank, dstate),
        "k_bias": torch.randn(heads, rank, dstate),
        "angles": torch.randn(batch, seqlen, heads, angles),
        "D": torch.randn(heads),
        "z": torch.randn(batch, seqlen, heads, headdim),
    }
    if mimo:
        for name in ("mimo_v", "mimo_z", "mimo_out"):
            tensors[name] = torch.randn(heads, rank, headdim)
    return tensors


def first_states(x, sequences):
    heads, rank, dstate = x["q_bias"].shape
    return (
        6 * torch.rand(sequences, heads, x["angles"].shape[-1]),
        torch.randn(sequences, heads, x["v"].shape[-1], dstate),
        torch.randn(sequences, rank, heads, dstate),
        torch.randn(sequences, heads, x["v"].shape[-1]),
    )


def expected(x, states=None, pairwise=True):
    wide = {name: None if t is None else reference.double(t) for name, t in x.items()}
    states = None if states is None else reference.double(*states)
    out, last = recurrence.mamba3(**wide, states=states, pairwise=pairwise)
    return out, last, wide, states


def siso(x, states=None, cu_seqlens=None):
    """Calls mamba3_siso_combined, and returns the states in the recurrence's shapes."""
    given = None if states is None else (states[0], states[1], states[2].squeeze(1), states[3])
    out, angle, state, k, v = mamba3_siso_combined(
        x["q"].squeeze(2), x["k"].squeeze(2), x["v"], x["adt"], x["dt"], x["trap"], x["q_bias"].squeeze(1),
        x["k_bias"].squeeze(1), x["angles"], x["D"], x["z"], given, 32, True, cu_seqlens,
    )  # fmt: skip
    return out, (angle, state, k.unsqueeze(1), v)


def mimo(x, cu_seqlens=None, divisor=4):
    out, *states = mamba3_mimo(
        x["q"], x["k"], x["v"], x["adt"], x["dt"], x["trap"], x["q_bias"], x["k_bias"], x["mimo_v"],
        x["mimo_z"], x["mimo_out"], x["angles"], x["D"], x["z"], 16, divisor, x["v"].dtype, True, cu_seqlens,
    )  # fmt: skip
    return out, states


def assert_states(actual, wanted, loose=1.0):
    turn = 2 * math.pi
    apart = (actual[0].double() - wanted[0].detach() + math.pi) % turn - math.pi
    assert apart.abs().max() < 1e-5
    for a, w in zip(actual[1:], wanted[1:], strict=True):
        reference.assert_close(a, w, loose)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_states", [False, True])
def test_siso_forward(path, dtype, with_states):
    x = inputs()
    x.update({name: x[name].to(dtype) for name in ("q", "k", "v", "z", "trap")})
    states = first_states(x, 2) if with_states else None
    out, last = siso(x, states)
    wanted, wanted_last, _, _ = expected(x, states)
    assert out.dtype == dtype
    reference.assert_close(out, wanted)
    assert_states(last, wanted_last)


def test_siso_gradients(path):
    x = {name: t.requires_grad_() for name, t in inputs(seqlen=40).items()}
    states = [state.requires_grad_() for state in first_states(x, 2)]
    out, last = siso(x, states)
    wanted, wanted_last, wide, wide_states = expected(x, states)
    weights = [torch.randn(t.shape) for t in (out, *last)]
    sum((t * w).sum() for t, w in zip((out, *last), weights, strict=True)).backward()
    sum((t * w).sum() for t, w in zip((wanted, *wanted_last), weights, strict=True)).backward()
    for name, tensor in x.items():
        reference.assert_close(tensor.grad, wide[name].grad, 4)
    for state, wide_state in zip(states, wide_states, strict=True):
        reference.assert_close(state.grad, wide_state.grad, 4)


@pytest.mark.parametrize("reduced", [True, False])
@pytest.mark.parametrize(("rank", "angles", "divisor"), [(1, 4, 4), (2, 8, 2), (4, 4, 4), (8, 4, 4)])
def test_mimo_forward_and_gradients(path, rank, angles, divisor, reduced):
    x = inputs(rank, seqlen=21, angles=angles, mimo=True)
    if not reduced:
        x["mimo_out"] = None
    x = {name: None if t is None else t.requires_grad_() for name, t in x.items()}
    with torch.no_grad():
        forward, forward_states = mimo(x, divisor=divisor)
    out, states = mimo(x, divisor=divisor)
    wanted, wanted_last, wide, _ = expected(x, pairwise=False)
    assert out.shape == wanted.shape
    reference.assert_close(forward, wanted)
    reference.assert_close(out, wanted)
    assert_states(forward_states, wanted_last)
    assert_states(states, wanted_last)
    weight = torch.randn(out.shape)
    (out * weight).sum().backward()
    (wanted * weight).sum().backward()
    for name, tensor in x.items():
        if tensor is not None:
            reference.assert_close(tensor.grad, wide[name].grad, 4)


@pytest.mark.parametrize("rank", [1, 4])
def test_packed_sequences_are_computed_apart(path, rank):
    bounds = [0, 17, 17, 42, 50]
    x = inputs(rank, batch=1, seqlen=50, mimo=rank > 1)
    states = first_states(x, 4) if rank == 1 else None
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
    out, last = siso(x, states, cu_seqlens) if rank == 1 else mimo(x, cu_seqlens)
    for i, (start, end) in enumerate(pairwise(bounds)):
        if start == end:
            if rank == 1:
                assert torch.equal(last[1][i], states[1][i])
            continue
        part = {
            name: t[:, start:end] if name in ("q", "k", "v", "z", "angles") else
            t[..., start:end] if name in ("adt", "dt", "trap") else t
            for name, t in x.items()
        }  # fmt: skip
        of_part = None if states is None else [state[i : i + 1] for state in states]
        wanted, wanted_last, _, _ = expected(part, of_part, pairwise=rank == 1)
        reference.assert_close(out[:, start:end], wanted)
        assert_states([state[i : i + 1] for state in last], wanted_last)


def test_siso_step(path):
    x = inputs(seqlen=1)
    states = first_states(x, 2)
    given = (states[0], states[1], states[2].squeeze(1), states[3])
    out, last = mamba3_siso_step(
        x["q"][:, 0, 0], x["k"][:, 0, 0], x["v"][:, 0], x["adt"][..., 0], x["dt"][..., 0], x["trap"][..., 0],
        x["q_bias"].squeeze(1), x["k_bias"].squeeze(1), x["angles"][:, 0], x["D"], x["z"][:, 0], given,
    )  # fmt: skip
    wanted, wanted_last, _, _ = expected(x, states)
    reference.assert_close(out, wanted[:, 0])
    assert_states((last[0], last[1], last[2].unsqueeze(1), last[3]), wanted_last)


CONFIGURATIONS = [
    {},
    {"ngroups": 2, "rope_fraction": 1.0},
    {"is_outproj_norm": True, "expand": 1},
    {"is_mimo": True, "mimo_rank": 4, "chunk_size": 16},
    {"is_mimo": True, "mimo_rank": 2, "ngroups": 4, "rope_fraction": 1.0, "chunk_size": 8},
    {"is_mimo": True, "mimo_rank": 3, "is_outproj_norm": True, "ngroups": 2, "chunk_size": 8},
]


def mixer(dtype=torch.float32, **options):
    layer = modules.Mamba3(32, d_state=16, headdim=16, layer_idx=0, dtype=dtype, **options)
    for parameter in layer.parameters():  # away from the initial values, of which many are equal
        parameter.data += 0.1 * torch.randn_like(parameter)
    return layer


def of_mixer(layer, u):
    """The layer in float64, from its parameters and the recurrence."""
    p = {name: t.detach().double() for name, t in layer.named_parameters()}
    heads, rank, groups, width = layer.nheads, layer.mimo_rank, layer.num_bc_heads, layer.d_state
    sizes = [layer.d_inner] * 2 + [width * groups * rank] * 2 + [heads] * 3 + [layer.num_rope_angles]
    z, x, B, C, dt, A, trap, angles = (u.double() @ p["in_proj.weight"].T).split(sizes, -1)

    def normed(t, weight):
        return t / (t.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    B, C = (t.unflatten(-1, (rank, groups, width)) for t in (B, C))
    z, x = (t.unflatten(-1, (heads, layer.headdim)) for t in (z, x))
    dt = reference.softplus(dt + p["dt_bias"])
    adt = dt * (-reference.softplus(A)).clamp(max=-layer.A_floor)
    norm = layer.is_outproj_norm
    angles = angles.unsqueeze(2).expand(-1, -1, heads, -1)
    y, _ = recurrence.mamba3(
        normed(C, p["C_norm.weight"]), normed(B, p["B_norm.weight"]), x, adt.mT, dt.mT, trap.mT, p["C_bias"],
        p["B_bias"], angles, p["D"], None if norm else z, p.get("mimo_x"),
        None if norm else p.get("mimo_z"), None if norm else p.get("mimo_o"), pairwise=not layer.is_mimo,
    )  # fmt: skip
    if norm:
        gate = z.unsqueeze(2) * p["mimo_z"].transpose(0, 1) if layer.is_mimo else z
        y = normed(y, p["norm.weight"].unflatten(0, (heads, -1))) * reference.silu(gate)
        if layer.is_mimo:
            y = (y * p["mimo_o"].transpose(0, 1)).sum(2)
    return y.flatten(-2) @ p["out_proj.weight"].T


@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_module_with_cache_and_step(path, options):
    layer = mixer(**options)
    u = torch.randn(2, 23, 32)
    wanted = of_mixer(layer, u)
    out = layer(u)
    reference.assert_close(out, wanted, 8)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())

    cache = InferenceParams(max_seqlen=23, max_batch_size=2)
    with torch.no_grad():
        outs = [layer(u[:, :18], inference_params=cache)]
        for start, end in ((18, 19), (19, 20), (20, 23)):
            cache.seqlen_offset = start
            outs.append(layer(u[:, start:end], inference_params=cache))
        reference.assert_close(torch.cat(outs, 1), wanted, 8)

        states = layer.allocate_inference_cache(2, 23)
        for t in range(3):
            out, *new = layer.step(u[:, t], *states)
            assert out.shape == (2, 32)
            assert all(a is b for a, b in zip(new, states, strict=True))
            reference.assert_close(out, wanted[:, t], 8)
        for t in range(2):  # of a single row, which one kernel computes
            states = layer.allocate_inference_cache(1, 23) if t == 0 else states
            out, *_ = layer.step(u[:1, t], *states)
            reference.assert_close(out, wanted[:1, t], 8)


@pytest.mark.parametrize("is_mimo", [False, True])
def test_module_with_packed_sequences(path, is_mimo):
    layer = mixer(is_mimo=is_mimo, mimo_rank=2, chunk_size=16)
    u, lengths = torch.randn(1, 42, 32), [17, 25]
    cu_seqlens = torch.tensor([0, 17, 42], dtype=torch.int32)
    with torch.no_grad():
        out = layer(u, cu_seqlens=cu_seqlens)
        apart = [layer(part) for part in u.split(lengths, 1)]
        torch.testing.assert_close(out, torch.cat(apart, 1), rtol=1e-4, atol=1e-5)
        cache = InferenceParams(max_seqlen=42, max_batch_size=2)
        layer(u, cu_seqlens=cu_seqlens, inference_params=cache)
        for i, part in enumerate(u.split(lengths, 1)):
            one = InferenceParams(max_seqlen=42, max_batch_size=1)
            layer(part, inference_params=one)
            states = cache.key_value_memory_dict[0], one.key_value_memory_dict[0]
            for packed, single in zip(*states, strict=True):
                torch.testing.assert_close(packed[i : i + 1], single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_mimo", [False, True])
def test_language_model_generates(path, is_mimo):
    cfg = {"layer": "Mamba3", "d_state": 16, "headdim": 16, "is_mimo": is_mimo, "chunk_size": 16}
    model = MambaLMHeadModel(MambaConfig(d_model=32, n_layer=2, vocab_size=50, ssm_cfg=cfg)).eval()
    prompt = torch.randint(0, 48, (2, 7))
    with torch.no_grad():
        tokens = prompt
        for _ in range(6):
            tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], 1)
        generated = model.generate(prompt, max_length=13, top_k=1)
    assert torch.equal(generated, tokens)
    model(prompt).logits.float().sum().backward()


def test_bfloat16_and_autocast(path):
    layer = mixer(torch.bfloat16)
    u = torch.randn(2, 9, 32).bfloat16()
    assert layer(u).dtype == torch.bfloat16
    layer = mixer()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(u.float())
    torch.testing.assert_close(out.float(), layer(u.float()), rtol=0.1, atol=0.1)


def test_the_sizes_that_triton_takes(monkeypatch):
    """With others, triton refuses the kernel or the GPU stops: PyTorch computes them."""
    monkeypatch.setattr(functions.dispatch, "use_triton", lambda x: True)
    monkeypatch.setattr(functions, "tl", types.SimpleNamespace(make_tensor_descriptor=None))
    x = torch.zeros(1)
    assert functions.use_triton(x, 64, 128, 16)
    for sizes in ((20, 64, 64), (64, 24, 64), (64, 64, 48), (8, 64, 64)):
        assert not functions.use_triton(x, *sizes)


@pytest.mark.parametrize("given", [False, True])
def test_states_of_sequences_without_steps_are_kept(given):
    """The kernels for GPUs return memory of other sequences, or of nothing, for them."""
    ends = torch.tensor([0, 0, 5, 5, 9, 9])
    shapes = ((5, 4, 3), (5, 4, 8, 6), (5, 4, 6), (5, 4, 8))
    found = [torch.randn(shape, requires_grad=True) for shape in shapes]
    before = tuple(torch.randn(shape, requires_grad=True) for shape in shapes) if given else None
    scan = functions.keep_states_of_empty(lambda *arguments: (arguments, *found), ends, before)
    out, *states = scan(1, 2)
    assert out == (1, 2)
    for number, (state, own) in enumerate(zip(states, found, strict=True)):
        kept = before[number] if given else torch.zeros_like(own)
        for row, length in enumerate(ends.diff()):
            assert torch.equal(state[row], own[row] if length else kept[row])
        state.sum().backward()
        assert torch.equal(own.grad.flatten(1).any(1), ends.diff() > 0)
