"""`mambaport bench --model hf:...`: the measured functions, in the environment where the runner runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from cases import CACHES, counted
from expected import NAMES
from models import MODELS

RUNNER = Path(__file__).parents[2] / "toolchain" / "mambaport" / "running" / "runner"
sys.path.insert(0, str(RUNNER))
import hf  # noqa: E402
from answers import Refusal  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
LIMIT = 1e-5
PROMPT = 16


def request(config):
    return {"config": config, "path": "config.json", "prompt": PROMPT}


@torch.inference_mode()
def test_both_variants_compute_the_same_and_one_uses_kernels(name):
    made = hf.make(request({"model_type": name, **MODELS[name].options}), "cpu")
    for functions, unit, _, _ in made["measures"].values():
        with counted() as calls:
            ours = functions["default"]()
        assert set(calls) <= set(NAMES)
        assert bool(calls) == MODELS[name].kernels
        with counted() as calls:
            theirs = functions["without"]()
        assert not calls
        assert unit == "tokens"
        assert ours.shape == theirs.shape
        assert float((ours - theirs).abs().max() / theirs.abs().max()) <= LIMIT


@torch.inference_mode()
def test_each_decoding_call_does_the_same_work():
    """The attention layers see the same number of keys."""
    made = hf.make(request({"model_type": "bamba", **MODELS["bamba"].options}), "cpu")
    seen = []

    def record(module, args, options):
        seen.append(options[next(name for name in CACHES if name in options)].get_seq_length())

    made["model"].register_forward_pre_hook(record, with_kwargs=True)
    for _ in range(3):
        made["measures"]["decode"][0]["default"]()
    assert seen == [PROMPT] * 3


@pytest.mark.parametrize(
    ("config", "kind", "what"),
    [
        ({"model_type": "mamba9"}, "run", "no model of the type 'mamba9'"),
        ({"model_type": "vit"}, "run", "no language model of the type 'vit'"),
        ({"model_type": "mamba", "hidden_size": "many"}, "run", "refuses the configuration"),
        ({"model_type": "mamba", "hidden_size": -1}, "run", "refuses the configuration"),
        (
            {"model_type": "mamba", "num_hidden_layers": 2, "hidden_size": 300_000},
            "host",
            "not enough memory",
        ),
        (
            {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 9},
            "run",
            "calls neither mamba_ssm nor causal_conv1d: llama",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(config, kind, what):
    with pytest.raises(Refusal) as caught:
        hf.make(request(config), "cpu")
    assert caught.value.fields["kind"] == kind
    assert what in caught.value.fields["what"]
    assert caught.value.fields["hint"]
