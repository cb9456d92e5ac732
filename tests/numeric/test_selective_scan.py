"""The selective scan in all its forms, mamba_inner_fn, and the single step."""

from __future__ import annotations

import pytest
import reference
import torch
from mamba_ssm.ops import selective_scan_interface
from mamba_ssm.ops.selective_scan_interface import (
    mamba_inner_fn,
    mamba_inner_ref,
    selective_scan_fn,
    selective_scan_ref,
)
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
from reference import assert_close, compare_gradients, double

pytestmark = pytest.mark.usefixtures("path")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
BATCH, DIM, DSTATE = 2, 12, 5


def coefficient(kind, seqlen, dtype, is_complex):
    """B or C: "constant", "variable", or grouped in so many groups."""
    length = 2 * seqlen if is_complex else seqlen
    if kind == "constant":
        value = torch.randn(DIM, DSTATE, dtype=torch.complex64 if is_complex else torch.float32)
    elif kind == "variable":
        value = torch.randn(BATCH, DSTATE, length).to(dtype)
    else:
        value = torch.randn(BATCH, kind, DSTATE, length).to(dtype)
    return value.requires_grad_()


def arguments(seqlen, dtype=torch.float32, is_complex=False, B="variable", C="variable", rest=True):
    def leaf(*shape, of=dtype):
        return torch.randn(*shape).to(of).requires_grad_()

    A = -0.5 - torch.rand(DIM, DSTATE)
    if is_complex:
        A = torch.complex(A, torch.randn(DIM, DSTATE))
    names = {
        "u": leaf(BATCH, DIM, seqlen),
        "delta": (0.5 * torch.rand(BATCH, DIM, seqlen)).to(dtype).requires_grad_(),
        "A": A.requires_grad_(),
        "B": coefficient(B, seqlen, dtype, is_complex),
        "C": coefficient(C, seqlen, dtype, is_complex),
    }
    if rest:
        names |= {
            "D": leaf(DIM, of=torch.float32),
            "z": leaf(BATCH, DIM, seqlen),
            "delta_bias": (0.5 * torch.rand(DIM)).requires_grad_(),
        }
    return names


def check(given, loose=1.0, **options):
    wide = {name: double(t) for name, t in given.items()}
    expected, expected_state = reference.selective_scan(**wide, **options)
    out, state = selective_scan_fn(**given, **options, return_last_state=True)
    assert out.dtype == given["u"].dtype
    assert state.dtype == (torch.complex64 if given["A"].is_complex() else torch.float32)
    assert_close(out, expected, loose)
    assert_close(state, expected_state, loose)
    compare_gradients(out, list(given.values()), expected, list(wide.values()), loose)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize(
    ("B", "C"),
    [
        ("constant", "constant"),
        ("constant", "variable"),
        ("variable", "constant"),
        ("variable", "variable"),
        ("variable", 1),
        ("constant", 3),
        (4, "constant"),
        (3, 3),
    ],
    ids=str,
)
def test_forms_of_b_and_c(dtype, is_complex, B, C):
    check(arguments(17, dtype, is_complex, B, C), delta_softplus=True)


@pytest.mark.parametrize("left_out", [(), ("D",), ("z",), ("delta_bias",), ("D", "z", "delta_bias")], ids=str)
@pytest.mark.parametrize("delta_softplus", [False, True])
def test_optional_arguments(left_out, delta_softplus):
    given = arguments(9)
    for name in left_out:
        del given[name]
    check(given, delta_softplus=delta_softplus)


@pytest.mark.parametrize("seqlen", [1, 2, 63, 64, 65, 130])
def test_lengths(seqlen):
    check(arguments(seqlen), delta_softplus=True)


def test_groups_are_of_neighbouring_channels():
    """Two groups over twelve channels: the first six have the first. In the wrong order all would differ."""
    given = arguments(8, B=2, C=2, rest=False)
    out = selective_scan_fn(**given)
    for group in range(2):
        here = slice(6 * group, 6 * group + 6)
        alone = selective_scan_fn(
            given["u"][:, here],
            given["delta"][:, here],
            given["A"][here],
            given["B"][:, group],
            given["C"][:, group],
        )
        assert_close(out[:, here], alone.double())


def test_strided_inputs():
    """As Mamba passes them: u and z halves of one tensor, delta transposed, B and C slices."""
    given = {name: t.detach() for name, t in arguments(20).items()}
    strided = dict(given)
    strided["u"], strided["z"] = torch.cat([given["u"], given["z"]], dim=1).chunk(2, dim=1)
    strided["delta"] = given["delta"].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    strided["B"], strided["C"] = (
        torch.cat([given["B"], given["C"]], dim=1)
        .transpose(1, 2)
        .contiguous()
        .transpose(1, 2)
        .chunk(2, dim=1)
    )
    assert not strided["B"].is_contiguous()
    expected = selective_scan_fn(**given)
    assert_close(selective_scan_fn(**strided), expected.double())


def test_empty_sequence():
    given = {name: t.detach() for name, t in arguments(0).items()}
    out, state = selective_scan_fn(**given, return_last_state=True)
    assert out.shape == (BATCH, DIM, 0)
    assert torch.equal(state, torch.zeros(BATCH, DIM, DSTATE))


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
def test_gradcheck(is_complex):
    given = arguments(4, torch.float64, is_complex, B=2, C="constant")
    given = {name: double(t) for name, t in given.items()}
    assert torch.autograd.gradcheck(
        lambda *a: selective_scan_fn(*a, delta_softplus=True), tuple(given.values())
    )


def test_the_reference_of_upstream_agrees():
    given = {name: t.detach() for name, t in arguments(10, B=3, C=3).items()}
    assert_close(selective_scan_fn(**given), selective_scan_ref(**given).double())


# mamba_inner_fn


def inner_arguments(
    dtype=torch.float32, dim=8, dstate=4, rank=3, seqlen=11, is_complex=False, wtype=torch.float32
):
    def leaf(*shape, scale=1.0, of=wtype):
        return (scale * torch.randn(*shape)).to(of).requires_grad_()

    A = -0.5 - torch.rand(dim, dstate)
    A = torch.complex(A, torch.randn(dim, dstate)) if is_complex else A
    rows = rank + 2 * dstate * (2 if is_complex else 1)
    return {
        "xz": leaf(2, 2 * dim, seqlen, of=dtype),
        "conv1d_weight": leaf(dim, 1, 4),
        "conv1d_bias": leaf(dim),
        "x_proj_weight": leaf(rows, dim, scale=0.3),
        "delta_proj_weight": leaf(dim, rank, scale=0.3),
        "out_proj_weight": leaf(5, dim, scale=0.3),
        "out_proj_bias": leaf(5),
        "A": A.requires_grad_(),
        "D": leaf(dim, of=torch.float32),
        "delta_bias": leaf(dim, of=torch.float32),
    }


def inner_reference(
    xz,
    conv1d_weight,
    conv1d_bias,
    x_proj_weight,
    delta_proj_weight,
    out_proj_weight,
    out_proj_bias,
    A,
    D,
    delta_bias,
    delta_softplus=True,
    B_proj_bias=None,
    C_proj_bias=None,
    b_rms_weight=None,
    c_rms_weight=None,
    dt_rms_weight=None,
):
    x, z = xz.chunk(2, dim=1)
    u, _ = reference.causal_conv1d(x, conv1d_weight[:, 0], conv1d_bias, activation="silu")
    parts = u.transpose(1, 2) @ x_proj_weight.t()
    rank, n = delta_proj_weight.shape[1], A.shape[1] * (2 if A.is_complex() else 1)
    dt, B, C = parts.split([rank, n, n], dim=-1)
    delta = dt @ delta_proj_weight.t()
    B = B if B_proj_bias is None else B + B_proj_bias
    C = C if C_proj_bias is None else C + C_proj_bias
    if b_rms_weight is not None:
        B, C = reference.norm(B, b_rms_weight), reference.norm(C, c_rms_weight)
        delta = reference.norm(delta, dt_rms_weight)
    if A.is_complex():  # dstate pairs per token; the scan takes pairs along the sequence
        B, C = (t.unflatten(-1, (-1, 2)).permute(0, 2, 1, 3).flatten(2) for t in (B, C))
    else:
        B, C = B.transpose(1, 2), C.transpose(1, 2)
    y, _ = reference.selective_scan(u, delta.transpose(1, 2), A, B, C, D, z, delta_bias, delta_softplus)
    return y.transpose(1, 2) @ out_proj_weight.t() + out_proj_bias


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("delta_softplus", [False, True])
def test_mamba_inner(is_complex, delta_softplus):
    given = inner_arguments(is_complex=is_complex)
    wide = {name: double(t) for name, t in given.items()}
    expected = inner_reference(**wide, delta_softplus=delta_softplus)
    out = mamba_inner_fn(**given, delta_softplus=delta_softplus)
    assert_close(out, expected, 4)
    compare_gradients(out, list(given.values()), expected, list(wide.values()), 10)
    assert_close(mamba_inner_ref(**given, delta_softplus=delta_softplus), expected, 4)


def test_mamba_inner_with_biases_and_norms():
    """B and C have biases and, as dt, a norm with gradients of its own."""
    given = inner_arguments()
    extra = {
        "B_proj_bias": torch.randn(4, requires_grad=True),
        "C_proj_bias": torch.randn(4, requires_grad=True),
        "b_rms_weight": torch.randn(4, requires_grad=True),
        "c_rms_weight": torch.randn(4, requires_grad=True),
        "dt_rms_weight": torch.randn(8, requires_grad=True),
    }
    given |= extra
    wide = {name: double(t) for name, t in given.items()}
    expected = inner_reference(**wide)
    with pytest.warns(UserWarning, match="normalizes dt after dt's projection"):
        out = mamba_inner_fn(**given)
    assert_close(out, expected, 4)
    compare_gradients(out, list(given.values()), expected, list(wide.values()), 20)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_mamba_inner_in_16_bits(dtype):
    given = inner_arguments(dtype, wtype=dtype)
    wide = {name: double(t) for name, t in given.items()}
    out = mamba_inner_fn(**given)
    assert out.dtype == dtype
    assert_close(out, inner_reference(**wide), 8)


def test_mamba_inner_under_autocast():
    given = inner_arguments()
    wide = {name: double(t) for name, t in given.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = mamba_inner_fn(**given)
    assert out.dtype == torch.bfloat16
    assert_close(out, inner_reference(**wide), 8)


class StandIn:
    """selective_scan_cuda's two functions in float64, to run what is written around them without a GPU."""

    @staticmethod
    def fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        plain, state = reference.selective_scan(u, delta, A, B, C, D, None, delta_bias, delta_softplus)
        x = torch.zeros(*state.shape[:2], 1, 2 * state.shape[2])
        x[:, :, 0, 1::2] = state
        return plain, x, plain * reference.silu(z)

    @staticmethod
    def bwd(u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus, recompute_out_z):
        wide = double(u, delta, A, B, C, D, z, delta_bias)
        with torch.enable_grad():
            gated, _ = reference.selective_scan(*wide, delta_softplus)
        gated.backward(dout.double())
        du, ddelta, dA, dB, dC, dD, dz64, dbias = (t.grad.float() for t in wide)
        return du, ddelta, dA, dB, dC, dD, dbias, dz.copy_(dz64), gated.detach().float()


@pytest.mark.parametrize("checkpoint_lvl", [0, 1])
def test_the_fused_function_for_cuda(monkeypatch, checkpoint_lvl):
    """Its convolutions, forward and backward, fill the half of dxz they are given; biases get gradients."""
    monkeypatch.setattr(selective_scan_interface, "selective_scan_cuda", StandIn)
    given = inner_arguments()
    wide = {name: double(t) for name, t in given.items()}
    expected = inner_reference(**wide)
    tensors = list(given.values())
    out = selective_scan_interface.MambaInnerFn.apply(
        *tensors[:8], None, None, *tensors[8:], None, None, True, checkpoint_lvl
    )
    assert_close(out, expected, 4)
    compare_gradients(out, tensors, expected, list(wide.values()), 10)


# selective_state_update


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("heads", [None, (4, 1), (4, 2), (4, 4)], ids=str)
@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("rest", [True, False])
def test_state_update(dtype, heads, indexed, rest):
    nheads, ngroups = heads or (1, 1)
    batch, dim, dstate, rows = 3, 6, 5, 6 if indexed else 3
    state = torch.randn(rows, nheads, dim, dstate).to(dtype)
    x, dt, z = (torch.randn(batch, nheads, dim).to(dtype) for _ in range(3))
    B, C = (torch.randn(batch, ngroups, dstate).to(dtype) for _ in range(2))
    A, D, dt_bias = -torch.rand(nheads, dim, dstate) - 0.5, torch.randn(nheads, dim), torch.randn(nheads, dim)
    indices = torch.tensor([5, -1, 2]) if indexed else None  # -1 is padding
    if not rest:
        D = z = dt_bias = None

    taken = indices if indexed else torch.arange(batch)
    real = taken >= 0
    group = [h // (nheads // ngroups) for h in range(nheads)]
    step = reference.softplus(dt.double() + (0.0 if dt_bias is None else dt_bias.double()))[..., None]
    expected_state = torch.exp(step * A.double()) * state[taken].double()
    expected_state = expected_state + step * B[:, group, None].double() * x[..., None].double()
    expected = (expected_state * C[:, group, None].double()).sum(-1)
    if rest:
        expected = (expected + D.double() * x.double()) * reference.silu(z.double())
    expected[~real] = 0.0
    untouched = state.clone()

    tensors = [state, x, dt, A, B, C, D, z, dt_bias]
    if heads is None:  # without the dimension of heads
        squeezed = [
            t if t is None else t.squeeze(0 if t is A or t is D or t is dt_bias else 1) for t in tensors
        ]
        tensors = squeezed
    out = selective_state_update(*tensors, dt_softplus=True, state_batch_indices=indices)
    assert out.dtype == dtype
    assert_close(out, expected[:, 0] if heads is None else expected)
    assert_close(state[taken[real]], expected_state[real])
    others = [r for r in range(rows) if r not in taken]
    assert torch.equal(state[others], untouched[others])


def test_state_update_with_tied_dimensions():
    """Mamba2's way: one dt, A and D per head, expanded."""
    nheads, dim, dstate = 4, 6, 5
    state = torch.zeros(2, nheads, dim, dstate)
    x, B, C = torch.randn(2, nheads, dim), torch.randn(2, 1, dstate), torch.randn(2, 1, dstate)
    dt, A, D, bias = torch.rand(2, nheads), -torch.rand(nheads), torch.randn(nheads), torch.randn(nheads)
    out = selective_state_update(
        state, x, dt[..., None].expand(2, nheads, dim), A[:, None, None].expand(nheads, dim, dstate), B, C,
        D[:, None].expand(nheads, dim), dt_bias=bias[:, None].expand(nheads, dim), dt_softplus=True,
    )  # fmt: skip
    expected, states = reference.ssd(
        *(t.double() for t in (x[:, None], dt[:, None], A, B[:, None], C[:, None], D)),
        dt_bias=bias.double(), dt_softplus=True,
    )  # fmt: skip
    assert_close(out, expected[:, 0])
    assert_close(state, states[:, 0])
