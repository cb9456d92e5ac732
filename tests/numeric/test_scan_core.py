"""selective_scan_cuda_core and selective_scan_cuda_oflex, the modules that VMamba and Mamba-YOLO import."""

from __future__ import annotations

import pytest
import reference
import selective_scan_cuda_core
import selective_scan_cuda_oflex
import torch
from reference import assert_close, double

pytestmark = pytest.mark.usefixtures("path")


def arguments(dtype, D=True, delta_bias=True):
    """As VMamba makes them: four directions of eight channels each, B and C one group per direction."""
    u, delta = torch.randn(2, 32, 25).to(dtype), torch.rand(2, 32, 25).to(dtype)
    A = -torch.rand(32, 4) - 0.5
    B, C = torch.randn(2, 4, 4, 25).to(dtype), torch.randn(2, 4, 4, 25).to(dtype)
    return [u, delta, A, B, C, torch.randn(32) if D else None, torch.randn(32) if delta_bias else None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rest", [True, False])
def test_forward_and_backward(dtype, rest):
    given = arguments(dtype, D=rest, delta_bias=rest)
    wide = double(*given)
    expected, state = reference.selective_scan(*wide[:6], None, wide[6], delta_softplus=True)
    out, x, *_ = selective_scan_cuda_core.fwd(*given, True, 1)
    assert out.dtype == dtype
    assert_close(out, expected)
    assert_close(x[:, :, -1, 1::2], state)
    dout = torch.randn(out.shape).to(dtype)
    expected.backward(dout.double())
    grads = selective_scan_cuda_core.bwd(*given, dout, x, True, 1)
    assert len(grads) == 7
    for tensor, grad, reference_tensor in zip(given, grads, wide, strict=True):
        if tensor is None:
            assert grad is None
        else:
            assert grad.dtype == tensor.dtype
            assert_close(grad, reference_tensor.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("out_float", [True, False])
def test_output_in_float32(dtype, out_float):
    given = arguments(dtype)
    wide = double(*given)
    expected, state = reference.selective_scan(*wide[:6], None, wide[6], delta_softplus=True)
    out, x, *_ = selective_scan_cuda_oflex.fwd(*given, True, 1, out_float)
    assert out.dtype == (torch.float32 if out_float else dtype)
    assert_close(out, expected)
    assert_close(x[:, :, -1, 1::2], state)
    dout = torch.randn(out.shape).to(out.dtype)
    expected.backward(dout.double())
    grads = selective_scan_cuda_oflex.bwd(*given, dout, x, True, 1)
    for tensor, grad, reference_tensor in zip(given, grads, wide, strict=True):
        assert grad.dtype == tensor.dtype
        assert_close(grad, reference_tensor.grad)


def test_behind_an_autograd_function():
    """The shape of VMamba's own wrapper."""

    class Scan(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u, delta, A, B, C, D, delta_bias):
            out, x, *_ = selective_scan_cuda_core.fwd(u, delta, A, B, C, D, delta_bias, True, 1)
            ctx.save_for_backward(u, delta, A, B, C, D, delta_bias, x)
            return out

        @staticmethod
        def backward(ctx, dout):
            u, delta, A, B, C, D, delta_bias, x = ctx.saved_tensors
            return tuple(selective_scan_cuda_core.bwd(u, delta, A, B, C, D, delta_bias, dout, x, True, 1)[:7])

    given = [t.requires_grad_() for t in arguments(torch.float32)]
    wide = double(*given)
    expected, _ = reference.selective_scan(*wide[:6], None, wide[6], delta_softplus=True)
    reference.compare_gradients(Scan.apply(*given), given, expected, wide)


def test_what_is_refused():
    u, delta, A, B, C, D, bias = arguments(torch.float32)
    with pytest.raises(RuntimeError, match="B must have shape"):
        selective_scan_cuda_core.fwd(u, delta, A, B[:, 0], C, D, bias, True, 1)
    with pytest.raises(RuntimeError, match="real A"):
        selective_scan_cuda_core.fwd(u, delta, A.to(torch.complex64), B, C, D, bias, True, 1)
