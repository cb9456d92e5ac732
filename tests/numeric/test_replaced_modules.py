"""Layers that are more than their weights: one row is the first of two, and steps are what the whole is."""

from __future__ import annotations

import copy

import pytest
import torch
from mamba_ssm import Mamba, Mamba2, MambaLMHeadModel
from mamba_ssm.models.config_mamba import MambaConfig
from mamba_ssm.modules.mamba2_simple import Mamba2Simple
from mamba_ssm.modules.mha import MHA
from mamba_ssm.modules.mlp import GatedMLP
from mamba_ssm.utils.generation import InferenceParams
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

pytestmark = [
    pytest.mark.usefixtures("path"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

MIXERS = {
    "mamba": lambda: Mamba(16, d_state=4, layer_idx=0, bias=True),
    "mamba2": lambda: Mamba2(16, d_state=8, headdim=8, chunk_size=4, layer_idx=0),
    "mha": lambda: MHA(16, 2, causal=True, layer_idx=0, d_conv=4, rotary_emb_dim=4),
}
WHOLE = {
    **MIXERS,
    "mamba, slow path": lambda: Mamba(16, d_state=4, use_fast_path=False),
    "vim v1": lambda: Mamba(16, d_state=4, bimamba_type="v1"),
    "vim v2": lambda: Mamba(16, d_state=4, bimamba_type="v2", if_divide_out=True, init_layer_scale=0.5),
    "segmamba v3": lambda: Mamba(16, d_state=4, bimamba_type="v3", nslices=3),
    "mamba2, slow path": lambda: Mamba2(16, d_state=8, headdim=8, use_mem_eff_path=False),
    "mamba2 simple": lambda: Mamba2Simple(16, d_state=8, headdim=8),
    "mlp": lambda: GatedMLP(16, 16),
}


def layers(module):
    """The layers that a shortcut might read, by name."""
    return {name: m for name, m in module.named_modules() if isinstance(m, (nn.Linear, nn.Conv1d))}


class Doubled(torch.Tensor):
    """A weight that is twice what its memory holds, as a quantised one is not what its memory holds."""

    @staticmethod
    def __new__(cls, tensor):
        return torch.Tensor._make_subclass(cls, tensor.detach())

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (nn.functional.linear, nn.functional.conv1d, torch.conv1d):
            with torch._C.DisableTorchFunctionSubclass():
                args = [2 * a.as_subclass(torch.Tensor) if isinstance(a, cls) else a for a in args]
                return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs or {})


def replace_forward(layer):
    forward = layer.forward
    layer.forward = lambda x: 2 * forward(x)


def replace_class_forward(layer):
    class Twice(type(layer)):
        def forward(self, x):
            return 2 * super().forward(x)

    layer.__class__ = Twice


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


def parametrise(layer):
    nn.utils.parametrize.register_parametrization(layer, "weight", Twice())


def subclass_weight(layer):
    layer.weight = nn.Parameter(Doubled(layer.weight), requires_grad=False)


def old_weight_norm(layer):
    weight_norm(layer)
    layer.weight_g.data.mul_(2)  # the weight is made of it at the next call alone


def pruned(layer):
    prune.custom_from_mask(layer, "weight", torch.ones_like(layer.weight))
    layer.weight_orig.data.mul_(2)


def new_weight_norm(layer):
    parametrizations.weight_norm(layer)
    layer.parametrizations.weight.original0.data.mul_(2)


# Each makes a layer give twice what its weight gives; so does its weight doubled, where there is no bias.
CHANGES = {
    "forward": replace_forward,
    "class": replace_class_forward,
    "hook": lambda layer: layer.register_forward_hook(lambda m, args, out: 2 * out),
    "pre-hook": lambda layer: layer.register_forward_pre_hook(lambda m, args: (2 * args[0],)),
    "parametrisation": parametrise,
    "weight norm": new_weight_norm,
    "old weight norm": old_weight_norm,
    "pruning": pruned,
    "subclass": subclass_weight,
}


def batches(module, x):
    """Outputs over two sequences: as a whole, by a prompt and steps for both, and for the first alone."""
    outs = [module(x)]
    if getattr(module, "layer_idx", None) is None:
        return outs
    for rows in (2, 1):
        state = InferenceParams(max_seqlen=x.shape[1], max_batch_size=rows)
        out = [module(x[:rows, :3], inference_params=state)]
        for t in range(3, x.shape[1]):
            state.seqlen_offset = t
            out.append(module(x[:rows, t : t + 1], inference_params=state))
        outs.append(torch.cat(out, 1))
    return outs


def agree(outs, expected):
    for out in outs:
        torch.testing.assert_close(out, expected[: len(out)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", WHOLE)
def test_a_changed_layer_counts_on_every_path(kind, change):
    x = torch.randn(2, 6, 16)
    for name in layers(WHOLE[kind]()):
        torch.manual_seed(1)
        module = WHOLE[kind]().eval()
        for layer in layers(module).values():
            layer.weight.data.mul_(2)  # so that each layer shows in the result
        if layers(module)[name].bias is not None:
            nn.init.zeros_(layers(module)[name].bias)
        plain = copy.deepcopy(module)
        before = plain(x)
        layers(plain)[name].weight.data.mul_(2)
        expected = plain(x)
        assert not torch.allclose(before, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item()), name
        CHANGES[change](layers(module)[name])
        with torch.no_grad():
            agree(batches(module, x), expected)


@pytest.mark.parametrize("kind", MIXERS)
def test_global_hooks_are_called(kind):
    module, x = MIXERS[kind]().eval(), torch.randn(2, 6, 16)
    seen = []
    with torch.no_grad():
        expected = batches(module, x)
        handle = nn.modules.module.register_module_forward_hook(lambda m, args, out: seen.append(m))
        try:
            found = batches(module, x)
        finally:
            handle.remove()
    agree(found, expected[0])
    assert all(layer in seen for layer in layers(module).values())
    for layer in layers(module).values():
        assert seen.count(layer) == 1 + 2 * 4, "once for the whole, and for each prompt and step"


@pytest.mark.parametrize("kind", MIXERS)
def test_a_forward_replaced_for_all_linear_layers(kind, monkeypatch):
    module, x = MIXERS[kind]().eval(), torch.randn(2, 6, 16)
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: 2 * forward(self, x))
    with torch.no_grad():
        whole, *steps = batches(module, x)
        agree(steps, whole)
        monkeypatch.undo()
        assert not torch.allclose(module(x), whole, atol=1e-3)


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_autocast(kind):
    """A step of batch 1 is rounded as one of batch 2 is."""
    module, x = MIXERS[kind]().eval(), torch.randn(2, 6, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        whole, both, first = batches(module, x)
    assert first.dtype == both.dtype == whole.dtype
    torch.testing.assert_close(first, both[:1], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_mixed_dtypes_are_refused_for_one_row_as_for_two(kind):
    module = MIXERS[kind]().eval().bfloat16()
    for rows in (1, 2):
        states = module.allocate_inference_cache(rows, 1)
        with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
            module.step(torch.randn(rows, 1, 16), *states)


def language_model(layer, **options):
    torch.manual_seed(0)
    ssm = {"layer": layer, "d_state": 8, **({"headdim": 8} if layer == "Mamba2" else {})}
    config = MambaConfig(d_model=32, n_layer=2, vocab_size=40, ssm_cfg=ssm, rms_norm=True, **options)
    return MambaLMHeadModel(config).eval()


LANGUAGE = {
    "Mamba-1": lambda: language_model("Mamba1"),
    "Mamba-2": lambda: language_model("Mamba2"),
    "hybrid": lambda: language_model(
        "Mamba2",
        attn_layer_idx=[1],
        attn_cfg={"num_heads": 2, "causal": True, "d_conv": 4},
        d_intermediate=16,
    ),
}


def decoded(model, rows, same=False):
    """Logits, (rows, tokens, vocabulary), of a prompt and each token after it; and of the whole at once."""
    tokens = torch.arange(2 * 8).reshape(2, 8)[:rows] % (8 if same else 40)
    state = InferenceParams(max_seqlen=8, max_batch_size=rows)
    out = [model(tokens[:, :4], inference_params=state).logits]
    for t in range(4, 8):
        state.seqlen_offset = t
        position = torch.full((rows, 1), t)
        out.append(model(tokens[:, t : t + 1], position, inference_params=state).logits)
    return torch.cat(out, 1), model(tokens).logits


def check_language_model(model, plain, apart=1e-3):
    """One row is the first of two, steps are the whole, and both differ from the plain model's."""
    with torch.no_grad():
        (both, whole), (first, _) = decoded(model, 2), decoded(model, 1)
        torch.testing.assert_close(both, whole, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(first, whole[:1], rtol=2e-3, atol=2e-3)
        assert (decoded(plain, 2)[1] - whole).abs().max() > apart
        prompt = torch.arange(4)[None]
        found = model.generate(prompt, max_length=8)
        following = prompt
        for _ in range(4):
            following = torch.cat([following, model(following).logits[:, -1:].argmax(-1)], 1)
        assert torch.equal(found, following)


@pytest.mark.parametrize("kind", LANGUAGE)
def test_lora_of_peft(kind):
    peft = pytest.importorskip("peft")
    plain = LANGUAGE[kind]()
    model = copy.deepcopy(plain)
    targets = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    config = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    peft.inject_adapter_in_model(config, model)
    assert sum("lora_A" in n for n, _ in model.named_modules()) > 0
    check_language_model(model, plain)


@pytest.mark.parametrize("kind", LANGUAGE)
def test_int8_weights_of_torchao(kind):
    quantization = pytest.importorskip("torchao.quantization")
    plain = LANGUAGE[kind]()
    model = copy.deepcopy(plain)
    quantization.quantize_(model.backbone, quantization.Int8WeightOnlyConfig())
    kinds = {type(m.weight) for m in model.backbone.modules() if isinstance(m, nn.Linear)}
    assert kinds.isdisjoint({torch.Tensor, nn.Parameter})
    check_language_model(model, plain, apart=1e-5)


def replace_linear(module, make):
    """Replaces each plain linear layer by ``make(layer)``."""
    for name, layer in list(module.named_children()):
        if type(layer) is nn.Linear:
            setattr(module, name, make(layer))
        else:
            replace_linear(layer, make)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", LANGUAGE)
def test_weights_of_bitsandbytes(kind, bits):
    bnb = pytest.importorskip("bitsandbytes")

    def quantised(layer):
        size = (layer.in_features, layer.out_features, layer.bias is not None)
        if bits == 8:
            new = bnb.nn.Linear8bitLt(*size, has_fp16_weights=False)
            new.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
        else:
            new = bnb.nn.Linear4bit(*size, compute_dtype=torch.float32, quant_type="nf4")
            new.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        if layer.bias is not None:
            new.bias = nn.Parameter(layer.bias.data)
        return new.to("cpu")

    plain = LANGUAGE[kind]()
    model = copy.deepcopy(plain)
    replace_linear(model.backbone, quantised)
    assert not any(type(m) is nn.Linear for m in model.backbone.modules())
    check_language_model(model, plain, apart=1e-5)


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr"])
@pytest.mark.parametrize("kind", LANGUAGE)
def test_adapters_of_lycoris(kind, algorithm):
    lycoris = pytest.importorskip("lycoris")
    plain = LANGUAGE[kind]()
    model = copy.deepcopy(plain)
    lycoris.LycorisNetwork.apply_preset({"target_module": ["Mamba", "Mamba2", "MHA", "GatedMLP"]})
    network = lycoris.create_lycoris(model, 1.0, linear_dim=4, linear_alpha=2.0, algo=algorithm)
    network.apply_to()
    assert len(network.loras) >= 4
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0, 0.2)
    check_language_model(model, plain)


@pytest.fixture
def one_rank(tmp_path):
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    distributed.init_process_group("gloo", init_method=(tmp_path / "ranks").as_uri(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("kind", LANGUAGE)
def test_sharded_weights_of_fsdp(kind, one_rank):
    """Between two calls a weight of FSDP is a DTensor: a shortcut must not read its memory."""
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this torch has no fully_shard")
    model = LANGUAGE[kind]()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    plain = copy.deepcopy(model)
    with torch.no_grad():
        plain.backbone.embedding.weight.mul_(2)  # shows that the comparison below sees a change
    expected = copy.deepcopy(model)
    for block in model.backbone.layers:
        fsdp.fully_shard(block)
    fsdp.fully_shard(model)
    assert any(hasattr(p, "full_tensor") for p in model.parameters())
    check_language_model(model, plain)
    with torch.no_grad():
        torch.testing.assert_close(decoded(model, 1)[0], decoded(expected, 1)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", LANGUAGE)
def test_dynamic_quantisation_of_torch(kind):
    plain = LANGUAGE[kind]()
    model = torch.ao.quantization.quantize_dynamic(copy.deepcopy(plain), {nn.Linear}, dtype=torch.qint8)
    assert not any(type(m) is nn.Linear for m in model.modules())
    with torch.no_grad():
        # The inputs of a call share one scale: one row is rounded as two are only where these are the same.
        (both, whole), (first, _) = decoded(model, 2, same=True), decoded(model, 1, same=True)
    torch.testing.assert_close(first, both[:1], rtol=1e-4, atol=1e-5)
    assert (both - whole).abs().max() < 0.2 * whole.abs().max()
    assert model.generate(torch.arange(4)[None], max_length=8).shape == (1, 8)


def test_packed_sequences_with_a_convolution_that_is_called():
    seq_idx = torch.tensor([[0, 0, 0, 1, 1, 1]], dtype=torch.int32)
    x = torch.randn(1, 6, 16)
    module = MIXERS["mamba2"]().eval()
    expected = module(x, seq_idx=seq_idx)
    parametrise(module.conv1d)
    with torch.no_grad():
        module.conv1d.parametrizations.weight.original.div_(2)
    torch.testing.assert_close(module(x, seq_idx=seq_idx), expected, rtol=1e-4, atol=1e-5)
    module.conv1d.register_forward_hook(lambda m, args, out: out)
    with pytest.raises(NotImplementedError, match="seq_idx"):
        module(x, seq_idx=seq_idx)
