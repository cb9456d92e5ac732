"""Mamba's step takes the kernel for the whole mixer only where the module's layers are plain."""

from __future__ import annotations

import pytest
import torch

kernels = pytest.importorskip("selective_scan_cpu")


def test_the_module_takes_it_only_for_plain_layers(monkeypatch):
    from mamba_ssm import Mamba

    taken = []
    step = kernels.mamba_step
    monkeypatch.setattr(kernels, "mamba_step", lambda *args: taken.append(1) or step(*args))
    mamba = Mamba(16, layer_idx=0)
    x, states = torch.randn(1, 1, 16), mamba.allocate_inference_cache(1, 1)

    def run():
        with torch.no_grad():
            return mamba.step(x, *(s.clone() for s in states))[0]

    fused = run()
    assert taken == [1]
    seen = []
    handle = mamba.x_proj.register_forward_hook(lambda *args: seen.append(1))
    hooked = run()
    handle.remove()
    assert taken == seen == [1]
    assert torch.allclose(fused, hooked, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"is_mimo": True}, {"is_outproj_norm": True}], ids=str)
def test_mamba3_takes_it_only_for_plain_layers(monkeypatch, options):
    Mamba3 = pytest.importorskip("mamba_ssm.modules.mamba3", reason="this release has no Mamba-3").Mamba3
    taken = []
    step = kernels.mamba3_step
    monkeypatch.setattr(kernels, "mamba3_step", lambda *args: taken.append(1) or step(*args))
    mixer = Mamba3(16, d_state=16, headdim=16, layer_idx=0, **options)
    x, states = torch.randn(1, 1, 16), mixer.allocate_inference_cache(1, 1)

    def run():
        with torch.no_grad():
            return mixer.step(x, *(s.clone() for s in states))[0]

    fused = run()
    assert taken == [1]
    seen = []
    handle = mixer.B_norm.register_forward_hook(lambda *args: seen.append(1))
    hooked = run()
    handle.remove()
    assert taken == seen == [1]
    assert torch.allclose(fused, hooked, atol=1e-5)
