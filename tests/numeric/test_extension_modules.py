"""selective_scan_cuda and causal_conv1d_cuda on CPU tensors, called as upstream's releases are."""

from __future__ import annotations

import subprocess
import sys

import causal_conv1d_cuda
import pytest
import reference
import selective_scan_cuda
import torch
from reference import assert_close, double

pytestmark = pytest.mark.usefixtures("path")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def scan_arguments(dtype, rest=True, gate=True, variable=True, dtype_a=torch.float32):
    batch, dim, dstate, length, groups = 2, 8, 4, 25, 2
    u, delta = torch.randn(batch, dim, length).to(dtype), torch.rand(batch, dim, length).to(dtype)
    A = -torch.rand(dim, dstate, dtype=dtype_a) - 0.5
    if variable:
        steps = length * (2 if A.is_complex() else 1)
        B, C = (torch.randn(batch, groups, dstate, steps).to(dtype) for _ in range(2))
    else:
        B, C = (torch.randn(dim, dstate, dtype=dtype_a) for _ in range(2))
    D, bias = (torch.randn(dim), torch.randn(dim)) if rest else (None, None)
    return [u, delta, A, B, C, D, torch.randn(batch, dim, length).to(dtype) if gate else None, bias]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gate", [True, False], ids=["gate", "no gate"])
@pytest.mark.parametrize("rest", [True, False], ids=["D and bias", "neither"])
@pytest.mark.parametrize("variable", [True, False], ids=["B and C over time", "constant"])
def test_scan(dtype, gate, rest, variable):
    given = scan_arguments(dtype, rest, gate, variable)
    wide = double(*given)
    expected, state = reference.selective_scan(*wide, delta_softplus=True)
    plain, _ = reference.selective_scan(*wide[:6], None, wide[7], delta_softplus=True)
    out, x, *gated = selective_scan_cuda.fwd(*given, True)
    assert_close(out, plain)
    assert_close(x[:, :, -1, 1::2], state)
    assert len(gated) == gate
    if gate:
        assert_close(gated[0], expected, loose=2)
    dout = torch.randn(out.shape).to(dtype)
    expected.backward(dout.double())
    du, ddelta, dA, dB, dC, dD, ddelta_bias, *others = selective_scan_cuda.bwd(
        *given, dout, x, out if gate else None, None, True, gate
    )
    assert len(others) == 2 * gate
    grads = [du, ddelta, dA, dB, dC, dD, others[0] if gate else None, ddelta_bias]
    for tensor, grad, wide_tensor in zip(given, grads, wide, strict=True):
        if tensor is None:
            assert grad is None
        else:
            assert grad.dtype == tensor.dtype
            assert_close(grad, wide_tensor.grad)
    if gate:
        assert_close(others[1], expected)


def test_scan_with_a_complex_a():
    given = scan_arguments(torch.float32, dtype_a=torch.complex64)
    wide = double(*given)
    expected, state = reference.selective_scan(*wide, delta_softplus=True)
    _out, x, gated = selective_scan_cuda.fwd(*given, True)
    assert_close(gated, expected)
    assert_close(x[:, :, -1, 1::2], state)


def test_the_gradient_of_the_gate_is_written_to_the_memory_that_is_given():
    given = scan_arguments(torch.float32)
    out, x, _gated = selective_scan_cuda.fwd(*given, True)
    both = torch.full((2, 16, 25), float("nan"))
    dz = both.chunk(2, dim=1)[1]
    result = selective_scan_cuda.bwd(*given, torch.ones_like(out), x, out, dz, True, False)
    assert len(result) == 8
    assert result[7].data_ptr() == dz.data_ptr()
    assert dz.isfinite().all()
    assert both[:, :8].isnan().all()


@pytest.mark.parametrize(
    ("place", "shape"),
    [(1, (2, 8, 24)), (2, (7, 4)), (3, (2, 3, 4, 25)), (3, (2, 4, 25)), (4, (2, 2, 5, 25)), (6, (2, 8, 1))],
)
def test_shapes_that_do_not_fit_are_refused(place, shape):
    given = scan_arguments(torch.float32)
    given[place] = torch.randn(shape)
    with pytest.raises(RuntimeError, match="shape"):
        selective_scan_cuda.fwd(*given, True)


def conv_arguments(dtype, bias=True):
    x, weight = torch.randn(2, 6, 11).to(dtype), torch.randn(6, 4).to(dtype)
    return x, weight, torch.randn(6).to(dtype) if bias else None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("given", [4, 5, 7, 8])
def test_convolution_of_each_release(dtype, bias, silu, given):
    x, weight, b = conv_arguments(dtype, bias)
    states = torch.randn(2, 6, 3).to(dtype) if given > 5 else None
    seq_idx = torch.tensor([[0] * 4 + [1] * 7] * 2, dtype=torch.int32) if given == 5 else None
    expected, last = reference.causal_conv1d(
        *double(x, weight, b), seq_idx, None if states is None else states.double(), "silu" if silu else None
    )
    final, out = torch.empty(2, 6, 3, dtype=dtype), torch.empty_like(x)
    words = {4: (), 5: (seq_idx,), 7: (None, states, final), 8: (None, states, out, final)}[given]
    result = causal_conv1d_cuda.causal_conv1d_fwd(x, weight, b, *words, silu)
    assert (result is None) == (given == 8)
    assert_close(out if given == 8 else result, expected)
    if given > 5:
        assert_close(final, last)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("given", [6, 7, 10, 12])
@pytest.mark.parametrize("memory", [True, False], ids=["dx given", "dx made"])
def test_gradients_of_each_release(dtype, silu, given, memory):
    if given == 12 and not memory:
        pytest.skip("1.6.0 takes memory for every gradient")
    x, weight, b = conv_arguments(dtype)
    states = torch.randn(2, 6, 3).to(dtype) if given > 7 else None
    wide = double(x, weight, b, states)
    expected, _ = reference.causal_conv1d(*wide[:3], None, wide[3], "silu" if silu else None)
    dout = torch.randn(x.shape).to(dtype)
    expected.backward(dout.double())
    dx = torch.empty_like(x) if memory else None
    if given == 12:
        dw, db, ds = torch.zeros_like(weight, dtype=torch.float32), torch.zeros(6), torch.empty_like(states)
        words = (x, weight, b, dout, None, states, None, dx, dw, db, ds, silu)
        assert causal_conv1d_cuda.causal_conv1d_bwd(*words) is None
        grads = [dx, dw.to(dtype), db.to(dtype), ds]
    else:
        words = {6: (dx,), 7: (None, dx), 10: (None, states, None, dx, True)}[given]
        grads = causal_conv1d_cuda.causal_conv1d_bwd(x, weight, b, dout, *words, silu)
        assert len(grads) == (4 if given == 10 else 3)
        assert not memory or grads[0].data_ptr() == dx.data_ptr()
    for grad, wide_tensor in zip(grads, wide, strict=False):
        assert_close(grad, wide_tensor.grad)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("given", [5, 6, 7, 8])
@pytest.mark.parametrize("flat", [True, False], ids=["one step", "steps"])
def test_update_of_each_release(dtype, silu, given, flat):
    x, weight, b = conv_arguments(dtype)
    x = x[..., :1] if flat else x[..., :3]
    state = torch.randn(2, 6, 3).to(dtype)
    expected, last = reference.causal_conv1d(
        *double(x, weight, b), None, state.double(), "silu" if silu else None
    )
    step = x.squeeze(-1) if flat else x
    out = torch.empty_like(step)
    before = [step, state, weight, b]
    words = {5: (silu,), 6: (silu, None), 7: (silu, None, None), 8: (out, silu, None, None)}[given]
    result = causal_conv1d_cuda.causal_conv1d_update(*before, *words)
    assert (result is None) == (given == 8)
    assert_close(out if given == 8 else result, expected.squeeze(-1) if flat else expected)
    assert_close(state, last)


@pytest.mark.parametrize(("name", "count"), [("fwd", 6), ("bwd", 8), ("update", 9)])
def test_a_number_of_arguments_that_no_release_takes(name, count):
    with pytest.raises(TypeError, match=f"takes .* arguments in its releases, and was given {count}"):
        getattr(causal_conv1d_cuda, f"causal_conv1d_{name}")(*[None] * count)


def test_neither_module_is_taken_for_cuda_code():
    if selective_scan_cuda.HAS_CUDA or causal_conv1d_cuda.HAS_CUDA:
        pytest.skip("these are CUDA wheels")
    import causal_conv1d.dispatch
    import mamba_ssm.ops.cuda_extension

    assert not mamba_ssm.ops.cuda_extension.selective_scan_cuda
    assert causal_conv1d.dispatch.causal_conv1d_cuda is None


def test_both_work_where_another_repositorys_packages_come_first(path, tmp_path):
    """Vim and its descendants carry a mamba_ssm and a causal_conv1d; they import the extensions by name."""
    for name in ("mamba_ssm", "causal_conv1d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("import selective_scan_cuda, causal_conv1d_cuda\n")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import torch, causal_conv1d, mamba_ssm
assert mamba_ssm.__file__.startswith({str(tmp_path)!r})
x = torch.randn(1, 4, 9)
y = mamba_ssm.causal_conv1d_cuda.causal_conv1d_fwd(x, torch.randn(4, 3), None, True)
out, state = mamba_ssm.selective_scan_cuda.fwd(
    y, x.abs(), -torch.rand(4, 2), torch.randn(1, 1, 2, 9), torch.randn(1, 1, 2, 9), None, None, None, True)
assert out.shape == x.shape and out.isfinite().all()
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
