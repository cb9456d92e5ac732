"""torch.compile keeps the numbers, with breaks in the graph; torch.export unrolls the scan for one length."""

from __future__ import annotations

import pytest
import torch
from mamba_ssm import Mamba, Mamba2
from reference import assert_close

pytestmark = pytest.mark.usefixtures("path")
MODULES = {
    "mamba": lambda: Mamba(16, d_state=4),
    "mamba2": lambda: Mamba2(16, d_state=8, headdim=8, chunk_size=8),
    "vim": lambda: Mamba(16, d_state=4, bimamba_type="v2"),
}


@pytest.fixture(params=MODULES)
def module(request):
    torch._dynamo.reset()
    return MODULES[request.param]()


def test_compile(module):
    x = torch.randn(2, 9, 16, requires_grad=True)
    expected = module(x)
    (expected_grad,) = torch.autograd.grad(expected.sum(), x)
    compiled = torch.compile(module, backend="eager")
    for _ in range(2):
        out = compiled(x)
        assert_close(out, expected.double())
        (grad,) = torch.autograd.grad(out.sum(), x)
        assert_close(grad, expected_grad.double())


@pytest.mark.parametrize("strict", [False, True])
def test_export(module, strict):
    x = torch.randn(2, 9, 16)
    program = torch.export.export(module, (x,), strict=strict)
    assert_close(program.module()(x), module(x).double())
