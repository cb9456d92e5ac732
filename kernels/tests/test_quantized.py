"""The product of weights of 8 and 4 bits, beside sums of integers: exact where the inputs are integers."""

from __future__ import annotations

import pytest
import selective_scan_cpu as kernels
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from selective_scan_cpu._lib import library
from torch.nn import functional

BITS = [8, 4]
LEAST = {8: -127, 4: -8}
MOST = {8: 127, 4: 7}


@pytest.fixture(params=library.available)
def level(request):
    """Each instruction set of this processor."""
    names = library._described["instruction_sets"]
    library._library.use_instruction_set(names.index(request.param))
    yield request.param
    library._library.use_instruction_set(names.index(library.instruction_set))


def pack(values, bits):
    """Integers (rows, columns) as the kernel reads them."""
    rows, columns = values.shape
    offset = 8 if bits == 4 else 0
    padded = functional.pad(values, (0, -columns % 32, 0, -rows % 16)) + offset
    if bits == 8:
        return padded.to(torch.int8).view(padded.shape[0] // 16, 16, -1, 4).transpose(1, 2).contiguous()
    halves = padded.to(torch.uint8).view(padded.shape[0] // 16, 16, -1, 2, 4)
    return (halves[..., 0, :] | halves[..., 1, :] << 4).transpose(1, 2).contiguous()


def make(rows, columns, bits, rng):
    """Weights: integers, packed, scales, and all of them in float64."""
    values = torch.randint(LEAST[bits], MOST[bits] + 1, (rows, columns), generator=rng)
    tiles, blocks = -(-rows // 16), -(-columns // 32)
    shape = (tiles * 16,) if bits == 8 else (tiles, blocks, 16)
    scales = torch.randn(shape, generator=rng).to(torch.float32 if bits == 8 else torch.bfloat16)
    if bits == 8:
        weight = values * scales[:rows, None].double()
    else:
        of_rows = scales.transpose(1, 2).flatten(0, 1)[:rows].double()
        weight = values * of_rows.repeat_interleave(32, 1)[:, :columns]
    return values, pack(values, bits), scales, weight


def rounded(x):
    """The inputs as the kernel rounds them, in float64."""
    blocks = functional.pad(x.float(), (0, -x.shape[-1] % 32)).unflatten(-1, (-1, 32))
    largest = blocks.abs().amax(-1, keepdim=True)
    factor = torch.full_like(largest, 127.0) / torch.where(largest < 1e-30, torch.inf, largest)
    values = (blocks * factor).round().double() * (largest / torch.full_like(largest, 127.0)).double()
    return values.flatten(-2)[..., : x.shape[-1]]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    ("rows", "columns", "tokens"), [(1, 1, 1), (16, 32, 1), (70, 100, 1), (33, 65, 3), (97, 320, 70)]
)
def test_integers_are_exact(level, bits, rows, columns, tokens):
    rng = torch.Generator().manual_seed(rows)
    values = torch.randint(LEAST[bits], MOST[bits] + 1, (rows, columns), generator=rng)
    x = torch.randint(-127, 128, (tokens, columns), generator=rng).float()
    x[:, ::32] = 127.0  # so that each block's scale is 1
    blocks, padded = -(-columns // 32), -(-rows // 16) * 16
    scales = torch.full((padded,), 0.5) if bits == 8 else torch.full((padded // 16, blocks, 16), 0.5).bfloat16()
    out = kernels.quantized_linear(x, pack(values, bits), scales, None, rows)
    assert torch.equal(out.double() * 2, (x.long() @ values.T).double())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("most", [True, False])
def test_extremes_do_not_saturate(level, bits, tokens, sign, most):
    value = MOST[bits] if most else (-128 if bits == 8 else -8)
    rows, columns = 17, 256
    values = torch.full((rows, columns), value)
    scales = torch.ones(32) if bits == 8 else torch.ones(2, 8, 16).bfloat16()
    x = torch.full((tokens, columns), sign * 127.0)
    out = kernels.quantized_linear(x, pack(values, bits), scales, None, rows)
    assert torch.equal(out, torch.full((tokens, rows), sign * 127.0 * value * columns))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the level stays for all examples
@given(
    rows=st.integers(1, 150),
    columns=st.integers(1, 200),
    tokens=st.integers(1, 140),
    bits=st.sampled_from(BITS),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    scale=st.sampled_from([1e-3, 1.0, 10.0]),
    misaligned=st.integers(0, 3),
    seed=st.integers(0, 2**16),
)
def test_any_shape(level, rows, columns, tokens, bits, bias, dtype, scale, misaligned, seed):
    rng = torch.Generator().manual_seed(seed)
    _, packed, scales, weight = make(rows, columns, bits, rng)
    x = (torch.randn(tokens * columns + misaligned, generator=rng) * scale).to(dtype)[misaligned:].view(tokens, columns)
    moved = torch.empty(packed.numel() + misaligned, dtype=packed.dtype)[misaligned:].view(packed.shape).copy_(packed)
    b = torch.randn(rows, generator=rng) if bias else None
    out = kernels.quantized_linear(x, moved, scales, b, rows)
    want = rounded(x) @ weight.T + (0 if b is None else b.double())
    assume(want.abs().max() < torch.finfo(dtype).max)  # float16 ends at 65504
    assert out.dtype == dtype
    assert out.shape == (tokens, rows)
    size = (rounded(x).abs() @ weight.abs().T).max().item() + 10
    tolerance = 1e-6 if dtype == torch.float32 else 2 ** -(8 if dtype == torch.bfloat16 else 11)
    assert (out.double() - want).abs().max().item() <= tolerance * size


@pytest.mark.parametrize("bits", BITS)
def test_a_token_is_the_same_among_many(level, bits):
    """Also between the loops for one token and for many, and for any number of threads."""
    rng = torch.Generator().manual_seed(0)
    _, packed, scales, _ = make(300, 200, bits, rng)
    x, bias = torch.randn(130, 200, generator=rng), torch.randn(300, generator=rng)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = kernels.quantized_linear(x, packed, scales, bias, 300)
        torch.set_num_threads(3)
        assert torch.equal(kernels.quantized_linear(x, packed, scales, bias, 300), whole)
        for token in (0, 64, 129):
            assert torch.equal(kernels.quantized_linear(x[token], packed, scales, bias, 300), whole[token])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bits", BITS)
def test_inputs_without_a_scale(level, bits):
    rng = torch.Generator().manual_seed(0)
    _, packed, scales, weight = make(20, 64, bits, rng)
    zeros = kernels.quantized_linear(torch.zeros(2, 64), packed, scales, torch.ones(20), 20)
    assert torch.equal(zeros, torch.ones(2, 20))
    tiny = kernels.quantized_linear(torch.full((1, 64), 1e-40), packed, scales, None, 20)
    assert torch.equal(tiny, torch.zeros(1, 20))
    for value in (torch.nan, torch.inf, -torch.inf):
        x = torch.ones(2, 64)
        x[0, 40] = value
        out = kernels.quantized_linear(x, packed, scales, None, 20)
        assert out[0].isnan().all()
        assert torch.allclose(out[1].double(), weight.sum(1), rtol=1e-4, atol=1e-4)


def test_empty():
    _, packed, scales, _ = make(20, 64, 8, torch.Generator())
    assert kernels.quantized_linear(torch.empty(0, 3, 64), packed, scales, None, 20).shape == (0, 3, 20)
    assert kernels.quantized_linear(torch.empty(2, 64), packed[:0], scales[:0], None, 0).shape == (2, 0)
    none = torch.empty(2, 0, 16, 4, dtype=torch.int8)
    assert torch.equal(kernels.quantized_linear(torch.empty(2, 0), none, scales, torch.ones(20), 20), torch.ones(2, 20))


@pytest.mark.parametrize("bits", BITS)
def test_operator(bits):
    _, packed, scales, _ = make(20, 64, bits, torch.Generator().manual_seed(0))
    args = (torch.randn(3, 64), packed, scales, torch.randn(20), 20)
    torch.library.opcheck(torch.ops.selective_scan_cpu.quantized_linear.default, args)
    operator = torch.ops.selective_scan_cpu.quantized_linear
    assert torch.equal(operator(*args), kernels.quantized_linear(*args))


def test_what_it_refuses():
    _, packed, scales, _ = make(20, 64, 8, torch.Generator().manual_seed(0))
    x = torch.randn(3, 64)
    for args, error, text in (
        (
            (x[:, :31], packed, scales, None, 20),
            ValueError,
            r"packed has shape \(2, 16, 16, 4\), expected \(2, 8, 16, 4\)",
        ),
        ((x, packed, scales[:20], None, 20), ValueError, r"scales has shape \(20,\), expected \(32,\)"),
        ((x, packed, scales, torch.ones(19), 20), ValueError, r"bias has shape \(19,\), expected \(20,\)"),
        (
            (x, packed, scales.bfloat16(), None, 20),
            TypeError,
            "scales have dtype torch.bfloat16, expected torch.float32",
        ),
        ((x, packed.int(), scales, None, 20), TypeError, "packed has dtype torch.int32, expected int8"),
    ):
        with pytest.raises(error, match=text):
            kernels.quantized_linear(*args)
    assert not kernels.supports_quantized_linear(x.requires_grad_(), packed, scales)
    assert not kernels.supports_quantized_linear(x.detach(), packed.int(), scales)
    assert kernels.supports_quantized_linear(x.detach(), packed, scales)
