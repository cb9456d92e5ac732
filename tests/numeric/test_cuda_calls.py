"""What causal_conv1d hands to its CUDA extension, with a stand-in for the extension on CPU tensors.

The stand-in computes in float64 and insists on what the real one insists on (csrc/causal_conv1d.cpp):
arguments by position, results into tensors that it is given, and their types and strides.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import reference
import torch
from causal_conv1d import cpp_functions, dispatch
from reference import assert_close, double


def convolution(x, weight, bias, initial_states, silu):
    return reference.causal_conv1d(
        x, weight, bias, initial_states=initial_states, activation="silu" if silu else None
    )


def differentiate(wide, silu, dout):
    result, _ = convolution(*wide, silu)
    result.backward(dout.double())


def channels_last(x):
    return x.stride(1) == 1 and x.stride(2) > 1


def check(x, weight, bias, seq_idx, states, *like):
    assert x.stride(2) == 1 or x.stride(1) == 1
    if channels_last(x):
        assert x.shape[1] % 8 == x.stride(2) % 8 == x.stride(0) % 8 == 0
    else:
        assert seq_idx is None
        assert states is None
    assert bias is None or (bias.dtype == weight.dtype and bias.stride(-1) == 1)
    for tensor in like:
        assert tensor.shape == x.shape
        assert tensor.dtype == x.dtype
        assert tensor.stride(1 if channels_last(x) else 2) == 1


class StandIn:
    calls = None

    @classmethod
    def causal_conv1d_fwd(
        cls, x, weight, bias, seq_idx, initial_states, out, final_states_out, silu_activation, /
    ):
        cls.calls.append("fwd")
        check(x, weight, bias, seq_idx, initial_states, out)
        assert isinstance(silu_activation, bool)
        result, states = convolution(*double(x, weight, bias, initial_states), silu_activation)
        out.copy_(result)
        if final_states_out is not None:
            assert final_states_out.stride(1) == 1
            final_states_out.copy_(states)

    @classmethod
    def causal_conv1d_bwd(
        cls, x, weight, bias, dout, seq_idx, initial_states, dfinal_states, dx, dweight, dbias,
        dinitial_states, silu_activation, /,
    ):  # fmt: skip
        cls.calls.append("bwd")
        check(x, weight, bias, seq_idx, initial_states, dx)
        assert isinstance(silu_activation, bool)
        assert dweight.dtype == torch.float32
        assert not dweight.any()
        wide = double(x, weight, bias, initial_states)
        with ThreadPoolExecutor(1) as pool:  # autograd is off in a custom operator, and in its thread
            pool.submit(differentiate, wide, silu_activation, dout).result()
        for given, tensor in zip((dx, dweight, dbias, dinitial_states), wide, strict=True):
            if given is not None:
                given.copy_(tensor.grad)


@pytest.fixture(autouse=True)
def extension(monkeypatch):
    monkeypatch.setattr(StandIn, "calls", [])
    monkeypatch.setattr(dispatch, "use_cuda", lambda x: True)
    monkeypatch.setattr(cpp_functions, "causal_conv1d_cuda", StandIn)
    return StandIn


def arguments(last):
    """x as mamba_ssm has it: a part of a wider tensor, channels first (Mamba) or last (Mamba2)."""
    batch, dim, seqlen, width = 2, 16, 12, 4
    if last:
        x = torch.randn(batch, seqlen, 3 * dim).transpose(1, 2)[:, dim : 2 * dim]
    else:
        x = torch.randn(batch, 2 * dim, seqlen)[:, :dim]
    return x, torch.randn(dim, width), torch.randn(dim)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_forward(extension, last, silu, biased):
    x, weight, bias = arguments(last)
    bias = bias if biased else None
    out = cpp_functions.causal_conv1d_fwd_function(x, weight, bias, None, None, None, silu)
    assert extension.calls == ["fwd"]
    assert_close(out, convolution(*double(x, weight, bias, None), silu)[0].detach())


def test_forward_with_states():
    x, weight, bias = arguments(True)
    initial, final = (torch.randn(2, 3, 16).transpose(1, 2) for _ in range(2))
    out = cpp_functions.causal_conv1d_fwd_function(x, weight, bias, None, initial, final, True)
    expected, states = convolution(*double(x, weight, bias, initial), True)
    assert_close(out, expected.detach())
    assert_close(final, states.detach())


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_backward_fills_the_dx_it_is_given(extension, last, biased):
    x, weight, bias = arguments(last)
    bias = bias if biased else None
    dout = torch.randn_like(x)
    wide = double(x, weight, bias, None)
    differentiate(wide, True, dout)
    whole = torch.full((2, 12, 48), 7.0).transpose(1, 2) if last else torch.full((2, 48, 12), 7.0)
    given = whole[:, 16:32]
    dx, dweight, dbias, dinitial = cpp_functions.causal_conv1d_bwd_function(
        x, weight, bias, dout, None, None, None, given, False, True
    )
    assert extension.calls == ["bwd"]
    assert dx.data_ptr() == given.data_ptr()
    assert_close(given, wide[0].grad)
    assert (whole[:, :16] == 7).all()
    assert (whole[:, 32:] == 7).all()
    assert_close(dweight, wide[1].grad)
    assert dinitial is None
    if biased:
        assert_close(dbias, wide[2].grad)
    else:
        assert dbias is None


def test_backward_makes_a_dx_where_none_is_given():
    x, weight, bias = arguments(False)
    dout = torch.randn_like(x)
    wide = double(x, weight, bias, None)
    differentiate(wide, False, dout)
    dx, *_ = cpp_functions.causal_conv1d_bwd_function(
        x, weight, bias, dout, None, None, None, None, False, False
    )
    assert_close(dx, wide[0].grad)
