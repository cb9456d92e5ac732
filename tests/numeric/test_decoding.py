"""A model's step of decoding in one call: what it computes, and that it follows every change of the model."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from mamba_ssm import MambaLMHeadModel
from mamba_ssm.models.config_mamba import MambaConfig
from mamba_ssm.modules import decoding
from mamba_ssm.modules.mha import MHA
from mamba_ssm.modules.quantized import QuantizedLinear
from mamba_ssm.utils.generation import InferenceParams
from mamba_ssm.utils.quantize import quantize
from torch import nn

try:
    from mamba_ssm import Mamba3
except ImportError:  # the default release line
    Mamba3 = None

pytest.importorskip("selective_scan_cpu")
PROMPT = 6
LAYERS = ["Mamba1", "Mamba2", *(["Mamba3"] if Mamba3 else [])]
OPTIONS = {
    "Mamba1": [{}],
    "Mamba2": [
        {},
        {"ngroups": 2},
        {"ngroups": 2, "norm_before_gate": True},
        {"D_has_hdim": True},
        {"rmsnorm": False},
        {"d_ssm": 64},
        {"d_ssm": 64, "rmsnorm": False, "bias": True, "conv_bias": False},
        {"dt_limit": (0.05, 0.2)},
        {"d_conv": 3},
        {"headdim": 32, "d_state": 20, "ngroups": 4},
    ],
    "Mamba3": [
        {},
        {"ngroups": 2},
        {"rope_fraction": 1.0},
        {"is_outproj_norm": True},
        {"is_mimo": True, "mimo_rank": 2},
        {"is_mimo": True, "is_outproj_norm": True},
    ],
}


def language(bits=None, layer="Mamba1", options=None, **more):
    torch.manual_seed(0)
    options = {**({} if layer == "Mamba1" else {"d_state": 16, "headdim": 16}), **(options or {})}
    more = {"ssm_cfg": {"layer": layer, **options}, **more}
    config = MambaConfig(d_model=64, n_layer=3, vocab_size=100, **more)
    model = MambaLMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms, biases, A_log and D, which are constants in a new model
                parameter.add_(0.2 * torch.randn_like(parameter))
    return quantize(model, bits) if bits else model


def tokens(length=30):
    return torch.arange(length)[None] * 37 % 100


@pytest.fixture
def planned(monkeypatch):
    """How many steps were computed in one call."""
    count = []
    original = decoding.step

    def step(*args):
        out = original(*args)
        if out is not None:
            count.append(out)
        return out

    monkeypatch.setattr(decoding, "step", step)
    return count


class Sequence:
    """A model after a prompt; `next` decodes one token, with the plan and by the model's modules."""

    def __init__(self, model, monkeypatch):
        self.model, self.patch = model, monkeypatch
        self.states = [InferenceParams(max_seqlen=100, max_batch_size=1) for _ in range(2)]
        for states in self.states:
            model(tokens()[:, :PROMPT], inference_params=states)
            states.seqlen_offset = PROMPT

    def next(self, planned):
        place, out = self.states[0].seqlen_offset, []
        before = len(planned)
        token = tokens(place + 1)[:, place:]
        out.append(self.model(token, inference_params=self.states[0]).logits)
        used = len(planned) > before
        with self.patch.context() as patch:
            patch.setattr(decoding, "step", lambda *args: None)
            out.append(self.model(token, inference_params=self.states[1]).logits)
        for states in self.states:
            states.seqlen_offset += 1
        assert out[0].shape == out[1].shape
        # A quantised layer rounds its inputs: two inputs on either side of a half give other outputs.
        quantized = any(isinstance(module, QuantizedLinear) for module in self.model.modules())
        assert off(*out) <= (1e-2 if quantized else 1e-5)
        for ours, theirs in zip(*(flat(self.model, states) for states in self.states), strict=True):
            assert off(ours, theirs) <= (1e-2 if quantized else 1e-5)
        return used


def off(found, wanted):
    """The largest difference relative to the largest number."""
    return ((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)).item()


def flat(model, states):
    """The states of all mixers. Attention's memory has no numbers before a token writes them."""
    attention = [i for i, block in enumerate(model.backbone.layers) if isinstance(block.mixer, MHA)]
    entries = states.key_value_memory_dict.items()
    return [state for i, entry in entries if i not in attention for state in entry]


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize(
    ("layer", "options"), [(layer, options) for layer in LAYERS for options in OPTIONS[layer]]
)
@torch.no_grad()
def test_steps(layer, options, bits, planned, monkeypatch):
    sequence = Sequence(language(bits, layer, options), monkeypatch)
    assert all(sequence.next(planned) for _ in range(5))


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "config",
    [
        {"rms_norm": False, "fused_add_norm": False},
        {"tie_embeddings": False},
        {"d_intermediate": 64},
        {"residual_in_fp32": False, "fused_add_norm": False, "d_intermediate": 64},
    ],
)
@torch.no_grad()
def test_models(config, layer, bits, planned, monkeypatch):
    sequence = Sequence(language(bits, layer, **config), monkeypatch)
    assert all(sequence.next(planned) for _ in range(3))


@torch.no_grad()
def test_another_default_dtype(planned, monkeypatch):
    model = language()
    try:
        torch.set_default_dtype(torch.bfloat16)
        sequence = Sequence(model, monkeypatch)
        assert sequence.next(planned)
        torch.set_default_dtype(torch.float64)
        assert sequence.next(planned)
    finally:
        torch.set_default_dtype(torch.float32)


@torch.no_grad()
def test_a_model_without_layers(planned, monkeypatch):
    config = MambaConfig(d_model=64, n_layer=0, vocab_size=100)
    assert not Sequence(MambaLMHeadModel(config).eval(), monkeypatch).next(planned)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_model_made_in_inference_mode(layer, planned, monkeypatch):
    """Its tensors have no version."""
    with torch.inference_mode():
        sequence = Sequence(language(8 if layer == "Mamba1" else None, layer), monkeypatch)
        assert sequence.next(planned)
        mixer = sequence.model.backbone.layers[1].mixer
        (mixer.dt_bias if layer == "Mamba3" else mixer.A_log).add_(0.5)
        assert sequence.next(planned)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_sequence_begun_in_inference_mode(layer, planned, monkeypatch):
    model = language(None, layer)
    with torch.inference_mode():
        sequence = Sequence(model, monkeypatch)
        assert sequence.next(planned)
    with torch.no_grad():
        assert sequence.next(planned)


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_generate(layer, planned, monkeypatch):
    model = language(8, layer)
    out = model.generate(tokens(PROMPT), max_length=20)
    assert len(planned) == 20 - PROMPT - 1
    monkeypatch.setattr(decoding, "step", lambda *args: None)
    assert torch.equal(model.generate(tokens(PROMPT), max_length=20), out)


class Doubled(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return 2 * self.layer(x)


def hook(layer):
    return layer.register_forward_hook(lambda module, args, out: out * 2)


def replaced(model, name):
    parent, _, last = name.rpartition(".")
    owner = model.get_submodule(parent)
    setattr(owner, last, Doubled(getattr(owner, last)))


def replaced_block(model):
    class Other(type(model.backbone.layers[1])):
        def forward(self, *args, **kwargs):
            out, residual = super().forward(*args, **kwargs)
            return 2 * out, residual

    model.backbone.layers[1].__class__ = Other


def forward(module):
    original = module.forward
    module.forward = lambda *args, **kwargs: original(*args, **kwargs) * 2


def step(module):
    original = module.step
    module.step = lambda x, *states: (2 * original(x, *states)[0], *original(x, *states)[1:])


def bias(layer):
    layer.bias = nn.Parameter(torch.randn(layer.weight.shape[0]))


def set_data(parameter):
    parameter.data = torch.randn_like(parameter)


MIXER = "backbone.layers.1.mixer"


def of_mixer(name, function):
    return lambda model: function(model.get_submodule(f"{MIXER}{name}"))


def other_parameter(name):
    def change(mixer):
        setattr(mixer, name, nn.Parameter(torch.randn_like(getattr(mixer, name))))

    return of_mixer("", change)


def setting(name, value, of=""):
    return of_mixer(of, lambda module: setattr(module, name, value))


CHANGES = {
    # name: (the change, whether steps stay in one call)
    "hook of a norm": (lambda model: hook(model.backbone.norm_f), False),
    "hook of the embedding": (lambda model: hook(model.backbone.embedding), False),
    "hook of the output layer": (lambda model: hook(model.lm_head), False),
    "hook of a projection": (of_mixer(".out_proj", hook), False),
    "replaced projection": (lambda model: replaced(model, f"{MIXER}.in_proj"), False),
    "replaced output layer": (lambda model: replaced(model, "lm_head"), False),
    "replaced block": (replaced_block, False),
    "forward of a layer": (of_mixer(".in_proj", forward), False),
    "forward of a mixer": (of_mixer("", forward), False),
    "step of a mixer": (of_mixer("", step), False),
    "eps": (lambda model: setattr(model.backbone.layers[1].norm, "eps", 0.5), True),
    "eps of the last norm": (lambda model: setattr(model.backbone.norm_f, "eps", 0.5), True),
    "a block more": (
        lambda model: model.backbone.layers.append(copy.deepcopy(model.backbone.layers[0])),
        False,
    ),
    "D in place": (of_mixer("", lambda mixer: mixer.D.mul_(3)), True),
    "another D": (other_parameter("D"), True),
    "there and back": (of_mixer(".out_proj", lambda layer: layer.to(torch.bfloat16).float()), True),
    "data of a weight": (lambda model: set_data(model.backbone.layers[1].norm.weight), True),
}
CONVOLUTIONS = {
    "hook of the convolution": (of_mixer(".conv1d", hook), False),
    "data of the convolution": (of_mixer(".conv1d", lambda conv: set_data(conv.weight)), True),
    "data of A in place": (of_mixer("", lambda mixer: mixer.A_log.data.mul_(3)), True),
    "A in place": (of_mixer("", lambda mixer: mixer.A_log.add_(0.5)), True),
    "another A": (other_parameter("A_log"), True),
    "bfloat16 D": (of_mixer("", lambda mixer: set_dtype(mixer, "D")), False),
}
GATED = {
    "hook of the gated norm": (of_mixer(".norm", hook), False),
    "replaced gated norm": (lambda model: replaced_norm(model, f"{MIXER}.norm"), False),
    "eps of the gated norm": (setting("eps", 0.5, ".norm"), True),
    "weight of the gated norm": (of_mixer(".norm", lambda norm: set_data(norm.weight)), True),
    "dt_bias in place": (of_mixer("", lambda mixer: mixer.dt_bias.add_(1)), True),
    "another dt_bias": (other_parameter("dt_bias"), True),
}
OF_LAYER = {
    "Mamba1": {
        **CHANGES,
        **CONVOLUTIONS,
        "hook of x_proj": (of_mixer(".x_proj", hook), False),
        "bias of x_proj": (of_mixer(".x_proj", bias), False),
        "forward of dt_proj": (of_mixer(".dt_proj", forward), False),
    },
    "Mamba2": {
        **CHANGES,
        **CONVOLUTIONS,
        **GATED,
        "order of norm and gate": (setting("norm_before_gate", True, ".norm"), True),
        "groups of the gated norm": (setting("group_size", 32, ".norm"), True),
        "no norm": (setting("rmsnorm", False), True),
        "limits of dt": (setting("dt_limit", (0.1, 0.3)), True),
        "limits of dt that may change": (setting("dt_limit", [0.1, 0.3]), False),
        "hook of the activation": (of_mixer(".act", hook), False),
    },
    "Mamba3": {
        **CHANGES,
        **GATED,
        "hook of B's norm": (of_mixer(".B_norm", hook), False),
        "eps of C's norm": (setting("eps", 0.5, ".C_norm"), True),
        "another C_bias": (other_parameter("C_bias"), True),
        "least A": (setting("A_floor", 0.7), True),
    },
}


def set_dtype(mixer, name):
    setattr(mixer, name, nn.Parameter(getattr(mixer, name).to(torch.bfloat16)))


def replaced_norm(model, name):
    class Other(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.norm = norm

        def forward(self, x, z):
            return 2 * self.norm(x, z)

    parent, _, last = name.rpartition(".")
    owner = model.get_submodule(parent)
    setattr(owner, last, Other(getattr(owner, last)))


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize(
    ("layer", "change"), [(layer, change) for layer in LAYERS for change in OF_LAYER[layer]]
)
@torch.no_grad()
def test_changes_between_two_tokens(layer, change, bits, planned, monkeypatch):
    model = language(bits, layer, {"is_outproj_norm": True} if layer == "Mamba3" else None)
    function, one_call = OF_LAYER[layer][change]
    sequence = Sequence(model, monkeypatch)
    assert sequence.next(planned)
    function(model)
    assert sequence.next(planned) == one_call
    assert sequence.next(planned) == one_call


EMBEDDINGS = {
    # name: (the change, whether steps stay in one call)
    "another weight": (lambda table: setattr(table, "weight", nn.Parameter(torch.randn(100, 64))), True),
    "data of the weight": (lambda table: set_data(table.weight), True),
    "weight in place": (lambda table: table.weight.mul_(3), True),
    "largest norm": (lambda table: setattr(table, "max_norm", 0.5), False),
    "forward": (forward, False),
}
PACKED = {
    "scales in place": (lambda table: table.scales.mul_(3), True),
    "other scales": (lambda table: setattr(table, "scales", table.scales * 2), True),
    "other packed weights": (lambda table: setattr(table, "packed", table.packed.flip(0)), True),
    "forward": (forward, False),
}


@pytest.mark.parametrize(
    ("bits", "change"),
    [
        *((None, name) for name in EMBEDDINGS),
        *((8, name) for name in PACKED),
        *((4, name) for name in PACKED),
    ],
)
@torch.no_grad()
def test_changes_of_the_embedding(bits, change, planned, monkeypatch):
    sequence = Sequence(language(bits), monkeypatch)
    function, one_call = (PACKED if bits else EMBEDDINGS)[change]
    assert sequence.next(planned)
    function(sequence.model.backbone.embedding)
    assert sequence.next(planned) == one_call


@pytest.mark.parametrize("bits", [None, 8, 4])
@torch.no_grad()
def test_tokens_that_are_refused(bits, planned):
    """The same kinds of errors as those of the embedding, and the states stay as they are."""
    model, states = language(bits), InferenceParams(max_seqlen=100, max_batch_size=1)
    model(tokens()[:, :PROMPT], inference_params=states)
    states.seqlen_offset = PROMPT
    model(torch.tensor([[3]], dtype=torch.int32), inference_params=states)
    assert len(planned) == 1
    before = [state.clone() for state in flat(model, states)]
    for token in (-1, 5000):
        with pytest.raises(IndexError):
            model(torch.tensor([[token]]), inference_params=states)
    for dtype in (torch.float32, torch.int16, torch.bool):
        with pytest.raises((TypeError, RuntimeError)):
            model(torch.ones(1, 1, dtype=dtype), inference_params=states)
    assert all(map(torch.equal, flat(model, states), before))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_traced_embedding_takes_other_tokens(bits):
    table = language(bits).backbone.embedding
    traced = torch.jit.trace(table, torch.tensor([[3]]), check_trace=False)
    assert torch.equal(traced(torch.tensor([[5]])), table(torch.tensor([[5]])))


MLP = "backbone.layers.1.mlp"


@pytest.mark.parametrize(
    ("change", "one_call"),
    [
        (lambda model: hook(model.get_submodule(f"{MLP}.fc1")), False),
        (lambda model: hook(model.get_submodule(MLP)), False),
        (lambda model: hook(model.backbone.layers[1].norm2), False),
        (lambda model: replaced(model, f"{MLP}.fc2"), False),
        (lambda model: replaced(model, MLP), False),
        (lambda model: setattr(model.get_submodule(MLP), "activation", torch.relu), False),
        (lambda model: setattr(model.backbone.layers[1], "mlp", None), True),
        (lambda model: setattr(model.backbone.layers[1].norm2, "eps", 0.5), True),
    ],
)
@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_changes_of_an_mlp_between_two_tokens(change, one_call, layer, planned, monkeypatch):
    sequence = Sequence(language(None, layer, d_intermediate=64), monkeypatch)
    assert sequence.next(planned)
    change(sequence.model)
    assert sequence.next(planned) == one_call
    assert sequence.next(planned) == one_call


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_other_memory_of_the_states(layer, planned, monkeypatch):
    sequence = Sequence(language(None, layer), monkeypatch)
    assert sequence.next(planned)
    for states in sequence.states:
        generator = torch.Generator().manual_seed(0)
        for state in states.key_value_memory_dict[1]:
            state.data = torch.randn(state.shape, generator=generator)
    memory = [state.data_ptr() for state in sequence.states[0].key_value_memory_dict[1]]
    assert sequence.next(planned)
    assert memory == [state.data_ptr() for state in sequence.states[0].key_value_memory_dict[1]]
    assert sequence.next(planned)


@pytest.mark.parametrize("layer", ["Mamba1", "Mamba2"])
@pytest.mark.parametrize("layout", ["channels adjacent", "steps adjacent", "gaps"])
@torch.no_grad()
def test_other_strides_of_the_convolution(layout, layer, planned, monkeypatch):
    sequence = Sequence(language(None, layer), monkeypatch)
    assert sequence.next(planned)
    for states in sequence.states:
        state = states.key_value_memory_dict[1][0]
        value, (_, channels, width) = state.clone(), state.shape
        if layout == "gaps":
            state.set_(torch.zeros(1, channels, 2 * width)[..., ::2])
        elif layout == "steps adjacent":
            state.set_(torch.zeros(1, channels, width))
        else:
            state.set_(torch.zeros(1, width, channels).mT)
        state.copy_(value)
    assert sequence.next(planned)


@torch.no_grad()
def test_other_strides_in_the_same_memory(planned, monkeypatch):
    sequence = Sequence(language(), monkeypatch)
    assert sequence.next(planned)
    for states in sequence.states:
        state = states.key_value_memory_dict[1][0]
        state.set_(state.untyped_storage(), 0, state.shape, (512, 1, 128))
    assert sequence.next(planned)


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_copies_of_the_states(layer, planned, monkeypatch):
    """A copy has the states alone, and gets a plan for its own memory."""
    sequence = Sequence(language(None, layer), monkeypatch)
    assert sequence.next(planned)
    original = sequence.states[0]
    for copied in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert not any(isinstance(value, nn.Module) for value in vars(copied).values())
        assert len(pickle.dumps(copied)) < 200_000  # the states have 3 * 128 * 20 float32, or a few more
        before = [state.clone() for pair in original.key_value_memory_dict.values() for state in pair]
        sequence.states[0] = copied
        place = sequence.states[1].seqlen_offset
        other = copy.deepcopy(sequence.states[1])
        assert sequence.next(planned)
        sequence.states[1] = other
        assert other.seqlen_offset == place
        after = [state for pair in original.key_value_memory_dict.values() for state in pair]
        assert all(map(torch.equal, before, after))


@torch.no_grad()
def test_a_model_that_has_to_be_called_is_examined_once(planned, monkeypatch):
    count = []
    make = decoding._make
    monkeypatch.setattr(decoding, "_make", lambda *args: count.append(args) or make(*args))
    for model in (language().to(torch.bfloat16), language(layer="Mamba2").to(torch.bfloat16), hybrid()):
        states = InferenceParams(max_seqlen=100, max_batch_size=1)
        model(tokens(PROMPT), inference_params=states)
        for place in range(PROMPT, PROMPT + 5):
            states.seqlen_offset = place
            model(tokens(1), inference_params=states)
        assert not planned
        assert len(count) == 1
        count.clear()
    sequence = Sequence(language(), monkeypatch)
    handle = hook(sequence.model.backbone.norm_f)
    assert not sequence.next(planned)
    assert not sequence.next(planned)
    assert len(count) == 1
    handle.remove()
    assert sequence.next(planned)


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_modules_do_not_unpack_weights_for_each_token(layer, planned, monkeypatch):
    sequence = Sequence(language(8, layer), monkeypatch)
    hook(sequence.model.backbone.norm_f)
    unpacked = property(lambda layer: pytest.fail("the weights are unpacked"))
    monkeypatch.setattr(QuantizedLinear, "weight", unpacked)
    assert not sequence.next(planned)


@torch.no_grad()
def test_norms_without_weight(planned, monkeypatch):
    model = language(rms_norm=False)
    model.backbone.layers[1].norm = nn.LayerNorm(64, elementwise_affine=False)
    assert not Sequence(model, monkeypatch).next(planned)
    model = language(rms_norm=False)
    model.backbone.norm_f = nn.LayerNorm(64, elementwise_affine=False)
    assert not Sequence(model, monkeypatch).next(planned)


@torch.no_grad()
def test_other_states_threads_and_methods(planned, monkeypatch):
    model = language(8)
    sequence = Sequence(model, monkeypatch)
    assert sequence.next(planned)
    for states in sequence.states:
        memory = states.key_value_memory_dict
        memory[1] = tuple(
            torch.randn(state.shape, generator=torch.Generator().manual_seed(0)) for state in memory[1]
        )
    assert sequence.next(planned)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert sequence.next(planned)
    finally:
        torch.set_num_threads(threads)
    with monkeypatch.context() as patch:
        kind = type(model.backbone.layers[0].mixer)
        original = kind.step
        patch.setattr(kind, "step", lambda self, *args: (original(self, *args)[0] * 2, *args[1:]))
        assert not sequence.next(planned)
    assert sequence.next(planned)


def hybrid(bits=None, layer="Mamba2"):
    """Attention between two mixers."""
    attention = {"causal": True, "num_heads": 4}
    return language(bits, layer, attn_layer_idx=[1], attn_cfg=attention, d_intermediate=64)


@torch.no_grad()
def test_what_goes_to_the_modules(planned, monkeypatch):
    model = language(8)
    for bits in (None, 8):
        sequence = Sequence(hybrid(bits), monkeypatch)
        assert not sequence.next(planned)
        assert not sequence.next(planned)
    states = InferenceParams(max_seqlen=100, max_batch_size=2)
    model(tokens(3).expand(2, -1), inference_params=states)
    states.seqlen_offset = 3
    assert model(tokens(1).expand(2, -1), inference_params=states).logits.shape == (2, 1, 104)
    assert not planned
    sequence = Sequence(copy.deepcopy(language().to(torch.bfloat16)), monkeypatch)
    out = sequence.model(tokens(1), inference_params=sequence.states[0]).logits
    assert out.dtype == torch.bfloat16
    assert not planned
    with torch.enable_grad():
        sequence = Sequence(language(), monkeypatch)
        sequence.model(tokens(1), inference_params=sequence.states[0])
    assert not planned
