"""The modules, on every path through them, against float64 computed from their parameters alone."""

from __future__ import annotations

import math

import pytest
import reference
import torch
from mamba_ssm import Mamba, Mamba2
from mamba_ssm.modules.block import Block
from mamba_ssm.modules.mamba2_simple import Mamba2Simple
from mamba_ssm.modules.mha import MHA
from mamba_ssm.modules.mlp import GatedMLP
from mamba_ssm.ops.triton.layer_norm import RMSNorm
from mamba_ssm.utils.generation import InferenceParams
from reference import assert_close

pytestmark = pytest.mark.usefixtures("path")


def randomize(module):
    """Parameters that matter: defaults of 1 and 0 would hide a wrong use."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.endswith(("D", "D_b", "norm.weight", "bias")) or "norm" in name:
                p.add_(0.3 * torch.randn_like(p))
            elif "A_log" in name or "A_b_log" in name:
                p.add_(0.2 * torch.randn_like(p))
    return module


def compare(module, x, expected_from, loose=10.0):
    """The output, and the gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    out = module(x)
    wide = x.detach().double().requires_grad_()
    p = {name: value.requires_grad_() for name, value in reference.parameters(module).items()}
    expected = expected_from(wide, p)
    assert_close(out, expected, loose)
    with torch.no_grad():
        assert_close(module(x), expected, loose)
    names = list(p)
    own = dict(module.named_parameters())
    reference.compare_gradients(
        out, [x, *(own[n] for n in names)], expected, [wide, *(p[n] for n in names)], 4 * loose
    )


def decode(module, x, prompt, max_seqlen=64):
    """A prompt at once, then token by token with the cache."""
    params = InferenceParams(max_seqlen=max_seqlen, max_batch_size=x.shape[0])
    outs = []
    with torch.no_grad():
        if prompt:
            outs.append(module(x[:, :prompt], inference_params=params))
            params.seqlen_offset = prompt
        else:
            cache = module.allocate_inference_cache(x.shape[0], max_seqlen)
            params.key_value_memory_dict[module.layer_idx] = cache
            params.seqlen_offset = 1  # not 0, which would mean a prompt
        for t in range(prompt, x.shape[1]):
            outs.append(module(x[:, t : t + 1], inference_params=params))
            params.seqlen_offset += 1
    return torch.cat(outs, dim=1)


# Mamba


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_mamba(fast, bias):
    module = randomize(Mamba(16, d_state=8, bias=bias, conv_bias=bias, use_fast_path=fast))
    compare(module, torch.randn(2, 21, 16), reference.mamba)


@pytest.mark.parametrize("prompt", [0, 2, 9])
def test_mamba_decodes(prompt):
    module = randomize(Mamba(16, d_state=8, layer_idx=0))
    x = torch.randn(2, 14, 16)
    assert_close(decode(module, x, prompt), reference.mamba(x.double(), reference.parameters(module)), 10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("fast", [True, False])
def test_mamba_in_16_bits(dtype, fast):
    module = Mamba(16, use_fast_path=fast, layer_idx=0).to(dtype)
    x = torch.randn(2, 11, 16).to(dtype)
    expected = reference.mamba(x.double(), reference.parameters(module))
    assert_close(module(x), expected, 4)
    assert_close(decode(module, x, 5), expected, 8)


# Mamba2


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("ngroups", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rmsnorm": False},
        {"norm_before_gate": True},
        {"dt_limit": (0.01, 0.05)},
        {"D_has_hdim": True},
        {"d_ssm": 16},
        {"d_ssm": 16, "rmsnorm": False, "D_has_hdim": True},
        {"bias": True, "conv_bias": False},
    ],
    ids=str,
)
def test_mamba2(fused, ngroups, options):
    module = Mamba2(
        16,
        d_state=8,
        headdim=8,
        ngroups=ngroups,
        chunk_size=8,
        use_mem_eff_path=fused,
        layer_idx=0,
        **options,
    )
    randomize(module)
    ours = {k: v for k, v in options.items() if k in ("rmsnorm", "norm_before_gate", "dt_limit")}

    def expected(x, p):
        return reference.mamba2(x, p, 8, ngroups, **ours)

    x = torch.randn(2, 21, 16)
    compare(module, x, expected)
    assert_close(decode(module, x, 9), expected(x.double(), reference.parameters(module)), 20)


def test_mamba2_decodes_from_nothing():
    module = randomize(Mamba2(16, d_state=8, headdim=8, layer_idx=0))
    x = torch.randn(2, 7, 16)
    expected = reference.mamba2(x.double(), reference.parameters(module), 8)
    assert_close(decode(module, x, 0), expected, 20)


@pytest.mark.parametrize("fused", [True, False])
def test_mamba2_with_packed_sequences(fused):
    module = randomize(Mamba2(16, d_state=8, headdim=8, chunk_size=8, use_mem_eff_path=fused))
    x, seq_idx = torch.randn(1, 20, 16), torch.tensor([[0] * 4 + [1] * 11 + [2] * 5], dtype=torch.int32)
    out = module(x, seq_idx=seq_idx)
    expected = reference.mamba2(x.double(), reference.parameters(module), 8, seq_idx=seq_idx)
    assert_close(out, expected, 10)


def test_mamba2_flat_input():
    """seqlen given: batch and sequence in one dimension, as sequence parallelism has it."""
    module = Mamba2(16, d_state=8, headdim=8)
    x = torch.randn(3, 5, 16)
    for fused in (True, False):
        module.use_mem_eff_path = fused
        assert torch.equal(module(x.flatten(0, 1), seqlen=5), module(x).flatten(0, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("fused", [True, False])
def test_mamba2_in_16_bits(dtype, fused):
    module = Mamba2(16, d_state=8, headdim=8, use_mem_eff_path=fused, layer_idx=0, dtype=dtype)
    x = torch.randn(2, 11, 16).to(dtype)
    expected = reference.mamba2(x.double(), reference.parameters(module), 8)
    assert_close(module(x), expected, 8)
    assert_close(decode(module, x, 5), expected, 8)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("ngroups", [1, 2])
@pytest.mark.parametrize("learnable", [True, False])
def test_mamba2_simple(fused, ngroups, learnable):
    module = Mamba2Simple(16, d_state=8, headdim=8, ngroups=ngroups, chunk_size=8, use_mem_eff_path=fused,
                          learnable_init_states=learnable)  # fmt: skip
    randomize(module)
    if learnable:
        torch.nn.init.normal_(module.init_states)

    def expected(x, p):
        initial = p["init_states"].expand(2, -1, -1, -1) if learnable else None
        return reference.mamba2(x, p, 8, ngroups, initial_states=initial)

    compare(module, torch.randn(2, 21, 16), expected)


@pytest.mark.parametrize("fused", [True, False])
def test_mamba2_simple_with_packed_sequences(fused):
    module = randomize(Mamba2Simple(16, d_state=8, headdim=8, use_mem_eff_path=fused))
    x, seq_idx = torch.randn(1, 20, 16), torch.tensor([[0] * 4 + [1] * 11 + [2] * 5], dtype=torch.int32)
    expected = reference.mamba2(x.double(), reference.parameters(module), 8, seq_idx=seq_idx)
    assert_close(module(x, seq_idx=seq_idx), expected, 10)


# Attention


ATTENTION = [
    {"num_heads": 4, "causal": True},
    {"num_heads": 4, "causal": False},
    {"num_heads": 4, "num_heads_kv": 2, "causal": True},
    {"num_heads": 4, "causal": True, "d_conv": 4},
    {"num_heads": 2, "causal": True, "rotary_emb_dim": 16},
    {"num_heads": 2, "causal": True, "rotary_emb_dim": 10, "rotary_emb_interleaved": True},
    {"num_heads": 2, "num_heads_kv": 1, "causal": True, "d_conv": 4, "rotary_emb_dim": 16, "head_dim": 24},
    {"num_heads": 4, "causal": True, "softmax_scale": 0.1, "mlp_dim": 256},
]


def attention_reference(options):
    names = {"num_heads": "num_heads", "num_heads_kv": "num_heads_kv", "causal": "causal",
             "rotary_emb_dim": "rotary_dim", "rotary_emb_interleaved": "interleaved",
             "softmax_scale": "scale", "mlp_dim": "mlp_dim"}  # fmt: skip
    kwargs = {names[k]: v for k, v in options.items() if k in names}
    return lambda x, p: reference.attention(x, p, **kwargs)


@pytest.mark.parametrize("options", ATTENTION, ids=str)
def test_attention(options):
    compare(MHA(32, layer_idx=0, **options), torch.randn(2, 11, 32), attention_reference(options), 20)


@pytest.mark.parametrize("options", [o for o in ATTENTION if o["causal"]], ids=str)
@pytest.mark.parametrize("prompt", [1, 2, 6])
def test_attention_decodes(options, prompt):
    module = MHA(32, layer_idx=0, **options)
    x = torch.randn(2, 11, 32)
    expected = attention_reference(options)(x.double(), reference.parameters(module))
    assert_close(decode(module, x, prompt), expected, 20)


def test_rotary_has_no_state():
    module = MHA(32, 2, rotary_emb_dim=16)
    assert not [name for name in module.state_dict() if "rotary" in name]


# Around them


def test_gated_mlp():
    def expected(x, p):
        y, gate = reference.linear(x, p, "fc1").chunk(2, dim=-1)
        return reference.linear(y * reference.silu(gate), p, "fc2")

    compare(GatedMLP(16, 24, bias=True, multiple_of=8), torch.randn(2, 5, 16), expected)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("rms", [True, False])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("in_fp32", [True, False])
def test_block(fused, rms, residual, in_fp32):
    """fused_add_norm is no more than a faster way to the same numbers."""

    def norm_cls(dim):
        return (RMSNorm if rms else torch.nn.LayerNorm)(dim, eps=1e-5)

    block = Block(
        16, lambda dim: Mamba(dim, d_state=4), lambda dim: GatedMLP(dim, 24), norm_cls, fused, in_fp32
    )
    randomize(block)
    x, r = torch.randn(2, 7, 16), torch.randn(2, 7, 16) if residual else None
    hidden, total = block(x, r)
    p = reference.parameters(block)
    wide = x.double() + (0.0 if r is None else r.double())
    y = reference.norm(wide, p["norm.weight"], p.get("norm.bias"), 1e-5, rms)
    wide = reference.mamba(y, reference.inside(p, "mixer.")) + wide
    y = reference.norm(wide, p["norm2.weight"], p.get("norm2.bias"), 1e-5, rms)
    y, gate = reference.linear(y, p, "mlp.fc1").chunk(2, dim=-1)
    assert_close(hidden, reference.linear(y * reference.silu(gate), p, "mlp.fc2"), 10)
    assert_close(total, wide, 10)


@pytest.mark.parametrize("make", [Mamba, Mamba2, Mamba2Simple], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("fused", [True, False])
def test_autocast(make, fused):
    """Linear layers in bfloat16, the recurrence in float32, gradients for float32 parameters."""
    module = make(
        32,
        d_state=8,
        **({"use_fast_path": fused} if make is Mamba else {"headdim": 16, "use_mem_eff_path": fused}),
    )
    x = torch.randn(2, 15, 32)
    p = reference.parameters(module)
    expected = reference.mamba(x.double(), p) if make is Mamba else reference.mamba2(x.double(), p, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            assert_close(module(x), expected, 4)
        out = module(x)
    assert out.dtype == torch.bfloat16
    assert_close(out, expected, 4)
    out.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in module.parameters())


def test_initialization_is_upstreams():
    module = Mamba(16, d_state=8)
    assert module.dt_rank == 1
    assert torch.equal(module.A_log, torch.log(torch.arange(1.0, 9.0)).expand(32, 8))
    step = reference.softplus(module.dt_proj.bias.double())
    assert (step > 0.0009).all()
    assert (step < 0.11).all()
    assert math.isclose(module.D.sum().item(), 32)
