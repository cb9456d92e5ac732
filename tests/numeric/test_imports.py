"""What imports, without what; each in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
OPTIONAL = [
    "triton",
    "transformers",
    "huggingface_hub",
    "flash_attn",
    "tilelang",
    "tvm_ffi",
    "quack",
    "cutlass",
    "cuda",
]
EVERYTHING = """
import importlib, pkgutil, causal_conv1d, mamba_ssm
for package in (causal_conv1d, mamba_ssm):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:  # files of GPU kernels, written in these languages
            of_gpu = module.name.startswith(("mamba_ssm.ops.tilelang.mamba3.", "mamba_ssm.ops.cute.mamba3."))
            assert of_gpu and error.name.partition(".")[0] in ("tilelang", "cuda", "cutlass", "quack"), error
import selective_scan_cuda, selective_scan_cuda_core, selective_scan_cuda_oflex, causal_conv1d_cuda
from mamba_ssm.ops.triton.layer_norm import RMSNorm, layer_norm_fn, rms_norm_fn
from mamba_ssm.ops.triton.layernorm_gated import RMSNorm as Gated
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined
for function in (RMSNorm, layer_norm_fn, rms_norm_fn, Gated, selective_state_update,
                 mamba_chunk_scan_combined, mamba_split_conv1d_scan_combined):
    assert callable(function), function
"""
USE = """
import torch
ids = torch.randint(16, (1, 3))
for cfg in ({}, {"layer": "Mamba2", "headdim": 8}):
    config = mamba_ssm.models.config_mamba.MambaConfig(d_model=8, n_layer=1, vocab_size=16, ssm_cfg=cfg)
    model = mamba_ssm.MambaLMHeadModel(config)
    model(ids).logits.sum().backward()
    assert model.generate(ids, max_length=5).shape == (1, 5)
"""


def run(code, absent=(), environment=None):
    import os

    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", ABSENT.format(absent=list(absent)) + code],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **(environment or {})},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_every_module_imports_without_any_optional_package():
    run(EVERYTHING + USE, OPTIONAL)


@pytest.mark.parametrize(
    "kernels", [["causal_conv1d_cpu"], ["selective_scan_cpu"], ["causal_conv1d_cpu", "selective_scan_cpu"]]
)
def test_without_kernels(kernels):
    run(EVERYTHING + USE, [*OPTIONAL, *kernels])


def test_mamba_ssm_without_causal_conv1d():
    absent = [*OPTIONAL, "causal_conv1d", "causal_conv1d_cpu"]
    run("import mamba_ssm\n" + USE, absent)


def test_import_is_light():
    """transformers takes seconds to import on a small board, and is not needed. An installed triton is."""
    assert run("import mamba_ssm, sys; print('transformers' in sys.modules)").strip() == "False"


def test_a_torch_without_distributed():
    """Jetson's: the package is there, says that it is not available, and has none of its names."""
    code = """
import torch, torch.distributed as d
for name in ("ProcessGroup", "all_gather_into_tensor", "reduce_scatter_tensor", "_all_gather_base",
             "_reduce_scatter_base", "is_initialized"):
    if hasattr(d, name):
        delattr(d, name)
d.is_available = lambda: False
"""
    run(code + EVERYTHING + USE, [*OPTIONAL, "causal_conv1d_cpu", "selective_scan_cpu"])


def test_an_extension_for_another_torch_is_reported(tmp_path):
    for name in ("causal_conv1d_cuda", "selective_scan_cuda"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('undefined symbol: _ZN3c10')")
    code = f"""
import sys, warnings
sys.path.insert(0, {str(tmp_path)!r})
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import mamba_ssm
text = " ".join(str(w.message) for w in seen)
assert text.count("undefined symbol: _ZN3c10") == 2, text
from mamba_ssm.ops.cuda_extension import selective_scan_cuda
assert not selective_scan_cuda
try:
    selective_scan_cuda.fwd()
except RuntimeError as error:
    assert "undefined symbol" in str(error)
else:
    raise AssertionError
"""
    run(code)


def test_launching_a_kernel_says_why_it_cannot():
    import torch

    if torch.cuda.is_available():
        pytest.skip("triton runs here")
    from mamba_ssm.ops.triton.layer_norm import _layer_norm_fwd_1pass_kernel

    with pytest.raises(RuntimeError, match="needs triton and a GPU"):
        _layer_norm_fwd_1pass_kernel[(1,)](None)


def test_functions_of_triton_only_name_the_one_to_call():
    import torch

    if torch.cuda.is_available():
        pytest.skip("triton runs here")
    from mamba_ssm.ops.triton import (
        k_activations,
        layer_norm,
        layernorm_gated,
        ssd_chunk_scan,
        ssd_chunk_state,
        ssd_combined,
        ssd_state_passing,
    )

    x, w = torch.randn(1, 8, 2, 4), torch.randn(4)
    calls = {
        "swiglu": lambda: k_activations.SwiGLU.apply(x),
        "layer_norm_fn": lambda: layer_norm.LayerNormFn.apply(x, w, w),
        "layer_norm_linear_fn": lambda: layer_norm.LayerNormLinearFn.apply(x, w, w, torch.randn(4, 4), w),
        "layernorm_fn": lambda: layernorm_gated.LayerNormFn.apply(x, w, w),
        "chunk_scan": lambda: ssd_chunk_scan.ChunkScanFn.apply(x, x, x, x, x, x),
        "chunk_state": lambda: ssd_chunk_state.ChunkStateFn.apply(x, x, x, x),
        "state_passing": lambda: ssd_state_passing.StatePassingFn.apply(x, x),
        "mamba_chunk_scan_combined": lambda: ssd_combined.MambaChunkScanCombinedFn.apply(x, x, w, x, x, 4),
        "mamba_split_conv1d_scan_combined": lambda: ssd_combined.MambaSplitConv1dScanCombinedFn.apply(
            x, w, w, w, w, w, 4
        ),
    }
    for name, call in calls.items():
        with pytest.raises(RuntimeError, match=f"on a GPU with triton; {name} takes any"):
            call()


@pytest.mark.parametrize("value", ["TRUE", "1", "yes", "On"])
def test_the_switches(value, monkeypatch):
    from causal_conv1d import dispatch as conv
    from mamba_ssm.ops import dispatch as scan

    for module, name in ((conv, "CAUSAL_CONV1D_FORCE_FALLBACK"), (scan, "SELECTIVE_SCAN_FORCE_FALLBACK")):
        monkeypatch.delenv(name, raising=False)
        assert not module.force_fallback()
        monkeypatch.setenv(name, value)
        assert module.force_fallback()
        monkeypatch.setenv(name, "FALSE")
        assert not module.force_fallback()


@pytest.mark.parametrize("name", ["state-spaces/nothing"])
def test_the_hub_without_its_package(name):
    code = f"""
from mamba_ssm import MambaLMHeadModel, Mamba2
for call in (lambda: MambaLMHeadModel.from_pretrained({name!r}), lambda: Mamba2.from_pretrained({name!r})):
    try:
        call()
    except ImportError as error:
        assert "pip install huggingface_hub" in str(error), error
    else:
        raise AssertionError
"""
    run(code, OPTIONAL)


def test_the_norms_are_found_under_their_name_of_releases_1():
    run("""
import mamba_ssm
import mamba_ssm.ops.triton.layernorm as old
from mamba_ssm.ops.triton.layernorm import RMSNorm, layer_norm_fn, rms_norm_fn
import mamba_ssm.ops.triton.layer_norm as new
assert old is new and mamba_ssm.ops.triton.layernorm is new
assert RMSNorm is new.RMSNorm and layer_norm_fn is new.layer_norm_fn
""")
