"""`mambaport bench` on a GPU: the graph of a function computes what the function computes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "toolchain" / "mambaport" / "running" / "runner"))


@pytest.fixture(autouse=True)
def gpu(device):
    if device == "cpu":
        pytest.skip("graphs are the GPU's")


def test_a_graph_computes_the_same_again():
    import bench
    import models
    import vim

    with torch.inference_mode():
        model = vim.build(models.Vision(64, depth=2, size=64), device="cuda")
        image = torch.randn(1, 3, 64, 64, device="cuda")
        graph = bench.captured(lambda: model(image))
        torch.testing.assert_close(graph(), model(image), rtol=1e-4, atol=1e-4)
        image.copy_(torch.randn_like(image))
        torch.testing.assert_close(graph(), model(image), rtol=1e-4, atol=1e-4)


def test_a_function_that_waits_for_the_gpu_has_no_graph():
    import bench

    x = torch.ones(3, device="cuda")
    assert bench.captured(lambda: x * x.sum().item()) is None
    assert float((x + 1).sum()) == 6  # the GPU is still there
