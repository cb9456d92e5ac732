"""A short sequence through Mamba in one call, beside the way of the module for layers that are not plain."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

kernels = pytest.importorskip("selective_scan_cpu")

KINDS = [{}, {"bimamba_type": "v2"}, {"bimamba_type": "v2", "if_divide_out": True, "init_layer_scale": 0.3}]


@pytest.fixture
def calls(monkeypatch):
    """The results of mamba_forward."""
    found, run = [], kernels.mamba_forward
    monkeypatch.setattr(kernels, "mamba_forward", lambda *args: found.append(run(*args)) or found[-1])
    return found


def made(**options):
    from mamba_ssm import Mamba

    torch.manual_seed(0)
    return Mamba(16, layer_idx=0, **options).eval()


def alone(mamba, x, *args):
    """The result of the module's own way."""
    from mamba_ssm.modules import submodules

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(submodules, "one_call_forward", lambda *args: None)
        return mamba(x, *args)


def assert_near(found, expected, atol=1e-6):
    assert found.dtype == expected.dtype
    assert torch.allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (3, 40)])
def test_each_kind(calls, options, shape):
    mamba, x = made(**options), torch.randn(*shape, 16)
    with torch.no_grad():
        assert_near(mamba(x), alone(mamba, x))
    assert calls[0] is not None


@pytest.mark.parametrize("length", [1, 3, 20])
def test_states_are_filled_and_decoding_goes_on(calls, length):
    from mamba_ssm.utils.generation import InferenceParams

    mamba, x = made(), torch.randn(2, length + 4, 16)
    whole = alone(mamba, x)
    params = InferenceParams(max_seqlen=64, max_batch_size=2)
    with torch.no_grad():
        found = [mamba(x[:, :length], inference_params=params)]
        assert len(calls) == 1
        for t in range(length, length + 4):
            params.seqlen_offset = t
            found.append(mamba(x[:, t : t + 1], inference_params=params))
    assert_near(torch.cat(found, 1), whole)


def hook(mamba, seen):
    mamba.x_proj.register_forward_hook(lambda *args: seen.append(1))


def adapter(mamba, seen):
    class Doubled(nn.Linear):
        def forward(self, x):
            seen.append(1)
            return 2 * super().forward(x)

    mamba.out_proj.__class__ = Doubled


def replaced_forward(mamba, seen):
    before = mamba.in_proj.forward
    mamba.in_proj.forward = lambda x: seen.append(1) or before(x) * 3


def computed_weight(mamba, seen):
    nn.utils.parametrizations.weight_norm(mamba.in_proj)
    hook(mamba, seen)


@pytest.mark.parametrize(
    "change", [hook, adapter, replaced_forward, computed_weight], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("options", KINDS[:2], ids=str)
def test_a_layer_that_is_more_than_its_weights_is_called(calls, change, options):
    mamba, seen, x = made(**options), [], torch.randn(2, 9, 16)
    change(mamba, seen)
    with torch.no_grad():
        found = mamba(x)
    assert seen
    assert calls == []
    assert_near(found, alone(mamba, x))


def test_layers_of_the_other_direction_are_called(calls):
    mamba, seen, x = made(bimamba_type="v2"), [], torch.randn(2, 9, 16)
    mamba.x_proj_b.register_forward_hook(lambda *args: seen.append(1))
    with torch.no_grad():
        mamba(x)
    assert seen
    assert calls == []


@pytest.mark.parametrize("options", KINDS[:2], ids=str)
def test_a_bias_of_x_proj_is_added(calls, options):
    mamba, x = made(**options), torch.randn(2, 9, 16)
    name = "x_proj_b" if options else "x_proj"
    layer = nn.Linear(32, 33)
    setattr(mamba, name, layer)
    with torch.no_grad():
        found = mamba(x)
        layer.bias.zero_()
        unbiased = mamba(x)
        setattr(mamba, name, nn.Linear(32, 33, bias=False))
        getattr(mamba, name).weight.copy_(layer.weight)
        assert_near(mamba(x), unbiased)
    assert not torch.allclose(found, unbiased)


def test_a_bias_of_x_proj_is_added_to_a_step(calls):
    mamba, x = made(), torch.randn(1, 9, 16)
    mamba.x_proj = nn.Linear(32, 33)
    states = mamba.allocate_inference_cache(1, 9)
    with torch.no_grad():
        steps = [mamba.step(x[:, t : t + 1], *states)[0] for t in range(9)]
        assert_near(torch.cat(steps, 1), mamba(x))


def test_changed_weights_are_read_at_each_call():
    mamba, x = made(), torch.randn(1, 9, 16)
    with torch.no_grad():
        before = mamba(x)
        mamba.out_proj.weight.mul_(2)
        assert_near(mamba(x), 2 * before)
        mamba.A_log.add_(0.5)
        mamba.dt_proj = nn.Linear(1, 32)
        assert_near(mamba(x), alone(mamba, x))


def test_a_computed_decay():
    mamba, x = made(), torch.randn(1, 9, 16)

    class Shifted(nn.Module):
        def forward(self, A_log):
            return A_log + 0.5

    nn.utils.parametrize.register_parametrization(mamba, "A_log", Shifted())
    with torch.no_grad():
        assert_near(mamba(x), alone(mamba, x))


def test_gradients_go_the_other_way(calls):
    mamba, x = made(), torch.randn(1, 9, 16)
    out = mamba(x)
    out.square().mean().backward()
    assert calls[0] is None
    assert mamba.A_log.grad.abs().sum() > 0
    frozen = copy.deepcopy(mamba).requires_grad_(False)
    assert_near(frozen(x), out.detach())
    assert calls[1] is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_go_the_other_way(calls, dtype):
    mamba, x = made(), torch.randn(1, 9, 16)
    with torch.no_grad():
        with torch.autocast("cpu", dtype):
            mamba(x)
        assert calls == []
        half = copy.deepcopy(mamba).to(dtype)
        assert torch.equal(half(x.to(dtype)), alone(half, x.to(dtype)))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("options", KINDS[:2], ids=str)
def test_quantised_layers(calls, bits, options):
    from mamba_ssm import Mamba
    from mamba_ssm.utils.quantize import quantize

    torch.manual_seed(0)
    mamba, x = Mamba(64, layer_idx=0, **options).eval(), torch.randn(2, 9, 64)
    quantize(mamba, bits)
    with torch.no_grad():
        found = mamba(x)
        assert calls[0] is not None
        assert_near(found, alone(mamba, x), atol=2e-3)


def test_the_variable_forces_pytorch(calls, monkeypatch):
    monkeypatch.setenv("SELECTIVE_SCAN_FORCE_FALLBACK", "TRUE")
    with torch.no_grad():
        made()(torch.randn(1, 9, 16))
    assert calls == []


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_long_sequence(calls, monkeypatch, options):
    """The length that one call takes depends on the processor; here it takes all."""
    monkeypatch.setattr("selective_scan_cpu._mamba_forward._MOST", 1 << 25)
    mamba, x = made(**options), torch.randn(2, 5000, 16)
    with torch.no_grad():
        assert_near(mamba(x), copy.deepcopy(mamba).double()(x.double()).float(), 1e-5)
    assert calls[0] is not None
