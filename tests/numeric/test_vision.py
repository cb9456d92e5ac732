"""Vision Mamba's Mamba and functions: parameter names, both directions on every path, and three layers."""

from __future__ import annotations

import pytest
import reference
import torch
from mamba_ssm import Mamba
from mamba_ssm.ops.selective_scan_interface import (
    bimamba_inner_fn,
    bimamba_inner_ref,
    mamba_inner_fn_no_out_proj,
)
from mamba_ssm.ops.triton.layer_norm import RMSNorm, layer_norm_fn, rms_norm_fn
from mamba_ssm.utils.generation import InferenceParams
from reference import assert_close, compare_gradients, double

pytestmark = pytest.mark.usefixtures("path")

FORWARD = {"A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight",
           "dt_proj.bias", "out_proj.weight"}  # fmt: skip
V2 = {
    "A_b_log",
    "D_b",
    "conv1d_b.weight",
    "conv1d_b.bias",
    "x_proj_b.weight",
    "dt_proj_b.weight",
    "dt_proj_b.bias",
}
V3 = V2 | {name.replace("_b", "_s", 1) for name in V2}


def make(kind, **options):
    module = Mamba(16, d_state=8, bimamba_type=kind, **options)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


@pytest.mark.parametrize(("kind", "extra"), [("none", set()), ("v1", {"A_b_log"}), ("v2", V2), ("v3", V3)])
def test_parameter_names(kind, extra):
    assert set(make(kind).state_dict()) == FORWARD | extra
    assert set(make(kind, init_layer_scale=0.1).state_dict()) == FORWARD | extra | {"gamma"}
    with pytest.raises(ValueError, match="bimamba_type must be one of"):
        make("v4")


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("nslices", [1, 3, 4, 12])
@pytest.mark.parametrize("bias", [True, False])
def test_segmambas_three_directions(fast, nslices, bias):
    module = make("v3", nslices=nslices, use_fast_path=fast, bias=bias)
    x = torch.randn(2, 12, 16, requires_grad=True)
    wide, p = double(x), {n: t.requires_grad_() for n, t in reference.parameters(module).items()}
    expected = reference.bimamba_v3(wide, p, nslices)
    out = module(x)
    assert_close(out, expected, 10)
    named = dict(module.named_parameters())
    compare_gradients(out, [x, *named.values()], expected, [wide, *(p[n] for n in named)], 40)


def test_slices_that_do_not_fit_the_sequence_are_refused():
    with pytest.raises(ValueError, match="13 steps do not divide by nslices=5"):
        make("v3")(torch.randn(1, 13, 16))


@pytest.mark.parametrize(
    ("others", "ours"),
    [
        ({"bimamba": True}, {"bimamba_type": "v2"}),  # VideoMamba
        ({"bimamba": False}, {}),
        # NetMamba
        ({"bimamba_type": "v2", "if_devide_out": True}, {"bimamba_type": "v2", "if_divide_out": True}),
        ({"bimamba_type": "v2", "if_devide_out": False}, {"bimamba_type": "v2"}),
        ({"bimamba_type": "v2", "nslices": 4}, {"bimamba_type": "v2"}),  # SegMamba
    ],
)
def test_the_arguments_of_vims_descendants(others, ours):
    torch.manual_seed(1)
    theirs = Mamba(16, **others)
    torch.manual_seed(1)
    module = Mamba(16, **ours)
    assert theirs.state_dict().keys() == module.state_dict().keys()
    x = torch.randn(2, 13, 16)
    assert torch.equal(theirs(x), module(x))


def test_arguments_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="bimamba=True is bimamba_type 'v2', and bimamba_type is 'v3'"):
        Mamba(16, bimamba=True, bimamba_type="v3")


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", ["none", "v1", "v2"])
@pytest.mark.parametrize("divide", [True, False])
@pytest.mark.parametrize("scale", [None, 0.1])
def test_both_directions_on_every_path(fast, kind, divide, scale):
    module = make(kind, use_fast_path=fast, if_divide_out=divide, init_layer_scale=scale)
    x = torch.randn(2, 13, 16, requires_grad=True)
    wide, p = double(x), {n: t.requires_grad_() for n, t in reference.parameters(module).items()}
    if kind == "none":
        expected = reference.mamba(wide, p)
    else:
        expected = reference.bimamba_v1(wide, p) if kind == "v1" else reference.bimamba_v2(wide, p, divide)
    if scale is not None:
        expected = expected * p["gamma"]
    out = module(x)
    assert_close(out, expected, 10)
    named = dict(module.named_parameters())
    compare_gradients(out, [x, *named.values()], expected, [wide, *(p[n] for n in named)], 40)


@pytest.mark.parametrize("kind", ["v1", "v2", "v3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bits(kind, dtype):
    module = make(kind, if_divide_out=True, nslices=2).to(dtype)
    x = torch.randn(2, 12, 16).to(dtype)
    p = reference.parameters(module)
    expected = {
        "v1": lambda: reference.bimamba_v1(x.double(), p),
        "v2": lambda: reference.bimamba_v2(x.double(), p, True),
        "v3": lambda: reference.bimamba_v3(x.double(), p, 2),
    }[kind]()
    out = module(x)
    assert out.dtype == dtype
    assert_close(out, expected, 6)


def test_the_last_token_sees_and_is_seen():
    """With one direction left out, the first output would not depend on the last input."""
    for kind in ("v1", "v2"):
        for fast in (True, False):
            module = make(kind, use_fast_path=fast)
            x = torch.randn(1, 9, 16)
            other = x.clone()
            other[:, -1] += 1
            assert not torch.allclose(module(x)[:, 0], module(other)[:, 0])


def test_decoding_is_refused():
    module = make("v2", layer_idx=0)
    with pytest.raises(NotImplementedError, match="bidirectional"):
        module(torch.randn(1, 4, 16), inference_params=InferenceParams(8, 1))
    scaled = make("none", layer_idx=0, init_layer_scale=0.1)
    x, params = torch.randn(1, 6, 16), InferenceParams(8, 1)
    with torch.no_grad():
        first = scaled(x[:, :5], inference_params=params)
        params.seqlen_offset = 5
        last = scaled(x[:, 5:], inference_params=params)
    assert_close(torch.cat([first, last], dim=1), scaled(x).double(), 10)


def test_functions():
    xz = torch.randn(2, 16, 11)
    weights = [torch.randn(8, 1, 4), torch.randn(8), 0.3 * torch.randn(2 + 2 * 3, 8), 0.3 * torch.randn(8, 2)]
    out_weight, out_bias, A, A_b = torch.randn(5, 8), torch.randn(5), -torch.rand(8, 3), -torch.rand(8, 3)
    D, bias = torch.randn(8), torch.randn(8)
    B_bias, C_bias = torch.randn(3), torch.randn(3)
    out = bimamba_inner_fn(xz, *weights, out_weight, out_bias, A, A_b, None, None, D, bias, B_bias, C_bias)
    ref = bimamba_inner_ref(xz, *weights, out_weight, out_bias, A, A_b, None, None, D, bias, B_bias, C_bias)
    assert_close(out, ref.double(), 10)
    one_way = mamba_inner_fn_no_out_proj(xz, *weights, A, None, None, D, bias, B_bias, C_bias)
    x, z = xz.double().chunk(2, dim=1)
    w = [t.double() for t in weights]
    u = reference.causal_conv1d(x, w[0][:, 0], w[1], activation="silu")[0]
    dt, B, C = (u.transpose(1, 2) @ w[2].t()).split([2, 3, 3], dim=-1)
    B, C = (B + B_bias.double()).transpose(1, 2), (C + C_bias.double()).transpose(1, 2)
    expected, _ = reference.selective_scan(
        u, (dt @ w[3].t()).transpose(1, 2), A.double(), B, C, D.double(), z, bias.double(), True
    )
    assert one_way.shape == (2, 8, 11)
    assert_close(one_way, expected, 10)
    with pytest.raises(AssertionError, match="real"):
        bimamba_inner_fn(xz, *weights, out_weight, out_bias, A.to(torch.complex64), A_b)


class VimBlock(torch.nn.Module):
    """Add, norm, mix: the way Vim's own block calls mamba_ssm."""

    def __init__(self, dim, fused):
        super().__init__()
        self.mixer = Mamba(dim, bimamba_type="v2", if_divide_out=True)
        self.norm = RMSNorm(dim, eps=1e-5)
        self.fused = fused

    def forward(self, hidden, residual):
        if self.fused:
            add_norm = rms_norm_fn if isinstance(self.norm, RMSNorm) else layer_norm_fn
            hidden, residual = add_norm(
                hidden,
                self.norm.weight,
                self.norm.bias,
                residual=residual,
                prenorm=True,
                residual_in_fp32=True,
                eps=self.norm.eps,
            )
        else:
            residual = hidden if residual is None else hidden + residual
            hidden = self.norm(residual)
        return self.mixer(hidden), residual


@pytest.mark.parametrize("fused", [True, False])
def test_three_layers_of_vim_tiny(fused):
    """Vim-Tiny's width and a 14 x 14 grid with its class token in the middle, random weights."""
    torch.manual_seed(3)
    layers = torch.nn.ModuleList(VimBlock(192, fused) for _ in range(3))
    head, norm = torch.nn.Linear(192, 10), RMSNorm(192, eps=1e-5)
    tokens = torch.randn(1, 197, 192)
    hidden, residual = tokens, None
    with torch.no_grad():
        for layer in layers:
            hidden, residual = layer(hidden, residual)
        logits = head(rms_norm_fn(hidden, norm.weight, None, residual=residual, eps=1e-5)[:, 98])
        wide, total = tokens.double(), 0.0
        for layer in layers:
            p = reference.parameters(layer)
            total = total + wide
            wide = reference.bimamba_v2(
                reference.norm(total, p["norm.weight"], eps=1e-5), reference.inside(p, "mixer."), divide=True
            )
        p = reference.parameters(head)
        expected = (
            reference.norm(total + wide, torch.ones(192).double(), eps=1e-5)[:, 98] @ p["weight"].t()
            + p["bias"]
        )
    assert_close(logits, expected, 10)
