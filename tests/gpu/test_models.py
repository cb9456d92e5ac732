"""Whole models on the GPU: language models with and without a CUDA graph, training, moves between devices."""

from __future__ import annotations

import copy

import pytest
import reference
import torch
from mamba_ssm import Mamba, Mamba2, MambaLMHeadModel
from mamba_ssm.models.config_mamba import MambaConfig
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined
from mamba_ssm.utils.quantize import quantize

try:
    from mamba_ssm import Mamba3
except ImportError:  # the default release line
    Mamba3 = None

MAMBA2 = {"layer": "Mamba2", "d_state": 16, "headdim": 16, "chunk_size": 16}
CONFIGS = {
    "mamba": {},
    "mamba, unfused": {"fused_add_norm": False, "residual_in_fp32": False},
    "mamba2": {"ssm_cfg": MAMBA2},
    "mamba2 with mlp": {"ssm_cfg": MAMBA2, "d_intermediate": 64},
}
if Mamba3 is not None:
    CONFIGS["mamba3"] = {"ssm_cfg": {"layer": "Mamba3", "d_state": 16, "headdim": 16, "chunk_size": 16}}
PROMPT, LENGTH = 7, 17


def language(name, dtype=None):
    config = MambaConfig(d_model=64, n_layer=2, vocab_size=50, **CONFIGS[name])
    return reference.vary(MambaLMHeadModel(config, dtype=dtype))


def worst(out, want):
    got, want = out.detach().cpu().double(), want.detach().cpu().double()
    assert got.shape == want.shape
    assert got.isfinite().all()
    return float((got - want).abs().max() / want.abs().max())


@torch.no_grad()
def wanted_logits(model, ids):
    """The logits of float64 weights: by the references, and for Mamba-3 by the package on the CPU."""
    if Mamba3 is not None and model.config.ssm_cfg.get("layer") == "Mamba3":
        return model(ids).logits.double()

    def mixer(x, p, layer):
        if model.config.ssm_cfg.get("layer") == "Mamba2":
            return reference.mamba2(x, p, MAMBA2["headdim"])
        return reference.mamba(x, p)

    return reference.lm_logits(ids, model, mixer)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("graph", [False, True])
def test_generation(device, name, graph):
    """Each token's scores, from the cache, against the logits of the whole sequence in float64."""
    model = language(name)
    there = copy.deepcopy(model).to(device)
    for batch in (1, 3):  # the second captures its graph anew
        ids = torch.randint(50, (batch, PROMPT))
        out = there.generate(
            ids.to(device), max_length=LENGTH, cg=graph, return_dict_in_generate=True, output_scores=True
        )
        tokens = out.sequences.clone()  # generate makes them in inference mode
        want = wanted_logits(model, tokens.cpu())
        assert len(out.scores) == LENGTH - PROMPT
        for step, score in enumerate(out.scores):
            assert worst(score, want[:, PROMPT - 1 + step]) < 5e-3, (batch, step)  # triton multiplies as TF32
        with torch.no_grad():
            assert worst(there(tokens).logits, want) < 5e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_generation_in_bfloat16(device, name):
    """With and without a CUDA graph the same, and near the scores of the same weights in float32."""
    model = language(name, torch.bfloat16).to(device)
    ids = torch.randint(50, (2, PROMPT), device=device)
    plain, graph = (
        model.generate(ids, max_length=LENGTH, cg=cg, return_dict_in_generate=True, output_scores=True,
                       teacher_outputs=torch.randint(50, (2, LENGTH), device=device,
                                                     generator=torch.Generator(device).manual_seed(1)))
        for cg in (False, True)
    )  # fmt: skip
    wide = language(name).cpu()
    wide.load_state_dict({key: value.float().cpu() for key, value in model.state_dict().items()})
    want = wanted_logits(wide, plain.sequences.clone().cpu())
    for step, (one, other) in enumerate(zip(plain.scores, graph.scores, strict=True)):
        assert worst(one, other) < 1e-2
        assert worst(one, want[:, PROMPT - 1 + step]) < 6e-2


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_moves_between_the_devices(device, name):
    """Decoding on the CPU prepares a plan in C; the plan must not outlive a move, in either direction."""
    model = language(name)
    ids, teacher = torch.randint(50, (1, PROMPT)), torch.randint(50, (1, LENGTH))

    def scores(where):
        out = model.to(where).generate(
            ids.to(where), max_length=LENGTH, teacher_outputs=teacher.to(where), return_dict_in_generate=True,
            output_scores=True,
        )  # fmt: skip
        return torch.stack(out.scores).cpu()

    first = scores("cpu")
    assert worst(scores(device), first) < 5e-3
    assert torch.equal(scores("cpu"), first)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_step_of_training_under_autocast(device, name, dtype):
    model = language(name).train()
    there = copy.deepcopy(model).to(device)
    ids = torch.randint(50, (2, 40))
    with torch.autocast(torch.device(device).type, dtype):
        logits = there(ids.to(device)).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids.to(device).flatten())
    scale = 4096.0  # as GradScaler does: small gradients would vanish in float16
    (scale * loss).backward()
    exact = copy.deepcopy(model)
    want = exact(ids).logits
    torch.nn.functional.cross_entropy(want.flatten(0, 1), ids.flatten()).backward()
    assert worst(logits, want) < 6e-2
    for (key, parameter), other in zip(there.named_parameters(), exact.parameters(), strict=True):
        assert parameter.grad is not None, key
        error = (parameter.grad.cpu() / scale - other.grad).norm() / other.grad.norm().clamp_min(1e-6)
        assert float(error) < 0.15, key


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_weights_on_the_gpu_compute_or_say_why_not(device, bits):
    """Weights in 8 and 4 bits are for CPUs; on a GPU they are computed in PyTorch."""
    model = quantize(language("mamba"), bits)
    ids = torch.randint(50, (1, PROMPT))
    with torch.no_grad():
        want = model(ids).logits
        assert worst(model.to(device)(ids.to(device)).logits, want) < 2e-2


@pytest.mark.parametrize("dim", [768, 2048])
@pytest.mark.parametrize("length", [1, 2049])
def test_mamba_of_real_width(device, dim, length):
    if device == "cpu" and (length > 1 or dim > 1000):
        pytest.skip("a float64 model of this size takes long on a CPU")
    module = Mamba(dim, layer_idx=0)
    hidden = torch.randn(1, length, dim)
    with torch.no_grad():
        want = copy.deepcopy(module).double()(hidden.double())
        out = module.to(device)(hidden.to(device))
    assert worst(out, want) < 1e-4


def packed(lengths):
    seq_idx = torch.cat([torch.full((length,), i) for i, length in enumerate(lengths)])
    return seq_idx.to(torch.int32)[None], torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


@pytest.mark.parametrize("lengths", [(33, 1, 66), (100,), (16, 16, 16, 52)])
def test_packed_sequences(device, lengths):
    """Mamba-2's scan, forward and backward, and its fused form, forward, keep packed sequences apart."""
    seq_idx, _ = packed(lengths)
    total, heads, headdim, dstate = sum(lengths), 4, 16, 16
    x, dt = torch.randn(1, total, heads, headdim), torch.randn(1, total, heads)
    A, D, bias = -torch.rand(heads) - 0.1, torch.randn(heads), torch.randn(heads)
    B, C = (torch.randn(1, total, 1, dstate) for _ in range(2))
    tensors = [t.to(device).requires_grad_() for t in (x, dt, A, B, C, D, bias)]
    x_, dt_, A_, B_, C_, D_, bias_ = wide = [
        t.detach().cpu().double().requires_grad_() for t in (x, dt, A, B, C, D, bias)
    ]
    out = mamba_chunk_scan_combined(
        *tensors[:5], 32, D=tensors[5], dt_bias=tensors[6], dt_softplus=True, seq_idx=seq_idx.to(device)
    )
    want, _ = reference.ssd(x_, dt_, A_, B_, C_, D_, dt_bias=bias_, dt_softplus=True, seq_idx=seq_idx)
    assert worst(out, want) < 5e-3
    weight = torch.randn(out.shape)
    for grad, wanted in zip(
        torch.autograd.grad(out, tensors, weight.to(device)),
        torch.autograd.grad(want, wide, weight.double()),
        strict=True,
    ):
        assert worst(grad, wanted) < 2e-2

    zxbcdt = torch.randn(1, total, 2 * heads * headdim + 2 * dstate + heads)
    conv = torch.randn(heads * headdim + 2 * dstate, 4), torch.randn(heads * headdim + 2 * dstate)
    whole = mamba_split_conv1d_scan_combined(
        zxbcdt.to(device), *(t.to(device) for t in (*conv, bias, A)), D=D.to(device), chunk_size=32,
        seq_idx=seq_idx.to(device), activation="silu", headdim=headdim, ngroups=1, norm_before_gate=False,
    )  # fmt: skip
    begin = 0
    for length in lengths:
        alone = mamba_split_conv1d_scan_combined(
            zxbcdt[:, begin : begin + length].to(device), *(t.to(device) for t in (*conv, bias, A)),
            D=D.to(device), chunk_size=32, activation="silu", headdim=headdim, ngroups=1,
            norm_before_gate=False,
        )  # fmt: skip
        assert worst(whole[:, begin : begin + length], alone) < 1e-2
        begin += length


def test_another_stream(device):
    """The kernels run on the current stream, forward and backward."""
    if device == "cpu":
        pytest.skip("streams are the GPU's")
    module = Mamba2(64, d_state=16, headdim=16, chunk_size=16, layer_idx=0).to(device)
    mixer = Mamba(64, layer_idx=0).to(device)
    hidden = torch.randn(2, 300, 64, device=device)
    torch.cuda.synchronize()
    for layer in (mixer, module):
        want = layer(hidden)
        wants = torch.autograd.grad(want.square().sum(), list(layer.parameters()))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)  # on a wrong stream, the kernels would overtake the input's copy
            late = hidden * 1.0
            out = layer(late)
            grads = torch.autograd.grad(out.square().sum(), list(layer.parameters()))
        stream.synchronize()
        assert worst(out, want) < 1e-4
        for grad, wanted in zip(grads, wants, strict=True):
            assert worst(grad, wanted) < 1e-3


@pytest.mark.parametrize("kind", ["none", "v2"])
def test_a_captured_layer_replays(device, kind):
    """A user's own CUDA graph of a layer: no call waits for the GPU, or allocates outside of the graph."""
    if device == "cpu":
        pytest.skip("graphs are the GPU's")
    layer = Mamba(64, layer_idx=0, bimamba_type=kind).to(device).eval()
    static = torch.randn(2, 40, 64, device=device)
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            layer(static)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = layer(static)
        fresh = torch.randn_like(static)
        static.copy_(fresh)
        graph.replay()
        assert worst(out, layer(fresh)) < 1e-5
