"""Tensors that are more than their memory: operators give what they give for plain copies, or say why not."""

from __future__ import annotations

import pytest
import torch
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn, selective_scan_fn
from mamba_ssm.ops.triton.layer_norm import layer_norm_fn, layer_norm_linear_fn, rms_norm_fn
from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_map

B, D, L, N, W = 2, 8, 6, 4, 4


def conv(x, weight, bias):
    return causal_conv1d_fn(x, weight, bias, activation="silu")


def conv_states(x, weight, bias, before):
    return causal_conv1d_fn(x, weight, bias, initial_states=before, return_final_states=True)


def update(x, state, weight, bias):
    return causal_conv1d_update(x, state, weight, bias, "silu"), state


def scan(u, delta, A, B, C, D, z, bias):
    return selective_scan_fn(u, delta, -A.abs(), B, C, D, z, bias, True, True)


def inner(xz, conv_weight, conv_bias, x_proj, dt_proj, out_proj, A, D, bias):
    return mamba_inner_fn(
        xz, conv_weight, conv_bias, x_proj, dt_proj, out_proj, None, -A.abs(), None, None, D, delta_bias=bias
    )


def state_update(x, state, dt, A, B, C, D, z, bias):
    return selective_state_update(state, x, dt, -A.abs(), B, C, D, z, bias, True), state


def chunk_scan(x, dt, A, B, C, D, z, bias, before):
    return mamba_chunk_scan_combined(
        x, dt, -A.abs(), B, C, 4, D, z, bias, before, dt_softplus=True, return_final_states=True
    )


def split_scan(zxbcdt, weight, bias, dt_bias, A, D, norm_weight, out_proj):
    return mamba_split_conv1d_scan_combined(
        zxbcdt, weight, bias, dt_bias, -A.abs(), D, 4, rmsnorm_weight=norm_weight, outproj_weight=out_proj,
        headdim=4, ngroups=1,
    )  # fmt: skip


def norm(x, weight, bias, residual):
    return layer_norm_fn(x, weight, bias, residual=residual, prenorm=True)


def gated_norm(x, weight, z):
    return rmsnorm_fn(x, weight, None, z=z, norm_before_gate=False)


def norm_linear(x, weight, bias, linear):
    return layer_norm_linear_fn(x, weight, bias, linear, None)


# Each function with the shapes of its tensors; "state" is written to.
PUBLIC = {
    conv: [(B, D, L), (D, W), (D,)],
    conv_states: [(B, D, L), (D, W), (D,), (B, D, W - 1)],
    update: [(B, D), (B, D, W), (D, W), (D,)],
    scan: [(B, D, L), (B, D, L), (D, N), (B, N, L), (B, N, L), (D,), (B, D, L), (D,)],
    inner: [(B, 2 * D, L), (D, 1, W), (D,), (3 + 2 * N, D), (D, 3), (5, D), (D, N), (D,), (D,)],
    state_update: [(B, D), (B, D, N), (B, D), (D, N), (B, N), (B, N), (D,), (B, D), (D,)],
    chunk_scan: [
        (B, L, 2, 4), (B, L, 2), (2,), (B, L, 1, N), (B, L, 1, N), (2,), (B, L, 2, 4), (2,), (B, 2, 4, N),
    ],
    split_scan: [(B, L, 16 + 2 * N + 2), (8 + 2 * N, W), (8 + 2 * N,), (2,), (2,), (2,), (8,), (5, 8)],
    norm: [(B, L, D), (D,), (D,), (B, L, D)],
    gated_norm: [(B, L, D), (D,), (B, L, D)],
    norm_linear: [(B, L, D), (D,), (D,), (5, D)],
    rms_norm_fn: [(B, L, D), (D,), (D,)],
}  # fmt: skip


def direct_step(x, conv_state, ssm_state, *parameters):
    import selective_scan_cpu

    return selective_scan_cpu.mamba_step(x, conv_state, ssm_state, *parameters), conv_state, ssm_state


def operator(name, *rest, package="selective_scan_cpu"):
    """An operator as torch.ops has it, its results followed by its second tensor, which may be its state."""

    def call(*tensors):
        return getattr(getattr(torch.ops, package), name)(*tensors, *rest), tensors[1]

    call.__name__ = f"ops.{name}"
    return call


def conv_operator(x, weight, bias):
    return torch.ops.causal_conv1d_cpu.conv(x, weight, bias, None, None, False, True, False)[0]


def conv_backward_operator(grad, x, weight):
    return torch.ops.causal_conv1d_cpu.conv_backward(grad, None, x, weight, None, None, None, True, False)[:2]


def scan_operator(u, delta, A, B, C):
    return torch.ops.selective_scan_cpu.scan(u, delta, A, B, C, None, None, None, True, True, False)


def scan_backward_operator(grad, u, delta, A, B, C):
    ops = torch.ops.selective_scan_cpu
    return ops.scan_backward(grad, u, delta, A, B, C, None, None, None, True, False)[:5]


def norm_operator(x, weight, bias, residual, z):
    return torch.ops.selective_scan_cpu.norm(x, weight, bias, residual, z, 1e-5, D, 1, True, torch.float32)


def projected_operator(u, projected, delta_weight, A, D, z, bias, onto):
    ops = torch.ops.selective_scan_cpu
    return ops.projected_scan(u, projected, delta_weight, A, D, z, bias, True, onto, 0.5, False)


def direct_projected(u, projected, delta_weight, A, D, z, bias, onto):
    import selective_scan_cpu

    return selective_scan_cpu.projected_scan(u, projected, delta_weight, A, D, z, bias, True, onto, 0.5)


STEP = [
    (1, 1, 5), (1, D, W), (1, D, N), (2 * D, 5), (2 * D,), (D, 1, W), (D,), (3 + 2 * N, D), (D, 3), (D,),
    (D, N), (D,), (5, D), (5,),
]  # fmt: skip
PROJECTED = [(B, D, L), (B, 3 + 2 * N, L), (D, 3), (D, N), (D,), (B, D, L), (D,), (B, D, L)]
update_operator = operator("update", None, None, True, package="causal_conv1d_cpu")
step_operator = operator("mamba_step")
KERNELS = {
    conv_operator: PUBLIC[conv],
    conv_backward_operator: [(B, D, L), (B, D, L), (D, W)],
    update_operator: PUBLIC[update],
    scan_operator: PUBLIC[scan][:5],
    scan_backward_operator: [(B, D, L), *PUBLIC[scan][:5]],
    projected_operator: PROJECTED,
    direct_projected: PROJECTED,
    norm_operator: [(B, L, D), (D,), (D,), (B, L, D), (B, L, D)],
    operator("linear"): [(1, D), (5, D), (5,)],
    step_operator: STEP,
    direct_step: STEP,
}
# Where a function writes to its arguments, the positions of these.
STATES = {
    update: (1,),
    state_update: (1,),
    update_operator: (1,),
    step_operator: (1, 2),
    direct_step: (1, 2),
    direct_projected: (7,),
}
ALL = {**PUBLIC, **KERNELS}


@pytest.fixture(params=list(ALL), ids=lambda f: f.__name__)
def function(request, path):
    if request.param in KERNELS and path == "pytorch":
        pytest.skip("kernels alone")
    if request.param in KERNELS:
        import causal_conv1d_cpu  # noqa: F401
        import selective_scan_cpu  # noqa: F401
    return request.param


def tensors_for(function):
    return [0.5 * torch.randn(shape) for shape in ALL[function]]


def materialised(tensors):
    return [t.detach().resolve_neg().clone(memory_format=torch.contiguous_format) for t in tensors]


def results_of(function, tensors):
    out = function(*tensors)
    return [t for t in (out if isinstance(out, tuple) else (out,)) if t.numel()]


def close(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.Tensor(a.detach().resolve_neg()), b.detach(), rtol=1e-5, atol=1e-5)


class Halved(torch.Tensor):
    """A tensor whose memory holds half of its numbers; PyTorch's functions know."""

    @staticmethod
    def __new__(cls, tensor):
        return torch.Tensor._make_subclass(cls, tensor / 2, tensor.requires_grad)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        def whole(t):
            return torch.Tensor._make_subclass(torch.Tensor, t.detach_()) * 2 if isinstance(t, cls) else t

        if func.namespace != "aten":
            raise NotImplementedError(f"{func} is not known to {cls.__name__}")
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.Python)):
            return func(*tree_map(whole, args), **tree_map(whole, kwargs or {}))


def in_inference_mode(t):
    with torch.inference_mode():
        return t.clone()


KINDS = {
    "neg": lambda t: torch._neg_view(-t),
    "imag": lambda t: torch.complex(t, -t).conj().imag,
    "expanded": lambda t: t[:1].expand_as(t),
    "constant": lambda t: t.flatten()[:1].squeeze().expand(t.shape),
    "strided": lambda t: t.mT.contiguous().mT if t.dim() > 1 else torch.stack([t, -t], -1)[..., 0],
    "inference": in_inference_mode,
    "parameter": lambda t: torch.nn.Parameter(t, requires_grad=False),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_as_for_plain_copies(function, kind, grad):
    wrap, written = KINDS[kind], STATES.get(function, ())
    inputs = tensors_for(function)
    for position in [*range(len(inputs)), None]:
        odd = [
            wrap(t)
            if position in (i, None) and not (kind in ("expanded", "constant") and i in written)
            else t.clone()
            for i, t in enumerate(inputs)
        ]
        plain = materialised(odd)
        if kind == "inference" and grad and any(position in (i, None) for i in written):
            continue  # PyTorch refuses to write to such a tensor outside of inference mode
        with torch.set_grad_enabled(grad), torch.inference_mode(kind == "inference" and not grad):
            close(results_of(function, odd), results_of(function, plain))


@pytest.mark.parametrize("kind", ["neg", "imag", "expanded", "constant", "strided"])
def test_gradients_through_them(path, kind):
    for function in PUBLIC:
        inputs = [t.requires_grad_() for t in tensors_for(function)]
        written = STATES.get(function, ())
        if written:
            continue
        odd = [KINDS[kind](t) for t in inputs]
        plain = [t.requires_grad_() for t in materialised(odd)]
        weights = [
            torch.complex(t, -t).conj().imag for t in map(torch.randn_like, results_of(function, plain)[:1])
        ]
        found = torch.autograd.grad(results_of(function, odd)[0], odd, weights)
        expected = torch.autograd.grad(results_of(function, plain)[0], plain, materialised(weights))
        close(found, expected)


def test_a_subclass_is_asked_for_its_numbers(function):
    inputs, written = tensors_for(function), STATES.get(function, ())
    for position in [i for i in range(len(inputs)) if i not in written]:
        odd = [Halved(t) if i == position else t.clone() for i, t in enumerate(inputs)]
        with torch.no_grad():
            if function in KERNELS:
                with pytest.raises((NotImplementedError, TypeError)):
                    function(*odd)
            else:
                close(results_of(function, odd), results_of(function, materialised(inputs)))


def attempt(call):
    """The results of a call without gradients, or None and why it was refused."""
    try:
        with torch.no_grad():
            return call(), ""
    except RuntimeError as error:
        return None, str(error)


def test_zeros_without_memory(function):
    inputs, written = tensors_for(function), STATES.get(function, ())
    for position in [i for i in range(len(inputs)) if i not in written]:
        zeros = torch._efficientzerotensor(inputs[position].shape)
        odd = [zeros if i == position else t.clone() for i, t in enumerate(inputs)]
        plain = [torch.zeros_like(t) if i == position else t.clone() for i, t in enumerate(inputs)]
        found, reason = attempt(lambda odd=odd: results_of(function, odd))
        if found is None:
            assert "memory" in reason or "ZeroTensor" in reason, reason
        else:
            close(found, results_of(function, plain))


def test_functionalized(function):
    inputs = tensors_for(function)
    run = torch.func.functionalize(lambda *args: results_of(function, args))
    found, reason = attempt(lambda: run(*[t.clone() for t in inputs]))
    if found is None:
        assert function in KERNELS
        assert "memory" in reason or "alias annotations" in reason, reason
    else:
        close(found, results_of(function, materialised(inputs)))


def test_mapped(function):
    inputs = [torch.stack([t, -t]) for t in tensors_for(function)]
    run = torch.func.vmap(lambda *args: tuple(results_of(function, args)))
    found, reason = attempt(lambda: run(*[t.clone() for t in inputs]))
    if found is None:
        assert function in KERNELS
        assert any(word in reason for word in ("memory", "storage", "Batching rule")), reason
        return
    for i in range(2):
        close([t[i] for t in found], results_of(function, materialised([t[i] for t in inputs])))


def test_without_numbers(function):
    """On meta, and as torch's fake tensors, results have the shapes that they should have."""
    inputs = tensors_for(function)
    shapes = [t.shape for t in results_of(function, materialised(inputs))]
    with torch.no_grad():
        found = results_of(function, [t.to("meta") for t in inputs]) if function not in KERNELS else None
        assert found is None or [t.shape for t in found] == shapes
        with FakeTensorMode() as mode:
            found = results_of(function, [mode.from_tensor(t) for t in inputs])
        assert [t.shape for t in found] == shapes
        if function in KERNELS:
            with pytest.raises((RuntimeError, NotImplementedError), match=r"meta|memory"):
                function(inputs[0], *[t.to("meta") for t in inputs[1:]])


LAYOUTS = {
    "sparse": lambda t: t.to_sparse(),
    "mkldnn": lambda t: t.to_mkldnn(),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_are_right_or_refused(function, layout):
    inputs = tensors_for(function)
    for position in range(len(inputs)):
        odd = [LAYOUTS[layout](t) if i == position else t.clone() for i, t in enumerate(inputs)]
        plain = [
            t.dequantize() if layout == "quantised" else t.to_dense() for t in odd[position : position + 1]
        ]
        plain = [plain[0] if i == position else t.clone() for i, t in enumerate(inputs)]
        try:
            with torch.no_grad():
                found = [t if t.layout is torch.strided else t.to_dense() for t in results_of(function, odd)]
        except (RuntimeError, NotImplementedError, TypeError, KeyError):
            continue
        close([t.dequantize() if t.is_quantized else t for t in found], results_of(function, plain))


def test_wrong_dtypes_are_named():
    pytest.importorskip("causal_conv1d_cpu")
    x, weight = torch.randn(B, D, L).double(), torch.randn(D, W).double()
    with pytest.raises(TypeError, match=r"takes float32, bfloat16 and float16, and was given torch.float64"):
        torch.ops.causal_conv1d_cpu.conv(x, weight, None, None, None, False, True, False)


def test_integers_of_any_width_and_sign(path):
    """Positions in int64, strided, or with the negative bit."""
    x, weight, state = torch.randn(B, D, L), torch.randn(D, W), torch.randn(3, D, W)
    seq_idx, rows = torch.tensor([[0, 0, 1, 1, 1, 2]] * B), torch.tensor([2, 0])
    for odd in (
        lambda t: t.to(torch.int64),
        lambda t: torch._neg_view(-t.int()),
        lambda t: t.mT.contiguous().mT.int(),
    ):
        expected = causal_conv1d_fn(x, weight, seq_idx=seq_idx.int())
        odd_seq = odd(seq_idx)
        assert torch.equal(causal_conv1d_fn(x, weight, seq_idx=odd_seq), expected)
        if path == "kernel":
            args = (x, weight, None, odd_seq, None, False, False, False)
            assert torch.equal(torch.ops.causal_conv1d_cpu.conv(*args)[0], expected)
        odd_rows = odd(rows) if rows.dim() > 1 else torch._neg_view(-rows.int())
        found, wanted = state.clone(), state.clone()
        out = causal_conv1d_update(x[..., 0], found, weight, conv_state_indices=odd_rows)
        close(
            [out, found],
            [causal_conv1d_update(x[..., 0], wanted, weight, conv_state_indices=rows.int()), wanted],
        )


@pytest.mark.parametrize("step", [update, state_update], ids=lambda f: f.__name__)
def test_states_that_share_memory_are_refused(step, path):
    x, state, *rest = tensors_for(step)
    with (
        torch.no_grad(),
        pytest.raises(RuntimeError, match=r"share memory|more than one element|single memory"),
    ):
        step(x, state[:1].expand_as(state), *rest)


@pytest.mark.parametrize("step", [update, state_update], ids=lambda f: f.__name__)
def test_autograd_sees_that_a_state_was_written_to(step, path):
    """A gradient of what the state was would be wrong; PyTorch's own in-place functions refuse it too."""
    x, state, *rest = tensors_for(step)
    factor = torch.randn_like(state, requires_grad=True)
    out = (factor * state).sum()
    with torch.no_grad():
        step(x, state, *rest)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_a_result_is_not_written_over_what_is_read():
    """`onto` may give its memory to the result, unless it repeats or another input is read from it."""
    pytest.importorskip("selective_scan_cpu")
    inputs = tensors_for(direct_projected)
    for onto in (inputs[0], inputs[5], inputs[7][:1].expand(B, D, L)):
        given = [*inputs[:7], onto]
        expected = results_of(direct_projected, materialised(given))
        kept = onto.clone()
        close(results_of(direct_projected, given), expected)
        assert torch.equal(onto, kept)
