"""What line 2.3 has and the default line has not."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import causal_conv1d
import mamba_ssm
import pytest
import torch
from causal_conv1d import causal_conv1d_fn
from causal_conv1d.causal_conv1d_interface import causal_conv1d_ref
from mamba_ssm import Mamba, Mamba2
from packaging.version import Version
from reference import assert_close, compare_gradients, double

pytestmark = pytest.mark.skipif(
    Version(mamba_ssm.__version__).release < (2, 3, 2), reason="the installed wheels are of another line"
)


@pytest.fixture
def determinism():
    """Upstream's switch, as it is after the import."""
    module = importlib.import_module("mamba_ssm.utils.determinism")
    yield module
    module.set_deterministic_mode(None)
    torch.use_deterministic_algorithms(False)


def test_the_packages_belong_together():
    assert Version(causal_conv1d.__version__).release >= (1, 7)
    assert mamba_ssm.Mamba3.__module__ == "mamba_ssm.modules.mamba3"


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("with_states", [False, True])
def test_packed_convolution_against_upstream_s_reference(with_states):
    seq_idx = torch.tensor([[3, 5, 5, 5, 9, 9, 9], [4, 4, 6, 6, -1, -1, 8]], dtype=torch.int32)
    given = [torch.randn(shape, requires_grad=True) for shape in ((2, 8, 7), (8, 4), (8,))]
    states = torch.randn(2, 8, 3, requires_grad=True) if with_states else None
    out = causal_conv1d_fn(*given, seq_idx, states, activation="silu")
    wide, wide_states = double(*given), double(states)
    expected = causal_conv1d_ref(*wide, wide_states, activation="silu", seq_idx=seq_idx)
    assert_close(out, expected)
    compare_gradients(out, [*given, states], expected, [*wide, wide_states])


def test_the_switch_of_determinism(determinism, monkeypatch):
    assert not determinism.use_deterministic_mode()
    torch.use_deterministic_algorithms(True)
    assert determinism.use_deterministic_mode()
    monkeypatch.setenv("MAMBA_DETERMINISTIC", "0")
    assert not determinism.use_deterministic_mode()
    determinism.set_deterministic_mode(True)
    assert determinism.use_deterministic_mode()
    space, stride = determinism.alloc_tile_workspace((2, 3), 4, torch.float32, "cpu", True)
    assert space.shape == (2, 3, 4)
    assert stride == 1
    assert torch.equal(determinism.finalize_tile_workspace(space + 1, True), torch.full((2, 3), 4.0))


def test_importing_in_deterministic_mode_advises_nothing():
    """Without triton no kernel is tuned, so there is nothing to make deterministic."""
    subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", "import mamba_ssm"],
        env={**os.environ, "MAMBA_DETERMINISTIC": "1"},
        check=True,
    )


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("layer", [Mamba, Mamba2], ids=lambda layer: layer.__name__)
def test_results_are_the_same_bits_each_time(layer, determinism):
    torch.use_deterministic_algorithms(True)
    determinism.set_deterministic_mode(True)
    options = {"headdim": 8} if layer is Mamba2 else {}
    model, x = layer(64, **options), torch.randn(2, 96, 64)
    threads = torch.get_num_threads()
    seen = []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            model.zero_grad()
            out = model(x)
            out.square().sum().backward()
            seen.append([out.detach(), *(p.grad for p in model.parameters())])
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, seen[1], seen[2]))
    assert torch.equal(seen[0][0], seen[1][0])
