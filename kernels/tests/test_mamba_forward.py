"""A whole mixer over sequences in one call, and its products, beside the same in double precision."""

from __future__ import annotations

import pytest
import reference
import selective_scan_cpu as kernels
import torch
from hypothesis import given
from hypothesis import strategies as st
from selective_scan_cpu import _lib
from selective_scan_cpu._library import view
from selective_scan_cpu._mamba_forward import most_elements
from selective_scan_cpu._quantized import packed_shapes

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def multiply(x, weight, bias=None, threads=1):
    out = torch.full((x.shape[0], weight.shape[0]), torch.nan)
    _lib.linear_rows(
        rows=x.shape[0], columns=weight.shape[0], depth=x.shape[1], threads=threads, x=view(x), weight=view(weight),
        bias=view(bias), out=view(out),
    )  # fmt: skip
    return out


@given(
    rows=st.integers(0, 210),
    columns=st.integers(1, 150),
    depth=st.sampled_from([0, 1, 15, 16, 33, 384, 385, 900]),
    bias=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    threads=st.integers(1, 3),
)
def test_product_of_many_rows(rows, columns, depth, bias, dtype, threads):
    torch.manual_seed(0)
    x, weight = torch.randn(rows, depth), torch.randn(columns, depth).to(dtype)
    added = torch.randn(columns) if bias else None
    out = multiply(x, weight, added, threads)
    want = x.double() @ weight.double().T + (added.double() if bias else 0)
    assert (out.double() - want).abs().max().item() <= 1e-6 * max(1, depth) ** 0.5 * 8 if rows else out.numel() == 0
    assert torch.equal(out, multiply(x, weight, added, 1))


def test_a_product_of_rows_with_gaps():
    x, weight = torch.randn(40, 100)[:, 10:60], torch.randn(30, 70)[:, :50]
    want = x.double() @ weight.double().T
    assert (multiply(x, weight).double() - want).abs().max() <= 1e-4


def test_an_infinity_stays_in_its_row_and_column():
    x, weight = torch.randn(20, 40), torch.randn(70, 40).abs()
    x[3, 5], weight[64, 7] = torch.inf, torch.nan
    out = multiply(x, weight)
    assert out[3].logical_not().logical_or(out[3].isfinite().logical_not())[:64].all()
    assert out[:, 64].isnan().all()
    finite = out.isfinite()
    finite[3], finite[:, 64] = True, True
    assert finite.all()


def weights_of(values, bias=None):
    return kernels.Weights(*values.shape, values, None, bias)


def make(seed, features, dim, dstate, rank, width, biases, both):
    rng = torch.Generator().manual_seed(seed)

    def randn(*shape, scale=1.0):
        return scale * torch.randn(*shape, generator=rng)

    def optional(*shape):
        return randn(*shape) if biases else None

    def direction():
        return kernels.Direction(
            randn(dim, 1, width), optional(dim),
            weights_of(randn(rank + 2 * dstate, dim, scale=dim**-0.5)),
            randn(dim, rank, scale=rank**-0.5), optional(dim), randn(dim, dstate), optional(dim),
        )  # fmt: skip

    in_proj = weights_of(randn(2 * dim, features, scale=features**-0.5), optional(2 * dim))
    out_proj = weights_of(randn(features, dim, scale=dim**-0.5), optional(features))
    return in_proj, out_proj, [direction() for _ in range(1 + both)]


def in_float64(x, in_proj, out_proj, directions, scale):
    """Out, the last inputs of the convolution, the state after the last step, and the size of what out adds up."""

    def wide(tensor):
        return 0 if tensor is None else tensor.double()

    batch, seqlen, _ = x.shape
    dim = out_proj.values.shape[1]
    xz = wide(x) @ wide(in_proj.values).T + wide(in_proj.bias)
    total, state = torch.zeros(batch, seqlen, dim, dtype=torch.double), None
    size = torch.zeros(batch, seqlen, dim, dtype=torch.double)
    for number, d in enumerate(directions):
        rows = xz.flip(1) if number else xz
        width, dstate, rank = d.conv_weight.shape[-1], d.A_log.shape[1], d.dt_weight.shape[1]
        padded = torch.cat([torch.zeros(batch, width, dim, dtype=torch.double), rows[..., :dim]], 1)
        h, outs, sizes = torch.zeros(batch, dim, dstate, dtype=torch.double), [], []
        for t in range(seqlen):
            window = padded[:, t + 1 : t + 1 + width].transpose(1, 2)
            u = reference.silu((window * wide(d.conv_weight)[:, 0]).sum(-1) + wide(d.conv_bias))
            dt, B, C = (u @ wide(d.x_proj.values).T).split([rank, dstate, dstate], -1)
            delta = reference.softplus(dt @ wide(d.dt_weight).T + wide(d.dt_bias))[..., None]
            h = torch.exp(-delta * wide(d.A_log).exp()) * h + delta * B[:, None] * u[..., None]
            gate, skip = reference.silu(rows[:, t, dim:]), wide(d.D) * u
            outs.append(((h * C[:, None]).sum(-1) + skip) * gate)
            sizes.append(((h * C[:, None]).abs().sum(-1) + abs(skip)) * gate.abs())
        for sums, steps in ((total, outs), (size, sizes)):
            sums.add_(torch.stack(steps, 1).flip(1) if number else torch.stack(steps, 1))
        state = h if number == 0 else state
    padded = torch.cat([torch.zeros(batch, width, dim, dtype=torch.double), xz[..., :dim]], 1)
    return (
        scale * total @ wide(out_proj.values).T + wide(out_proj.bias),
        padded[:, -width:].transpose(1, 2),
        state,
        size @ wide(out_proj.values).abs().T,
    )


@given(
    batch=st.integers(1, 3),
    seqlen=st.sampled_from([1, 2, 3, 5, 70]),
    features=st.integers(1, 40),
    dim=st.integers(1, 70),
    dstate=st.integers(1, 20),
    rank=st.integers(1, 9),
    width=st.integers(2, 4),
    biases=st.booleans(),
    both=st.booleans(),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**16),
)
def test_forward(batch, seqlen, features, dim, dstate, rank, width, biases, both, threads, seed):
    parts = make(seed, features, dim, dstate, rank, width, biases, both)
    torch.manual_seed(seed)
    x, scale = torch.randn(batch, seqlen, features), 0.5 if both else 1.0
    states = [torch.full((batch, dim, size), torch.nan) for size in (width, dstate)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = kernels.mamba_forward(x, *parts, scale, *(() if both else states))
    finally:
        torch.set_num_threads(before)
    found = [out] if both else [out, *states]
    *wanted, size = in_float64(x, *parts, scale)
    # Against the size of what is added up: a single output may be the small difference of large terms.
    sizes = [size.max().item(), *(want.abs().max().item() for want in wanted[1:])]
    for tensor, want, most in zip(found, wanted, sizes, strict=False):
        assert (tensor.double() - want).abs().max().item() <= 4e-6 * max(1.0, most)


def test_states_of_another_layout_and_dtype():
    parts, x = make(0, 8, 12, 4, 3, 4, True, False), torch.randn(2, 9, 8)
    plain = [torch.empty(2, 12, 4), torch.empty(2, 12, 4)]
    kernels.mamba_forward(x, *parts, 1.0, *plain)
    other = [torch.empty(4, 2, 12).permute(1, 2, 0), torch.empty(2, 12, 4, dtype=torch.bfloat16)]
    versions = [state._version for state in other]
    kernels.mamba_forward(x, *parts, 1.0, *other)
    assert torch.equal(other[0], plain[0])
    assert torch.equal(other[1], plain[1].bfloat16())
    assert all(state._version > version for state, version in zip(other, versions, strict=True))


@pytest.mark.parametrize("bits", [8, 4])
def test_packed_weights(bits):
    """Inputs that are integers and reach 127 are not rounded: the result is that of the weights in float32."""
    in_proj, out_proj, (direction,) = make(0, 32, 40, 4, 3, 4, True, False)
    kind, scale = (torch.int8, torch.float32) if bits == 8 else (torch.uint8, torch.bfloat16)
    of_packed, of_scales = packed_shapes(80, 32, bits)
    packed, scales = torch.randint(0, 127, of_packed).to(kind), torch.rand(of_scales).to(scale) / 1e4
    x = torch.randint(-127, 128, (2, 9, 32)).float()
    x[..., 0] = 127
    matrix = kernels.quantized_linear(127 * torch.eye(32), packed, scales, None, 80).T.contiguous() / 127
    out = kernels.mamba_forward(x, kernels.Weights(80, 32, scales, packed, in_proj.bias), out_proj, [direction])
    want = kernels.mamba_forward(x, weights_of(matrix, in_proj.bias), out_proj, [direction])
    assert (out - want).abs().max() <= 1e-5 * want.abs().max()


def without(parts, **changes):
    in_proj, out_proj, (direction,) = parts
    return in_proj, out_proj, [direction._replace(**changes)]


def refusals():
    parts, x = make(0, 8, 12, 4, 3, 4, True, False), torch.randn(2, 9, 8)
    direction = parts[2][0]
    yield "half", (x.half(), *parts)
    yield "half weight", (x, *without(parts, D=direction.D.half()))
    yield "a matrix", (x[0], *parts)
    yield "another number of features", (torch.randn(2, 9, 7), *parts)
    yield "a weight of another shape", (x, *without(parts, dt_bias=torch.randn(11)))
    yield "a weight of another layout", (x, *without(parts, A_log=torch.randn(4, 12).T))
    yield "a convolution of width 1", (x, *without(parts, conv_weight=torch.randn(12, 1, 1)))
    yield "no directions", (x, *parts[:2], [])
    yield "no steps", (x[:, :0], *parts)
    yield "states that share memory", (x, *parts, 1.0, torch.zeros(2, 12, 1).expand(2, 12, 4))
    yield "a state of another shape", (x, *parts, 1.0, None, torch.zeros(2, 12, 5))
    yield "long", (torch.zeros(1, 1, 8).expand(1, 3_000_000, 8), *parts)
    biased = kernels.Weights(11, 12, torch.randn(11, 12), None, torch.randn(11))
    yield "an x_proj with a bias", (x, *without(parts, x_proj=biased))
    yield "a rank of 0", (x, *without(parts, dt_weight=torch.randn(12, 0), x_proj=weights_of(torch.randn(8, 12))))
    yield "states of two directions", (x, *parts[:2], [direction, direction], 1.0, None, torch.zeros(2, 12, 4))
    of_packed, of_scales = packed_shapes(24, 8, 8)
    packed = torch.zeros(of_packed, dtype=torch.int8)
    yield "packed weights of 20 rows", (x, kernels.Weights(20, 8, torch.zeros(of_scales), packed), *parts[1:])
    yield "a subclass", (x.as_subclass(type("Other", (torch.Tensor,), {})), *parts)


@pytest.mark.parametrize("arguments", [a for _, a in refusals()], ids=[name for name, _ in refusals()])
def test_what_the_kernel_does_not_take(arguments):
    assert kernels.mamba_forward(*arguments) is None


def test_a_wanted_gradient():
    parts, x = make(0, 8, 12, 4, 3, 4, True, False), torch.randn(2, 9, 8, requires_grad=True)
    assert kernels.mamba_forward(x, *parts) is None
    with torch.no_grad():
        assert kernels.mamba_forward(x, *parts) is not None


@pytest.mark.parametrize(
    ("cpuinfo", "bits"), [("vendor_id : GenuineIntel", 18), ("vendor_id : AuthenticAMD", 25), (None, 18)]
)
def test_how_long_a_call_may_be(tmp_path, cpuinfo, bits):
    if not torch.backends.mkl.is_available():
        bits = 18
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    assert most_elements(path) == 1 << bits
