"""Weights of 8 and 4 bits: what they change, and what saving, loading, hooks and conversions do to them."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mamba_ssm import Mamba, Mamba2, MambaLMHeadModel
from mamba_ssm.models.config_mamba import MambaConfig
from mamba_ssm.modules.quantized import QuantizedEmbedding, QuantizedLinear
from mamba_ssm.ops.fallback import quantized
from mamba_ssm.utils.generation import InferenceParams
from mamba_ssm.utils.quantize import KEPT, load_quantized, quantize, save_quantized, scheme_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

try:
    from mamba_ssm import Mamba3
except ImportError:  # the default release line
    Mamba3 = None

LAYERS = ["Mamba1", "Mamba2", *(["Mamba3"] if Mamba3 else [])]
BITS = [8, 4]
RANDOM = {8: 0.01, 4: 0.08}
"""The largest change of a logit of a Mamba-1 with random weights, relative to the largest logit."""


def language(layer="Mamba1", width=64, depth=2, vocabulary=100, seed=0, **more):
    torch.manual_seed(seed)
    extra = {} if layer == "Mamba1" else {"d_state": 16, "headdim": 16}
    config = MambaConfig(
        d_model=width, n_layer=depth, vocab_size=vocabulary, ssm_cfg={"layer": layer, **extra}, **more
    )
    return MambaLMHeadModel(config).eval().requires_grad_(False)


def tokens(length=20, vocabulary=100):
    return torch.arange(length)[None] * 37 % vocabulary


def change(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("bits", BITS)
@torch.no_grad()
def test_logits_of_a_model_of_24_layers(bits):
    """The shape of a Mamba-130M, with fewer tokens to know."""
    model = language(width=768, depth=24, vocabulary=1000)
    want = model(tokens(16, 1000)).logits
    quantize(model, bits)
    assert 0 < change(model(tokens(16, 1000)).logits, want) <= RANDOM[bits]


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_only_the_rounding_changes(layer, bits):
    """A float model with the rounded weights and rounded inputs computes the same."""
    model = language(layer)
    rounded = copy.deepcopy(model)
    quantize(model, bits)
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear | QuantizedEmbedding):
            other = rounded.get_submodule(name)
            other.weight = nn.Parameter(module.weight)
            if isinstance(other, nn.Linear):
                other.register_forward_pre_hook(lambda _, args: (quantized.round_inputs(args[0]),))
    a, b = model(tokens()).logits, rounded(tokens()).logits
    assert change(a, b) < (1e-2 if bits == 8 else 2e-2)  # an input at half a step may round either way
    assert (a - b).abs().median() <= 1e-4 * b.abs().max()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_steps_are_what_the_whole_is(layer, bits):
    model = quantize(language(layer), bits)
    ids, states = tokens(9), InferenceParams(max_seqlen=9, max_batch_size=1)
    want, found = model(ids).logits, []
    for i in range(9):
        found.append(model(ids[:, i : i + 1], inference_params=states).logits)
        states.seqlen_offset += 1
    error = (torch.cat(found, dim=1) - want).abs()
    assert error.max() <= 2e-2 * want.abs().max()
    assert error.median() <= 1e-4 * want.abs().max()


@pytest.mark.parametrize("bits", BITS)
@torch.no_grad()
def test_generate_and_from_pretrained(tmp_path, bits):
    model = quantize(language(), bits)
    save_quantized(model, tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as opened:
        assert opened.metadata()["quantization"] == scheme_of(model)
        assert not [name for name in opened.keys() if name.startswith("lm_head")]  # noqa: SIM118 - no mapping
    loaded = MambaLMHeadModel.from_pretrained(str(tmp_path / "saved"))
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)
    assert loaded.lm_head.packed.data_ptr() == loaded.backbone.embedding.packed.data_ptr()
    ids = tokens(5)
    out = model.generate(ids, max_length=12)
    assert torch.equal(out, loaded.generate(ids, max_length=12))
    for place in range(5, 12):  # each token is the most probable after those before it
        assert out[0, place] == model(out[:, :place]).logits[0, -1].argmax()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", ["v1", "v2", "v3"])
@torch.no_grad()
def test_vision(kind, bits):
    torch.manual_seed(0)
    mixer = Mamba(64, bimamba_type=kind, nslices=4, if_divide_out=True, init_layer_scale=0.5).requires_grad_(
        False
    )
    x = torch.randn(2, 12, 64)
    want = mixer(x)
    quantize(mixer, bits)
    assert isinstance(mixer.x_proj_b if kind != "v1" else mixer.x_proj, QuantizedLinear)
    out = mixer(x)
    assert change(out, want) <= (0.02 if bits == 8 else 0.25)
    assert torch.allclose(mixer(x[:1]), out[:1], atol=1e-5)


def test_what_stays():
    model = language()
    model.backbone.layers[0].mixer.in_proj.register_forward_hook(lambda *args: None)
    with pytest.warns(UserWarning, match="layers.0.mixer.in_proj"):
        quantize(model)
    linear = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    assert [name for name in linear if name.rpartition(".")[2] not in KEPT] == [
        "backbone.layers.0.mixer.in_proj"
    ]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@torch.no_grad()
def test_hooks_of_quantised_layers_run():
    model = quantize(language())
    states = InferenceParams(max_seqlen=9, max_batch_size=1)
    for name in ("in_proj", "x_proj", "out_proj"):
        before = model(tokens(8)).logits
        layer = getattr(model.backbone.layers[0].mixer, name)
        handle = layer.register_forward_hook(lambda module, args, out: out * 0.5)
        hooked = model(tokens(8)).logits
        assert change(hooked, before) > 1e-4
        states.reset(9, 1)
        states.key_value_memory_dict.clear()
        steps = []
        for i in range(8):
            steps.append(model(tokens(8)[:, i : i + 1], inference_params=states).logits)
            states.seqlen_offset += 1
        assert change(torch.cat(steps, dim=1), hooked) < 0.02
        handle.remove()


def test_a_gradient_is_refused():
    model = quantize(language())
    x = torch.randn(1, 3, 64, requires_grad=True)
    out = model.backbone.layers[0].mixer.in_proj(x)
    with pytest.raises(RuntimeError, match="has no gradient: train the model in float32"):
        out.sum().backward()


@torch.no_grad()
def test_copies_and_conversions():
    model = quantize(language())
    want = model(tokens()).logits
    copied = copy.deepcopy(model)
    assert torch.equal(copied(tokens()).logits, want)
    assert copied.lm_head.packed.data_ptr() == copied.backbone.embedding.packed.data_ptr()
    other = quantize(language(seed=1))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(tokens()).logits, want)
    half = copy.deepcopy(model).to(torch.bfloat16)
    for name, buffer in half.named_buffers():
        assert buffer.dtype == dict(model.named_buffers())[name].dtype, name
    out = half(tokens()).logits
    assert out.dtype == torch.bfloat16
    assert change(out.float(), want) < 0.1
    assert torch.equal(half.to(torch.float32).lm_head.weight, model.lm_head.weight)


@settings(deadline=None)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 100),
    bits=st.sampled_from(BITS),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e20]),
    zeros=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_packing(rows, columns, bits, scale, zeros, seed):
    """A weight changes by half a step at most; of 4 bits, by 1.4 of 8.4 steps at most."""
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=rng) * scale
    if zeros:
        weight[0] = 0
    packed, scales = quantized.pack(weight, bits)
    assert (tuple(packed.shape), tuple(scales.shape)) == quantized.shapes(rows, columns, bits)
    whole = quantized.unpack(packed, scales)
    error = (whole[:rows, :columns] - weight).abs()
    if bits == 8:
        assert (error <= 0.501 * scales[:rows, None]).all()
    else:
        assert (error <= 0.18 * weight.abs().amax(1, keepdim=True)).all()
    assert not whole[rows:].any()
    assert not whole[:, columns:].any()
    chosen = torch.randint(0, rows, (2, 3), generator=rng)
    assert torch.equal(quantized.unpack_rows(packed, scales, chosen), whole[chosen])
    # The rounded weights are represented exactly.
    again = quantized.unpack(*quantized.pack(whole[:rows, :columns], bits))
    assert torch.allclose(again, whole, rtol=1e-6, atol=0) or bits == 4


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("largest", [2.9e38, 3.2e38, 3.39e38, torch.finfo(torch.float32).max])
def test_weights_near_the_largest_number_stay_finite(bits, largest):
    weight = torch.linspace(-1, 1, 32 * 64).reshape(64, 32) * largest
    weight[::3] = largest * torch.linspace(0.9, 1, 22)[:, None]  # rows whose weights are nearly equal
    weight[1] = torch.arange(32).remainder(14).sub(7) / 7.6 * largest  # 7.6 steps round up to 8
    weight[1, 0] = largest
    whole = quantized.unpack(*quantized.pack(weight, bits))
    assert whole.isfinite().all()
    assert ((whole - weight).abs() <= (0.005 if bits == 8 else 0.18) * largest).all()


@pytest.mark.parametrize("bits", BITS)
def test_both_paths_give_the_same_numbers(bits, monkeypatch):
    torch.manual_seed(0)
    layer = QuantizedLinear.from_layer(nn.Linear(100, 70), bits)
    x = torch.randn(3, 5, 100)
    x[0, 0, :40] = 0
    x[1, 1, 50] = torch.inf
    kernel = layer(x)
    monkeypatch.setenv("SELECTIVE_SCAN_FORCE_FALLBACK", "TRUE")
    fallback = layer(x)
    assert torch.allclose(kernel, fallback, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert kernel[1, 1].isnan().all()
    assert kernel.isnan().sum() == 70


def test_what_is_refused(tmp_path):
    model = language()
    with pytest.raises(ValueError, match="bits is 3, expected 8 or 4"):
        quantize(model, 3)
    with pytest.raises(ValueError, match="is not quantised: call quantize"):
        save_quantized(model, tmp_path)
    with pytest.raises(ValueError, match="no linear layer or embedding to quantize in this Conv1d"):
        quantize(nn.Conv1d(1, 1, 1))
    damaged = language()
    damaged.backbone.layers[1].mixer.out_proj.weight[3, 3] = torch.nan
    with pytest.raises(ValueError, match=r"weight has elements that are not finite"):
        quantize(damaged)
    assert scheme_of(damaged) is None  # the layers before it are as they were
    assert type(damaged.backbone.layers[0].mixer.in_proj) is nn.Linear
    quantize(model)
    with pytest.raises(ValueError, match="quantised already: int8-rows"):
        quantize(model, 4)
    with pytest.raises(IndexError, match="outside of the table, which has 104 rows"):
        model(torch.tensor([[104]]))


class Shared(nn.Module):
    """One layer under three names, two of them in one parent."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
        self.first = self.second = self.inner[0]

    def forward(self, x):
        return self.second(self.first(self.inner(x)))


@torch.no_grad()
def test_a_layer_of_several_names(tmp_path):
    torch.manual_seed(0)
    model, x = Shared(), torch.randn(3, 64)
    want = model(x)
    quantize(model)
    assert isinstance(model.second, QuantizedLinear)
    assert model.second is model.first is model.inner[0]
    assert change(model(x), want) < 0.05
    save_quantized(model, tmp_path / "model.safetensors")
    loaded = load_quantized(Shared(), tmp_path / "model.safetensors")
    assert loaded.second is loaded.first is loaded.inner[0]
    assert torch.equal(loaded(x), model(x))


class Tied(nn.Module):
    """Everything that modules may share: norms, biases, a whole block."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
        self.b.bias = self.a.bias
        self.n1, self.n2 = nn.LayerNorm(64), nn.LayerNorm(64)
        self.n2.weight, self.n2.bias = self.n1.weight, self.n1.bias
        block = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64))
        self.blocks = nn.ModuleList([block, block])
        self.register_buffer("table", torch.arange(64.0))
        self.register_buffer("head", self.table[:8])

    def forward(self, x):
        x = self.n2(self.b(self.n1(self.a(x)))) + self.table
        for block in self.blocks:
            x = block(x)
        return x[..., :8] * self.head


@torch.no_grad()
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_modules_share_is_loaded(device, tmp_path):
    torch.manual_seed(0)
    model, x = quantize(Tied()), torch.randn(3, 64)
    save_quantized(model, tmp_path / "model.safetensors")
    loaded = load_quantized(Tied().to(device), tmp_path / "model.safetensors")
    assert torch.equal(loaded(x), model(x))
    assert [item.name for item in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_model_without_numbers_is_refused():
    with pytest.raises(ValueError, match=r"a\.weight is on the device meta"):
        quantize(Tied().to("meta"))


@pytest.mark.parametrize("bits", [[8], 8.0, "8", True, None])
def test_odd_bits_are_refused(bits):
    with pytest.raises(ValueError, match="expected 8 or 4"):
        quantize(nn.Linear(64, 64), bits)


def test_a_config_that_json_cannot_hold_leaves_the_older_files(tmp_path):
    model = quantize(language())
    save_quantized(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model.config = {"dtype": torch.float32}
    with pytest.raises(TypeError, match="JSON"):
        save_quantized(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("damage", [lambda _: b"", lambda data: data[:50], lambda data: b"\xff" * 8 + data])
def test_a_damaged_file_is_named(damage, tmp_path):
    file = tmp_path / "model.safetensors"
    save_quantized(quantize(language()), file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load_quantized(language(), file)


def test_files_that_do_not_fit(tmp_path):
    file = tmp_path / "model.safetensors"
    save_quantized(quantize(language()), file)
    state, name = load_file(file), "backbone.layers.1.mixer.in_proj"

    def refused(changes, scheme="int8-rows", config=None):
        changed = {key: value for key, value in {**state, **changes}.items() if value is not None}
        metadata = {"format": "pt"} if scheme is None else {"format": "pt", "quantization": scheme}
        save_file(changed, tmp_path / "other.safetensors", metadata=metadata)
        with pytest.raises(ValueError, match="other") as error:
            load_quantized(language(**(config or {})), tmp_path / "other.safetensors")
        return str(error.value)

    packed, scales = f"{name}.packed", f"{name}.scales"
    assert f"has no {scales}" in refused({scales: None})
    assert f"has no {packed}" in refused({packed: None})
    as_four_bits = {packed: state[packed].view(torch.uint8)}
    assert f"{packed} has dtype torch.uint8, expected torch.int8" in refused(as_four_bits)
    without_numbers = {scales: torch.full_like(state[scales], torch.nan)}
    assert f"{scales} has elements that are not finite" in refused(without_numbers)
    assert f"{scales} has dtype torch.bfloat16" in refused({scales: state[scales].bfloat16()})
    assert "packed has dtype torch.int8, expected torch.uint8" in refused({}, "int4-blocks-of-32")
    assert "has quantization 'int3', expected int8-rows or int4-blocks-of-32" in refused({}, "int3")
    assert "holds no quantised weights" in refused({}, None)
    assert "missing ['backbone.norm_f.weight']" in refused({"backbone.norm_f.weight": None})
    assert "unknown ['extra']" in refused({"extra": torch.ones(1)})
    assert "has shape" in refused({}, config={"width": 128})
    with pytest.raises(FileNotFoundError):
        load_quantized(language(), tmp_path / "none.safetensors")


def test_a_config_is_beside_the_weights(tmp_path):
    save_quantized(quantize(language()), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["d_model"] == 64


@torch.no_grad()
def test_mixers_alone():
    torch.manual_seed(0)
    for mixer in (Mamba(64, layer_idx=0), Mamba2(64, headdim=16, layer_idx=0)):
        x = torch.randn(2, 10, 64)
        want = mixer(x)
        assert change(quantize(mixer)(x), want) <= 0.03
