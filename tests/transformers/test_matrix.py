"""Every case of every model with the packages and without: the same numbers, and all kernels ran."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from cases import CASES, run
from expected import EQUAL, calls, notes
from models import MODELS
from packaging.version import Version

HERE = Path(__file__).parent
OLDEST = "5.15"
# Of the largest value: of logits in float32, and of the gradient of each weight.
LOGITS, GRADIENTS = 1e-5, 2e-4
# In bfloat16, the packages' root mean square error may be this many times that of transformers alone.
NARROW, NOISE = 3, 0.01
DIFFERENT = 1e-4

pytestmark = [
    pytest.mark.skipif(Version(transformers.__version__) < Version(OLDEST), reason="transformers is too old"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    transformers.logging.set_verbosity_error()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def without(names, tmp_path_factory):
    """Model -> the results of a process that finds neither package."""
    path = tmp_path_factory.mktemp("without") / "results.pt"
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", HERE / "without.py", path, *names],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return torch.load(path, weights_only=True)


with_packages = cache(run)


def distance(found, expected):
    """The largest difference, relative to the largest expected value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def error(result):
    """The root mean square error of logits, relative to those in float32."""
    wide = result["wide logits"]
    return float((result["logits"] - wide).square().mean().sqrt() / wide.square().mean().sqrt())


def compare(found, expected):
    """Holds tensors by name against each other."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value.is_floating_point():
            limit = GRADIENTS if name.startswith(("grad", "plain grad")) else LOGITS
            assert distance(found[name], value) <= limit, name
        else:
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("case", CASES)
def test_kernels_run(name, case):
    assert with_packages(name)[f"calls of {case}"] == calls(MODELS[name], case)


@pytest.mark.parametrize(
    "case", ["forward", "padding", "chunks", "apart", "greedy 1", "greedy 2", "beams 1", "beams 2"]
)
def test_inference(name, case, without):
    assert with_packages(name)["weights"] == without[name]["weights"]
    compare(with_packages(name)[case], without[name][case])


def test_padding_changes_nothing(name):
    result = with_packages(name)["padding"]
    assert distance(result["row"], result["alone"]) <= LOGITS


def test_a_cache_continues_the_prompt(name):
    result = with_packages(name)["chunks"]
    if notes(name)["chunks"] == EQUAL:
        assert distance(result["logits"], result["whole"]) <= LOGITS
    else:  # by design of transformers, with the packages and without
        assert distance(result["logits"], result["whole"]) > DIFFERENT


def test_packed_sequences(name, without):
    model = MODELS[name]
    found, expected = with_packages(name)["packed"], without[name]
    if model.packing == "refused":
        assert "flash-linear-attention" in found
        return
    if model.packing in ("apart", "mask"):
        assert "causal_conv1d" in expected["packed"]  # an error: only with the packages
        assert distance(found["logits"], expected["apart"]["logits"]) <= LOGITS
        return
    assert distance(found["logits"], expected["apart"]["logits"]) > DIFFERENT
    compare(found, expected["packed" if model.packing == "ignored" else "packed, as upstream"])


@pytest.mark.parametrize("case", ["backward", "backward padded", "checkpointing"])
def test_training(name, case, without):
    found, expected = with_packages(name)[case], without[name]
    if notes(name)[case] == EQUAL:
        compare(found, expected[case])
        return
    assert distance(found["logits"], expected[case]["logits"]) > DIFFERENT
    emulated = expected.get(f"{case}, as upstream", expected.get("backward, as upstream"))
    compare({key: value for key, value in found.items() if not key.startswith("plain")}, emulated)


def test_checkpointing_changes_nothing(name):
    result = with_packages(name)["checkpointing"]
    for key in [key for key in result if not key.startswith("plain")]:
        assert torch.equal(result[key], result[f"plain {key}"]), key


@pytest.mark.parametrize("case", ["bfloat16", "autocast"])
def test_16_bits_are_as_exact_as_without(name, case, without):
    assert error(with_packages(name)[case]) <= NARROW * error(without[name][case]) + NOISE
