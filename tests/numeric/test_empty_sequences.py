"""Sequences of no tokens: empty results, by the kernels and by PyTorch, and a step after an empty prompt."""

import pytest
import torch
from mamba_ssm import Mamba, Mamba2, MambaLMHeadModel
from mamba_ssm.models.config_mamba import MambaConfig
from mamba_ssm.modules.mamba2_simple import Mamba2Simple
from mamba_ssm.modules.mha import MHA
from mamba_ssm.utils.generation import InferenceParams

FALLBACKS = ("CAUSAL_CONV1D_FORCE_FALLBACK", "SELECTIVE_SCAN_FORCE_FALLBACK")
DECODERS = {
    "Mamba": lambda: Mamba(64, layer_idx=0),
    "Mamba, unfused": lambda: Mamba(64, layer_idx=0, use_fast_path=False),
    "Mamba2": lambda: Mamba2(64, headdim=16, layer_idx=0),
    "Mamba2, unfused": lambda: Mamba2(64, headdim=16, layer_idx=0, use_mem_eff_path=False),
    "MHA": lambda: MHA(64, 4, causal=True, layer_idx=0, d_conv=4, rotary_emb_dim=8),
}
MODULES = {
    **DECODERS,
    "Vision Mamba v1": lambda: Mamba(64, bimamba_type="v1"),
    "Vision Mamba v2": lambda: Mamba(64, bimamba_type="v2"),
    "Mamba2Simple": lambda: Mamba2Simple(64, headdim=16),
}


@pytest.fixture(autouse=True, params=["FALSE", "TRUE"], ids=["kernels", "fallback"])
def path(request, monkeypatch):
    for name in FALLBACKS:
        monkeypatch.setenv(name, request.param)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_gives_an_empty_result_and_no_gradient(name):
    module = MODULES[name]()
    out = module(torch.randn(2, 0, 64))
    assert out.shape == (2, 0, 64)
    out.sum().backward()
    assert not any(p.grad.any() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", DECODERS)
def test_a_token_after_an_empty_prompt_is_the_first(name):
    module, token = DECODERS[name](), torch.randn(2, 1, 64)
    cache = InferenceParams(max_seqlen=4, max_batch_size=2)
    with torch.no_grad():
        assert module(torch.randn(2, 0, 64), inference_params=cache).shape == (2, 0, 64)
        cache.seqlen_offset = 1
        out = module(token, inference_params=cache)
        if name != "MHA":  # its cache's offset counts the empty place that the offset of 1 leaves
            torch.testing.assert_close(out, module(token), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "ssm", [{"layer": "Mamba1"}, {"layer": "Mamba2", "headdim": 8}], ids=["Mamba1", "Mamba2"]
)
def test_a_language_model_gives_no_logits(ssm):
    config = MambaConfig(d_model=32, n_layer=1, vocab_size=16, ssm_cfg=ssm)
    with torch.no_grad():
        assert MambaLMHeadModel(config).eval()(torch.zeros(2, 0, dtype=torch.long)).logits.shape == (2, 0, 16)
