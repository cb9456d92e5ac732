"""What follows PyTorch but not a kernel: traces, torch.func, forward and second gradients, meta tensors."""

from __future__ import annotations

import pytest
import torch
from causal_conv1d import causal_conv1d_fn
from mamba_ssm import Mamba, Mamba2, MambaLMHeadModel
from mamba_ssm.models.config_mamba import MambaConfig
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from reference import assert_close
from torch.autograd import forward_ad

pytestmark = pytest.mark.usefixtures("path")
MODULES = {
    "mamba": lambda: Mamba(16, d_state=4),
    "mamba2": lambda: Mamba2(16, d_state=8, headdim=8),
    "vim": lambda: Mamba(16, d_state=4, bimamba_type="v2"),
}


@pytest.fixture(params=MODULES)
def module(request):
    return MODULES[request.param]()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("grad", [True, False])
def test_trace(module, grad, tmp_path):
    """A trace without the kernel would return the memory that the kernel has not yet written."""
    module.requires_grad_(grad)
    traced = torch.jit.trace(module, torch.randn(2, 7, 16), check_trace=False)
    x = torch.randn(2, 7, 16)
    assert_close(traced(x), module(x).double(), 2)
    torch.jit.save(traced, tmp_path / "traced.pt")
    assert_close(torch.jit.load(tmp_path / "traced.pt")(x), module(x).double(), 2)


def test_vmap_and_grad(module):
    x = torch.randn(3, 2, 7, 16)
    assert_close(torch.func.vmap(module)(x), torch.stack([module(y) for y in x]).double(), 2)
    grad = torch.func.grad(lambda y: module(y).square().sum())(x[0])
    leaf = x[0].clone().requires_grad_()
    module(leaf).square().sum().backward()
    assert_close(grad, leaf.grad.double(), 4)


def test_forward_mode(module):
    module.double().requires_grad_(False)
    x, direction = torch.randn(2, 2, 7, 16).double()
    step = 1e-6
    expected = (module(x + step * direction) - module(x - step * direction)) / (2 * step)
    module.float()
    out, tangent = torch.func.jvp(module, (x.float(),), (direction.float(),))
    assert_close(tangent, expected, 20)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(module(forward_ad.make_dual(x.float(), direction.float())))
    assert_close(dual.tangent, expected, 20)
    assert_close(dual.primal, out.double(), 2)


@pytest.mark.parametrize(
    "function",
    [
        lambda u, w: causal_conv1d_fn(u, w, activation="silu"),
        lambda u, w: selective_scan_fn(u, torch.sigmoid(u), -torch.exp(w), u[:, :4], u[:, :4]),
    ],
    ids=["conv", "scan"],
)
def test_a_second_gradient_is_right_or_refused(function, path):
    u, w = torch.randn(1, 6, 5, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    (first,) = torch.autograd.grad(function(u, w).square().sum(), u, create_graph=True)
    if path == "kernel":
        with pytest.raises(RuntimeError, match="differentiates once; twice, with"):
            first.sum().backward()
        return
    wide = [t.detach().double().requires_grad_() for t in (u, w)]
    assert torch.autograd.gradgradcheck(function, wide)
    assert_close(first, torch.autograd.grad(function(*wide).square().sum(), wide[0])[0], 4)


def test_shapes_without_data(module):
    assert module.to("meta")(torch.empty(2, 7, 16, device="meta")).shape == (2, 7, 16)
    model = MambaLMHeadModel(MambaConfig(d_model=16, n_layer=1, vocab_size=24), device="meta")
    assert model(torch.zeros(2, 5, dtype=torch.long, device="meta")).logits.shape == (2, 5, 24)
