"""LayerNorm and RMSNorm with what is fused into them, the gated norms, swiglu: never None, and right."""

from __future__ import annotations

import pytest
import reference
import torch
from mamba_ssm.ops.selective_scan_interface import rms_norm_forward
from mamba_ssm.ops.triton import layer_norm, layernorm_gated
from mamba_ssm.ops.triton.k_activations import swiglu
from reference import assert_close, compare_gradients, double

pytestmark = pytest.mark.usefixtures("path")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def leaf(*shape, dtype=torch.float32):
    return torch.randn(*shape).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rms", [True, False])
@pytest.mark.parametrize("residual_dtype", [None, torch.float32, "same"], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_prenorm(dtype, rms, residual_dtype, bias):
    x, weight, b = leaf(2, 5, 24, dtype=dtype), leaf(24), leaf(24) if bias else None
    residual = (
        None
        if residual_dtype is None
        else leaf(2, 5, 24, dtype=dtype if residual_dtype == "same" else residual_dtype)
    )
    given = [x, weight, b, residual]
    wide = double(*given)
    total = wide[0] if residual is None else wide[0] + wide[3]
    expected = reference.norm(total, wide[1], wide[2], 1e-5, rms)
    function = layer_norm.rms_norm_fn if rms else layer_norm.layer_norm_fn
    for grad in (False, True):  # a compiled kernel may serve one and not the other
        with torch.set_grad_enabled(grad):
            y, out_residual = function(x, weight, b, residual=residual, prenorm=True, eps=1e-5)
            alone = function(x, weight, b, residual=residual, eps=1e-5)
        assert y.dtype == dtype
        assert out_residual.dtype == (dtype if residual is None else residual.dtype)
        assert_close(y, expected)
        assert_close(out_residual, total)
        assert torch.equal(alone, y)
    # The gradient comes through both outputs.
    both = torch.cat([y.float(), out_residual.float()])
    compare_gradients(both, given, torch.cat([expected, total]), wide, weight_dtype=dtype)


@pytest.mark.parametrize("rms", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_no_weight(rms, residual):
    """As of torch.nn.LayerNorm(dim, elementwise_affine=False), whose weight is None."""
    x, other = leaf(3, 8), leaf(3, 8) if residual else None
    function = layer_norm.rms_norm_fn if rms else layer_norm.layer_norm_fn
    wide = x.double() if other is None else x.double() + other.double()
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            y = function(x, None, None, residual=other, eps=1e-5)
        assert_close(y, reference.norm(wide, torch.ones(8).double(), None, 1e-5, rms))


def test_residual_in_fp32():
    x, weight = leaf(3, 8, dtype=torch.bfloat16), leaf(8)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            y, residual = layer_norm.rms_norm_fn(x, weight, None, prenorm=True, residual_in_fp32=True)
        assert (y.dtype, residual.dtype) == (torch.bfloat16, torch.float32)
        assert torch.equal(residual, x.float())


@pytest.mark.parametrize("rms", [True, False])
def test_second_branch_and_rowscale(rms):
    x, x1, residual = leaf(4, 16), leaf(4, 16), leaf(4, 16)
    weight, bias, weight1, bias1 = leaf(16), leaf(16), leaf(16), leaf(16)
    y, y1, total = layer_norm.layer_norm_fn(
        x, weight, bias, residual, x1, weight1, bias1, prenorm=True, is_rms_norm=rms
    )
    expected = x.double() + x1.double() + residual.double()
    assert_close(total, expected)
    assert_close(y, reference.norm(expected, weight.double(), bias.double(), rms=rms))
    assert_close(y1, reference.norm(expected, weight1.double(), bias1.double(), rms=rms))
    rowscale = torch.rand(4)
    y = layer_norm.layer_norm_fn(x, weight, bias, residual, rowscale=rowscale, is_rms_norm=rms)
    scaled = x.double() * rowscale.double()[:, None] + residual.double()
    assert_close(y, reference.norm(scaled, weight.double(), bias.double(), rms=rms))
    with pytest.raises(AssertionError, match="rowscale"):
        layer_norm.layer_norm_fn(x, weight, bias, x1=x1, rowscale=rowscale)


def test_dropout():
    x, x1, residual, weight = leaf(8, 400), leaf(8, 400), leaf(8, 400), leaf(400)
    y, total, mask, mask1 = layer_norm.rms_norm_fn(
        x, weight, None, residual, x1, dropout_p=0.25, prenorm=True, return_dropout_mask=True
    )
    assert mask.dtype == mask1.dtype == torch.bool
    assert abs(mask.double().mean() - 0.75) < 0.03
    assert not torch.equal(mask, mask1)
    expected = mask * x.double() / 0.75 + mask1 * x1.double() / 0.75 + residual.double()
    assert_close(total, expected)
    assert_close(y, reference.norm(expected, weight.double()))
    _, _, mask, mask1 = layer_norm.rms_norm_fn(x, weight, None, prenorm=True, return_dropout_mask=True)
    assert mask is None
    assert mask1 is None


def test_rms_norm_module():
    norm = layer_norm.RMSNorm(24, eps=1e-5)
    assert list(norm.state_dict()) == ["weight"]
    x, residual = leaf(2, 24), leaf(2, 24)
    assert_close(norm(x), reference.norm(x.double(), norm.weight.double(), eps=1e-5))
    _, total = norm(x, residual, prenorm=True)
    assert_close(total, (x.double() + residual.double()))
    dropping = layer_norm.RMSNorm(24, dropout_p=0.5)
    assert not torch.equal(dropping(x), norm(x))
    assert torch.equal(dropping.eval()(x), norm(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rms", [True, False])
def test_rms_norm_forward(dtype, rms):
    """The norm of mamba_inner_fn's coefficients, by itself."""
    x, weight, bias = torch.randn(5, 9).to(dtype).t(), torch.randn(5), torch.randn(5)
    expected = reference.norm(x.double(), weight.double(), bias.double(), 1e-5, rms)
    assert_close(rms_norm_forward(x, weight, bias, 1e-5, rms), expected)


@pytest.mark.parametrize("prenorm", [False, True])
def test_layer_norm_linear(prenorm):
    x, residual, weight, bias = leaf(3, 16), leaf(3, 16), leaf(16), leaf(16)
    linear_weight, linear_bias = leaf(5, 16), leaf(5)
    given = [x, residual, weight, bias, linear_weight, linear_bias]
    wide = double(*given)
    out = layer_norm.layer_norm_linear_fn(
        x, weight, bias, linear_weight, linear_bias, residual, prenorm=prenorm
    )
    expected = reference.norm(wide[0] + wide[1], wide[2], wide[3], rms=False) @ wide[4].t() + wide[5]
    if prenorm:
        out, total = out
        assert_close(total, wide[0] + wide[1])
    assert_close(out, expected, 2)
    compare_gradients(out, given, expected, wide, 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rms", [True, False])
@pytest.mark.parametrize("group_size", [None, 8])
@pytest.mark.parametrize("gate", [None, True, False], ids=["no gate", "before gate", "after gate"])
def test_gated_norm(dtype, rms, group_size, gate):
    x, z, weight = leaf(2, 5, 24, dtype=dtype), leaf(2, 5, 24, dtype=dtype), leaf(24)
    bias = None if rms else leaf(24)
    given = [x, weight, bias, z if gate is not None else None]
    wide = double(*given)
    kwargs = {"eps": 1e-5, "group_size": group_size, "norm_before_gate": gate is not False}
    function = layernorm_gated.rmsnorm_fn if rms else layernorm_gated.layernorm_fn
    expected = reference.gated_norm(*wide, rms=rms, **kwargs)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            out = function(x, weight, bias, given[3], **kwargs)
        assert out.dtype == dtype
        assert_close(out, expected)
    compare_gradients(out, given, expected, wide, 2)


def test_gated_norm_modules():
    x, z = leaf(2, 24), leaf(2, 24)
    for cls, rms, names in [
        (layernorm_gated.RMSNorm, True, ["weight"]),
        (layernorm_gated.LayerNorm, False, ["weight", "bias"]),
    ]:
        norm = cls(24, group_size=6, norm_before_gate=False)
        assert list(norm.state_dict()) == names
        expected = reference.gated_norm(
            x.double(), norm.weight.double(), None, z.double(), 1e-5, 6, norm_before_gate=False, rms=rms
        )
        assert_close(norm(x, z), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_swiglu(dtype):
    xy = leaf(2, 5, 24, dtype=dtype)
    wide = double(xy)
    x, y = wide.chunk(2, dim=-1)
    out, expected = swiglu(xy), reference.silu(x) * y
    assert out.dtype == dtype
    assert_close(out, expected)
    compare_gradients(out, [xy], expected, [wide])


def test_gradcheck():
    x, residual, z, weight, bias = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in [(2, 8), (2, 8), (2, 8), (8,), (8,)]
    )
    for rms in (True, False):
        assert torch.autograd.gradcheck(
            lambda *a, rms=rms: layer_norm.layer_norm_fn(*a, prenorm=True, is_rms_norm=rms),
            (x, weight, bias, residual),
        )
        for before in (True, False):
            assert torch.autograd.gradcheck(
                lambda *a, rms=rms, before=before: layernorm_gated.layernorm_fn(
                    *a, group_size=4, norm_before_gate=before, is_rms_norm=rms
                ),
                (x, weight, bias, z),
            )
