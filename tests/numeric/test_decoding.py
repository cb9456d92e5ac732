"""A model's step of decoding in one call: what it computes, and that it follows every change of the model."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from mamba_ssm import MambaLMHeadModel
from mamba_ssm.models.config_mamba import MambaConfig
from mamba_ssm.modules import decoding
from mamba_ssm.utils.generation import InferenceParams
from mamba_ssm.utils.quantize import quantize
from torch import nn

pytest.importorskip("selective_scan_cpu")
PROMPT = 6


def language(bits=None, **more):
    torch.manual_seed(0)
    config = MambaConfig(d_model=64, n_layer=3, vocab_size=100, **more)
    model = MambaLMHeadModel(config).eval()
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
        assert torch.allclose(*out, rtol=1e-3, atol=1e-4), (out[0] - out[1]).abs().max()
        return used


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize(
    "config", [{}, {"rms_norm": False, "fused_add_norm": False}, {"tie_embeddings": False}]
)
@torch.no_grad()
def test_steps(bits, config, planned, monkeypatch):
    sequence = Sequence(language(bits, **config), monkeypatch)
    assert all(sequence.next(planned) for _ in range(5))


def test_a_model_made_in_inference_mode(planned, monkeypatch):
    """Its tensors have no version."""
    with torch.inference_mode():
        sequence = Sequence(language(8), monkeypatch)
        assert sequence.next(planned)
        sequence.model.backbone.layers[1].mixer.A_log.add_(0.5)
        assert sequence.next(planned)


@torch.no_grad()
def test_generate(planned, monkeypatch):
    model = language(8)
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


def set_data(parameter):
    parameter.data = torch.randn_like(parameter)


MIXER = "backbone.layers.1.mixer"
CHANGES = {
    # name: (the change, whether steps stay in one call)
    "hook of a projection": (lambda model: hook(model.get_submodule(f"{MIXER}.x_proj")), False),
    "hook of a norm": (lambda model: hook(model.backbone.norm_f), False),
    "hook of the embedding": (lambda model: hook(model.backbone.embedding), False),
    "hook of the output layer": (lambda model: hook(model.lm_head), False),
    "replaced projection": (lambda model: replaced(model, f"{MIXER}.in_proj"), False),
    "replaced output layer": (lambda model: replaced(model, "lm_head"), False),
    "replaced block": (replaced_block, False),
    "forward of a layer": (lambda model: forward(model.get_submodule(f"{MIXER}.dt_proj")), False),
    "forward of a mixer": (lambda model: forward(model.get_submodule(MIXER)), False),
    "data of A in place": (lambda model: model.get_submodule(MIXER).A_log.data.mul_(3), True),
    "eps": (lambda model: setattr(model.backbone.layers[1].norm, "eps", 0.5), True),
    "eps of the last norm": (lambda model: setattr(model.backbone.norm_f, "eps", 0.5), True),
    "a block more": (
        lambda model: model.backbone.layers.append(copy.deepcopy(model.backbone.layers[0])),
        False,
    ),
    "A in place": (lambda model: model.get_submodule(MIXER).A_log.add_(0.5), True),
    "D in place": (lambda model: model.get_submodule(MIXER).D.mul_(3), True),
    "another D": (
        lambda model: setattr(model.get_submodule(MIXER), "D", nn.Parameter(torch.randn(128))),
        True,
    ),
    "data of a weight": (lambda model: set_data(model.get_submodule(f"{MIXER}.conv1d").weight), True),
    "bfloat16": (
        lambda model: model.get_submodule(f"{MIXER}.out_proj").to(torch.bfloat16).to(torch.float32),
        True,
    ),
}


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_changes_between_two_tokens(change, bits, planned, monkeypatch):
    model = language(bits)
    function, one_call = CHANGES[change]
    sequence = Sequence(model, monkeypatch)
    assert sequence.next(planned)
    function(model)
    assert sequence.next(planned) == one_call
    assert sequence.next(planned) == one_call


@pytest.mark.parametrize("layout", ["same", "other strides"])
@torch.no_grad()
def test_other_memory_of_the_states(layout, planned, monkeypatch):
    sequence = Sequence(language(), monkeypatch)
    assert sequence.next(planned)
    for states in sequence.states:
        generator = torch.Generator().manual_seed(0)
        for state in states.key_value_memory_dict[1]:
            data = torch.randn(state.shape, generator=generator)
            if layout == "same":
                state.data = data
            elif state.shape[-1] == 4:  # the convolution's state
                state.set_(torch.randn(4, 128, generator=generator).T[None])
    memory = [state.data_ptr() for state in sequence.states[0].key_value_memory_dict[1]]
    assert sequence.next(planned)
    assert memory == [state.data_ptr() for state in sequence.states[0].key_value_memory_dict[1]]
    assert sequence.next(planned)


@torch.no_grad()
def test_other_strides_in_the_same_memory(planned, monkeypatch):
    sequence = Sequence(language(), monkeypatch)
    assert sequence.next(planned)
    for states in sequence.states:
        state = states.key_value_memory_dict[1][0]
        state.set_(state.untyped_storage(), 0, state.shape, (512, 1, 128))
    assert sequence.next(planned)


@torch.no_grad()
def test_copies_of_the_states(planned, monkeypatch):
    """A copy has the states alone, and gets a plan for its own memory."""
    sequence = Sequence(language(), monkeypatch)
    assert sequence.next(planned)
    original = sequence.states[0]
    for copied in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert not any(isinstance(value, nn.Module) for value in vars(copied).values())
        assert len(pickle.dumps(copied)) < 200_000  # the states have 3 * 128 * 20 float32
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
    for model in (language().to(torch.bfloat16), language(d_intermediate=32)):
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


@torch.no_grad()
def test_what_goes_to_the_modules(planned, monkeypatch):
    model = language(8)
    for kwargs in ({"ssm_cfg": {"layer": "Mamba2", "d_state": 16, "headdim": 16}}, {"d_intermediate": 32}):
        sequence = Sequence(language(8, **kwargs), monkeypatch)
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
