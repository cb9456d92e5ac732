"""Functions and modules on the GPU, forward and backward, against float64 on the CPU."""

from __future__ import annotations

import importlib

import pytest
import reference
import torch
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from mamba_ssm import Mamba, Mamba2
from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn, selective_scan_fn
from mamba_ssm.ops.triton.layer_norm import layer_norm_fn
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Of the largest value. Kernels compute in float32 and use fast exponentials; triton multiplies as TF32.
FORWARD = {torch.float32: 2e-5, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}
BACKWARD = {torch.float32: 2e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}
TF32 = {**BACKWARD, torch.float32: 5e-3}


def draw(device, dtype, *shape):
    return torch.randn(*shape).to(device, dtype).requires_grad_()


def exact(tensors):
    """The same values as float64 leaves on the CPU."""
    return [None if t is None else t.detach().cpu().double().requires_grad_() for t in tensors]


def check(out, want, bound):
    assert out.shape == want.shape
    got, want = out.detach().cpu().double(), want.detach()
    assert got.isfinite().all()
    assert ((got - want).abs().max() / want.abs().max().clamp_min(1e-6)).item() < bound


def check_gradients(out, tensors, want, wide, bound):
    weight = torch.randn(out.shape)
    grads = torch.autograd.grad(out, [t for t in tensors if t is not None], weight.to(out.device, out.dtype))
    wants = torch.autograd.grad(want, [t for t in wide if t is not None], weight.to(out.dtype).double())
    for grad, wanted in zip(grads, wants, strict=True):
        check(grad, wanted, bound)


def test_the_extensions_are_there_and_torch_uses_the_gpu(device):
    if device == "cpu":
        pytest.skip("asked to run on the CPU")
    for name in ("causal_conv1d_cuda", "selective_scan_cuda"):
        assert importlib.import_module(name).HAS_CUDA


def test_a_gpu_tensor_goes_through_the_extension(device, monkeypatch):
    if device == "cpu":
        pytest.skip("asked to run on the CPU")
    import selective_scan_cuda

    calls = []
    real = selective_scan_cuda.fwd
    monkeypatch.setattr(selective_scan_cuda, "fwd", lambda *words: calls.append(1) or real(*words))
    u, delta = (torch.randn(1, 8, 16, device=device) for _ in range(2))
    A, B, C = (torch.randn(8, 4, device=device) for _ in range(3))
    selective_scan_fn(u, delta, -A.abs(), B, C)
    assert calls
    selective_scan_fn(*(t.cpu() for t in (u, delta, -A.abs(), B, C)))
    assert len(calls) == 1  # a CPU tensor took the CPU's path, in the same process


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("channel_last", [False, True])
def test_causal_conv1d(device, dtype, width, activation, channel_last):
    x = draw(device, dtype, 2, 32, 64)
    if channel_last:
        x = draw(device, dtype, 2, 64, 32).detach().transpose(1, 2).requires_grad_()
    tensors = [x, draw(device, torch.float32, 32, width), draw(device, torch.float32, 32)]
    wide = exact(tensors)
    out = causal_conv1d_fn(*tensors, activation=activation)
    want, _ = reference.causal_conv1d(*wide, activation=activation)
    check(out, want, FORWARD[dtype])
    check_gradients(out, tensors, want, wide, BACKWARD[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_causal_conv1d_update(device, dtype):
    x, weight, bias = (t.detach() for t in (draw(device, dtype, 2, 32, 10), *(
        draw(device, torch.float32, *shape) for shape in ((32, 4), (32,)))))  # fmt: skip
    state = torch.zeros(2, 32, 4, device=device, dtype=dtype)
    out = torch.stack([causal_conv1d_update(x[..., t], state, weight, bias, "silu") for t in range(10)], -1)
    want, _ = reference.causal_conv1d(*exact([x, weight, bias]), activation="silu")
    check(out, want, FORWARD[dtype])
    assert torch.equal(state, x[..., 6:])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", [None, "silu"])
def test_packed_causal_conv1d_with_padding(device, dtype, activation):
    """The incoming gradient at padding reaches nothing: there, the result is 0."""
    rows = [[0] * 5 + [1] + [2] * 290 + [-1] * 4, [3] * 2 + [4] * 298, [-1] * 2 + [5] * 298]
    rows[1][62:67] = rows[1][126:131] = [-1] * 5  # around the ends of blocks of 64 and of 128 steps
    seq_idx = torch.tensor(rows, dtype=torch.int32, device=device)
    x = draw(device, dtype, 3, 300, 32).detach().transpose(1, 2).requires_grad_()
    tensors = [x, draw(device, torch.float32, 32, 4), draw(device, torch.float32, 32)]
    wide = exact(tensors)
    out = causal_conv1d_fn(*tensors, seq_idx=seq_idx, activation=activation)
    want, _ = reference.causal_conv1d(*wide, seq_idx=seq_idx.cpu(), activation=activation)
    check(out, want, FORWARD[dtype])
    check_gradients(out, tensors, want, wide, BACKWARD[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seqlen", [64, 128, 1000])
@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("gated", [False, True])
def test_selective_scan(device, dtype, seqlen, groups, gated):
    if device == "cpu" and seqlen > 500:
        pytest.skip("the reference steps through time; on a CPU the short ones will do")
    dim, state = 8, 16
    shape = (2, state, seqlen) if groups is None else (2, groups, state, seqlen)
    u, delta = draw(device, dtype, 2, dim, seqlen), draw(device, dtype, 2, dim, seqlen)
    A = (-0.5 * torch.rand(dim, state)).to(device).requires_grad_()
    B, C = draw(device, dtype, *shape), draw(device, dtype, *shape)
    D = draw(device, torch.float32, dim)
    z = draw(device, dtype, 2, dim, seqlen) if gated else None
    bias = (0.5 * torch.rand(dim)).to(device).requires_grad_()
    tensors = [u, delta, A, B, C, D, z, bias]
    wide = exact(tensors)
    out, last = selective_scan_fn(*tensors, delta_softplus=True, return_last_state=True)
    want, want_last = reference.selective_scan(*wide, True)
    check(out, want, FORWARD[dtype])
    check(last, want_last, BACKWARD[dtype])
    check_gradients(out, tensors, want, wide, 2 * BACKWARD[dtype])


@pytest.mark.parametrize("seqlen", [70, 2100])
@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize(
    ("groups_of_b", "groups_of_c"), [(None, None), (None, 2), (2, None), (None, 1), (2, 2)], ids=str
)
def test_forms_of_b_and_c(device, is_complex, groups_of_b, groups_of_c, seqlen):
    """None: constant in time, of the channel; a complex one has its real and imaginary parts in turns."""
    dim, state = 8, 4

    if device == "cpu" and seqlen > 500:
        pytest.skip("the reference steps through time; on a CPU the short ones will do")

    def part(groups):
        if groups is None:
            form = torch.randn(dim, state, 2)
            return (torch.view_as_complex(form) if is_complex else form[..., 0].clone()).to(device)
        return torch.randn(2, groups, state, seqlen * (2 if is_complex else 1)).to(device)

    A = -0.5 * torch.rand(dim, state)
    A = (torch.complex(A, torch.randn(dim, state)) if is_complex else A).to(device)
    u, delta = (draw(device, torch.float32, 2, dim, seqlen) for _ in range(2))
    B, C = part(groups_of_b), part(groups_of_c)
    D, bias = draw(device, torch.float32, dim), (0.5 * torch.rand(dim)).to(device)
    tensors = [u, delta, A, B, C, D, None, bias]
    for t in (A, B, C, bias):
        t.requires_grad_()
    wide = [
        None if t is None
        else t.detach().cpu().to(torch.complex128 if t.is_complex() else torch.float64).requires_grad_()
        for t in tensors
    ]  # fmt: skip
    out = selective_scan_fn(*tensors, delta_softplus=True)
    want, _ = reference.selective_scan(*wide, True)
    check(out, want, FORWARD[torch.float32])
    weight = torch.randn(out.shape)
    given, wanted = ([t for t in row if t is not None] for row in (tensors, wide))
    grads = torch.autograd.grad(out, given, weight.to(device))
    for grad, right in zip(grads, torch.autograd.grad(want, wanted, weight.double()), strict=True):
        pair = (grad, right)
        if grad.is_complex():
            pair = (torch.view_as_real(t.resolve_conj()) for t in pair)
        check(*pair, 2 * BACKWARD[torch.float32])


def test_groups_that_do_not_divide_the_channels_are_refused(device):
    u = torch.randn(1, 5, 8, device=device)
    B = torch.randn(1, 2, 4, 8, device=device)
    A = -torch.rand(5, 4, device=device)
    with pytest.raises((RuntimeError, ValueError)):
        selective_scan_fn(u, u, A, B, B)
    with pytest.raises((RuntimeError, ValueError)):
        selective_scan_fn(u, u, A, torch.randn(5, 4, device=device), B)


def test_a_change_of_a_state_counts_for_autograd(device):
    """A gradient that needs the state as it was is an error, and not a wrong number."""
    state = torch.randn(1, 8, 4, device=device, requires_grad=True)
    own = state * 1
    product = own.square().sum()
    with torch.no_grad():
        causal_conv1d_update(torch.randn(1, 8, device=device), own, torch.randn(8, 4, device=device))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("kind", ["mamba", "mamba-v2", "mamba2"])
def test_an_empty_sequence(device, kind):
    if kind == "mamba2":
        module = Mamba2(d_model=64, d_state=16, headdim=16, chunk_size=16, layer_idx=0)
    else:
        module = Mamba(d_model=64, layer_idx=0, bimamba_type="v2" if kind == "mamba-v2" else "none")
    module = module.to(device)
    out = module(torch.randn(2, 0, 64, device=device))
    assert out.shape == (2, 0, 64)
    out.sum().backward()
    assert not any(p.grad.any() for p in module.parameters() if p.grad is not None)


def test_selective_scan_core_as_mamba_yolo_calls_it(device):
    core = pytest.importorskip("selective_scan_cuda_core")
    length, dim = 32 * 32, 4 * 64
    u, delta = draw(device, torch.float32, 2, dim, length), draw(device, torch.float32, 2, dim, length)
    A = (-torch.rand(dim, 16) - 0.1).to(device).requires_grad_()
    B, C = (draw(device, torch.float32, 2, 4, 16, length) for _ in range(2))
    D, bias = draw(device, torch.float32, dim), draw(device, torch.float32, dim)
    tensors = [u, delta, A, B, C, D, bias]
    wide = exact(tensors)
    plain = [t.detach() for t in tensors]
    out, saved, *_ = core.fwd(*plain, True, 1)
    u_, delta_, A_, B_, C_, D_, bias_ = wide
    want, _ = reference.selective_scan(u_, delta_, A_, B_, C_, D_, None, bias_, True)
    check(out, want, FORWARD[torch.float32])
    weight = torch.randn(out.shape)
    grads = core.bwd(*plain, weight.to(device), saved, True, 1)
    for grad, wanted in zip(grads, torch.autograd.grad(want, wide, weight.double()), strict=False):
        check(grad, wanted, BACKWARD[torch.float32])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mamba_inner(device, dtype):
    rank, dim, state = 2, 32, 8
    xz = draw(device, dtype, 2, 2 * dim, 40)
    conv, conv_bias = draw(device, torch.float32, dim, 1, 4), draw(device, torch.float32, dim)
    x_proj, dt_proj, out_proj = (
        (0.3 * torch.randn(*shape)).to(device, dtype).requires_grad_()
        for shape in ((rank + 2 * state, dim), (dim, rank), (16, dim))
    )
    A = (-torch.rand(dim, state) - 0.1).to(device).requires_grad_()
    D, bias = draw(device, torch.float32, dim), draw(device, torch.float32, dim)
    tensors = [xz, conv, conv_bias, x_proj, dt_proj, out_proj, A, D, bias]
    wide = exact(tensors)
    out = mamba_inner_fn(
        xz, conv, conv_bias, x_proj, dt_proj, out_proj, None, A, None, None, D, delta_bias=bias,
        delta_softplus=True,
    )  # fmt: skip
    xz_, conv_, conv_bias_, x_proj_, dt_proj_, out_proj_, A_, D_, bias_ = wide
    x, z = xz_.chunk(2, dim=1)
    x, _ = reference.causal_conv1d(x, conv_[:, 0], conv_bias_, activation="silu")
    projected = torch.einsum("bdl,pd->blp", x, x_proj_)
    dt = torch.einsum("blr,dr->bdl", projected[..., :rank], dt_proj_)
    B, C = (part.transpose(1, 2) for part in projected[..., rank:].split(state, dim=-1))
    y, _ = reference.selective_scan(x, dt, A_, B, C, D_, z, bias_, True)
    want = torch.einsum("bdl,od->blo", y, out_proj_)
    check(out, want, 3 * FORWARD[dtype])
    check_gradients(out, tensors, want, wide, 5 * BACKWARD[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_selective_state_update(device, dtype):
    state = draw(device, torch.float32, 2, 32, 16).detach()
    x, dt, z = (draw(device, dtype, 2, 32).detach() for _ in range(3))
    A = (-torch.rand(32, 16)).to(device)
    B, C = (draw(device, dtype, 2, 16).detach() for _ in range(2))
    D, bias = (draw(device, torch.float32, 32).detach() for _ in range(2))
    state_, x_, dt_, z_, A_, B_, C_, D_, bias_ = exact([state, x, dt, z, A, B, C, D, bias])
    step = reference.softplus(dt_ + bias_)[..., None]
    after = torch.exp(step * A_) * state_ + step * B_[:, None] * x_[..., None]
    want = ((after * C_[:, None]).sum(-1) + D_ * x_) * reference.silu(z_)
    out = selective_state_update(state, x, dt, A, B, C, D=D, z=z, dt_bias=bias, dt_softplus=True)
    check(out, want, FORWARD[dtype])
    check(state, after, FORWARD[dtype])


@pytest.mark.parametrize("index", [torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize("rest", [True, False])
@pytest.mark.parametrize(("heads", "groups"), [(4, 1), (4, 2), (4, 4)])
def test_selective_state_update_of_chosen_states(device, heads, groups, rest, index):
    """-1 in state_batch_indices is padding, whose result is 0. D, z and the bias are optional."""
    state = torch.randn(6, heads, 6, 5, device=device)
    x, dt, z = (torch.randn(3, heads, 6, device=device) for _ in range(3))
    B, C = (torch.randn(3, groups, 5, device=device) for _ in range(2))
    A, D, bias = -torch.rand(heads, 6, 5, device=device), *torch.randn(2, heads, 6, device=device)
    if not rest:
        D = z = bias = None
    before = state.clone()
    indices = torch.tensor([5, -1, 2], dtype=index, device=device)
    out = selective_state_update(state, x, dt, A, B, C, D, z, bias, True, indices)
    assert not out[1].any()
    for row, place in ((0, 5), (2, 2)):
        h, x_, dt_, B_, C_ = (t.cpu().double() for t in (before[place], x[row], dt[row], B[row], C[row]))
        B_, C_ = (t.repeat_interleave(heads // groups, 0) for t in (B_, C_))
        step = reference.softplus(dt_ if bias is None else dt_ + bias.cpu().double())[..., None]
        h = torch.exp(step * A.cpu().double()) * h + step * B_[:, None] * x_[..., None]
        want = (h * C_[:, None]).sum(-1)
        if rest:
            want = (want + D.cpu().double() * x_) * reference.silu(z[row].cpu().double())
        check(out[row], want, FORWARD[torch.float32])
        check(state[place], h, FORWARD[torch.float32])
    assert torch.equal(state[[0, 1, 3, 4]], before[[0, 1, 3, 4]])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_chunk_scan(device, dtype):
    x, dt = draw(device, dtype, 2, 100, 4, 32), draw(device, dtype, 2, 100, 4)
    A = (-torch.rand(4) - 0.1).to(device).requires_grad_()
    B, C = (draw(device, dtype, 2, 100, 1, 32) for _ in range(2))
    D, bias = draw(device, torch.float32, 4), draw(device, torch.float32, 4)
    tensors = [x, dt, A, B, C, D, bias]
    wide = exact(tensors)
    out = mamba_chunk_scan_combined(x, dt, A, B, C, 32, D=D, dt_bias=bias, dt_softplus=True)
    x_, dt_, A_, B_, C_, D_, bias_ = wide
    want, _ = reference.ssd(x_, dt_, A_, B_, C_, D_, dt_bias=bias_, dt_softplus=True)
    check(out, want, TF32[dtype])
    check_gradients(out, tensors, want, wide, 3 * TF32[dtype])


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norm_with_residual(device, dtype, rms):
    x, residual = draw(device, dtype, 2, 40, 64), draw(device, torch.float32, 2, 40, 64)
    weight = draw(device, torch.float32, 64)
    tensors = [x, residual, weight]
    x_, residual_, weight_ = wide = exact(tensors)
    out, total = layer_norm_fn(
        x, weight, None, residual=residual, eps=1e-6, prenorm=True, residual_in_fp32=True, is_rms_norm=rms
    )
    want = reference.norm(x_ + residual_, weight_, None, 1e-6, rms)
    check(out, want, FORWARD[dtype])
    check(total, x_ + residual_, FORWARD[torch.float32])
    check_gradients(out, tensors, want, wide, BACKWARD[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["mamba", "mamba-v2", "mamba2"])
def test_modules(device, dtype, kind):
    if kind == "mamba2":
        module = Mamba2(d_model=64, d_state=16, headdim=16, chunk_size=16, layer_idx=0)
    else:
        module = Mamba(d_model=64, layer_idx=0, bimamba_type="v2" if kind == "mamba-v2" else "none")
    module = module.to(device, dtype)
    hidden = draw(device, dtype, 2, 32, 64)
    wide = hidden.detach().cpu().double().requires_grad_()
    parameters = {name: value.cpu() for name, value in reference.parameters(module).items()}
    if kind == "mamba2":
        want = reference.mamba2(wide, parameters, headdim=16)
    else:
        want = (reference.bimamba_v2 if kind == "mamba-v2" else reference.mamba)(wide, parameters)
    out = module(hidden)
    bound = TF32 if kind == "mamba2" else FORWARD
    check(out, want, 3 * bound[dtype])
    check_gradients(out, [hidden], want, [wide], 3 * TF32[dtype])
