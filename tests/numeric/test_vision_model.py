"""The runner's Vision Mamba: its logits, its parameters' names, and what it counts as its operations."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
import torch
import vision_reference
from flops import convolution, language, scan, scan_2, vision
from language import build as build_language
from language import decode, prefill
from models import LANGUAGE, VISION, Vision
from reference import assert_close
from torch.utils.flop_counter import FlopCounterMode
from vim import build

SMALL = {
    "middle": Vision(32, depth=3, size=64, classes=7),
    "finer": Vision(32, depth=2, size=48, stride=8, classes=7),
    "head and rope": Vision(32, depth=3, size=64, classes=7, pool="head", rope=True, divide=False),
    "mean and rope": Vision(32, depth=3, size=64, classes=7, pool="mean", rope=True, divide=False),
    "rope on an odd grid": Vision(32, depth=2, size=48, classes=7, pool="mean", rope=True),
}


def released(shape):
    """A model whose parameters are all unlike those it starts with, as trained ones are."""
    state = build(shape).state_dict()
    for name, value in state.items():
        if not name.startswith("rope."):
            value.add_(0.05 * torch.randn_like(value))
    return build(shape, state)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("name", SMALL)
def test_logits_are_those_of_the_reference(name):
    shape = SMALL[name]
    model, image = released(shape), torch.randn(2, 3, shape.size, shape.size)
    expected = vision_reference.logits(
        image, model.state_dict(), shape.stride, shape.pool, shape.rope, shape.divide
    )
    assert_close(model(image), expected, 10)


def test_vim_tiny_itself():
    model, image = build(VISION["vim-tiny"]), torch.randn(1, 3, 224, 224)
    assert sum(p.numel() for p in model.parameters()) == 7_148_008
    assert_close(model(image), vision_reference.logits(image, model.state_dict()), 10)


def test_an_image_does_not_see_the_others_of_its_batch():
    model, images = released(SMALL["middle"]), torch.randn(3, 3, 64, 64)
    together = model(images)
    for image, row in zip(images, together, strict=True):
        assert_close(model(image[None])[0], row.double(), 10)


def test_parameters_are_named_and_shaped_as_in_the_released_checkpoints():
    shapes = {name: tuple(value.shape) for name, value in build(VISION["vim-tiny"]).state_dict().items()}
    layer = {
        "mixer.A_log": (384, 16),
        "mixer.A_b_log": (384, 16),
        "mixer.D": (384,),
        "mixer.D_b": (384,),
        "mixer.in_proj.weight": (768, 192),
        "mixer.conv1d.weight": (384, 1, 4),
        "mixer.conv1d.bias": (384,),
        "mixer.conv1d_b.weight": (384, 1, 4),
        "mixer.conv1d_b.bias": (384,),
        "mixer.x_proj.weight": (44, 384),
        "mixer.x_proj_b.weight": (44, 384),
        "mixer.dt_proj.weight": (384, 12),
        "mixer.dt_proj.bias": (384,),
        "mixer.dt_proj_b.weight": (384, 12),
        "mixer.dt_proj_b.bias": (384,),
        "mixer.out_proj.weight": (192, 384),
        "norm.weight": (192,),
    }
    expected = {f"layers.{index}.{name}": size for index in range(24) for name, size in layer.items()}
    expected |= {
        "cls_token": (1, 1, 192),
        "pos_embed": (1, 197, 192),
        "patch_embed.proj.weight": (192, 3, 16, 16),
        "patch_embed.proj.bias": (192,),
        "norm_f.weight": (192,),
        "head.weight": (1000, 192),
        "head.bias": (1000,),
    }
    assert shapes == expected


# Operations -----------------------------------------------------------------------------------------------


def counted(function, *, convolutions=True):
    """What torch's counter finds: torch's products and convolutions, and the products in the kernels.

    torch's counter sets hooks for every module, so that a depthwise convolution is computed by torch.
    """
    formulas = {
        torch.ops.selective_scan_cpu.linear: lambda x, weight, *_, **__: 2 * weight[0] * weight[1],
        torch.ops.selective_scan_cpu.projected_scan: lambda u, _, weight, *__, **___: 2 * prod(u) * weight[1],
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter, torch.no_grad():
        function()
    found, convolution = counter.get_flop_counts()["Global"], torch.ops.aten.convolution
    return sum(count for name, count in found.items() if convolutions or name is not convolution)


@pytest.mark.parametrize("name", SMALL)
def test_an_image_s_projections_are_what_torch_counts(name, monkeypatch):
    pytest.importorskip("selective_scan_cpu")
    monkeypatch.delenv("SELECTIVE_SCAN_FORCE_FALLBACK", raising=False)
    shape = SMALL[name]
    model, image = build(shape), torch.randn(1, 3, shape.size, shape.size)
    assert vision(shape)["projections"] == counted(lambda: model(image))


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_prompt_s_and_a_token_s_projections_are_what_torch_counts(name, monkeypatch):
    pytest.importorskip("selective_scan_cpu")
    shape = replace(LANGUAGE[name], depth=2, vocabulary=100)
    with torch.no_grad():
        model, tokens = build_language(shape, "cpu"), torch.randint(0, 100, (1, 12))
        assert language(shape, 12)["projections"] == counted(prefill(model, tokens), convolutions=False)
        # torch does not see into a compiled step; in PyTorch the same step's products are its own.
        monkeypatch.setenv("SELECTIVE_SCAN_FORCE_FALLBACK", "TRUE")
        assert language(shape, 1)["projections"] == counted(decode(model, tokens), convolutions=False)


def test_the_shares_follow_the_derivation():
    """By the loops of docs/flops.md, with every operation written out."""
    states, width = 3, 4
    per_state = len(["delta*A", "exp", "*h", "*B", "+", "*C", "sum"])
    per_channel = len(["+bias", "exp", "log1p", "delta*u", "D*u", "exp", "1+", "z/", "*gate"])
    assert scan(5, states) == 5 * (states * per_state + per_channel)
    assert convolution(5) == 5 * (width * len(["*", "+"]) + len(["exp", "1+", "x/"]))
    per_state = len(["*h", "*B", "+", "*C", "sum"])
    per_channel = len(["delta*x", "D*x", "exp", "1+", "z/", "*gate"])
    per_head = len(["+bias", "exp", "log1p", "delta*A", "exp"])
    assert scan_2(2, 5, states) == 2 * (5 * (states * per_state + per_channel) + per_head)
    shape = SMALL["middle"]
    rows, inner = 4 * 4 + 1, 64
    assert vision(shape)["scan"] == shape.depth * rows * 2 * scan(inner, 16)
    assert vision(shape)["convolution"] == shape.depth * rows * 2 * convolution(inner)
    assert sum(list(vision(shape).values())[1:]) == vision(shape)["total"]
