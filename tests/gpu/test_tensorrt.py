"""The standard form in TensorRT: an engine of a Vision Mamba layer, compared with PyTorch."""

from __future__ import annotations

import pytest
import torch
from mamba_ssm import Mamba


@pytest.fixture(autouse=True)
def gpu(device):
    if device == "cpu":
        pytest.skip("TensorRT needs an NVIDIA GPU")
    for name in ("tensorrt", "onnx", "onnxscript"):
        pytest.importorskip(name)


@pytest.mark.parametrize("kind", ["none", "v2"])
def test_an_engine_computes_what_pytorch_computes(kind, tmp_path, monkeypatch):
    import tensorrt as trt

    monkeypatch.setenv("MAMBAPORT_ONNX_FORM", "standard")
    model = Mamba(64, bimamba_type=kind).eval().requires_grad_(False)
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        model,
        (torch.randn(2, 40, 64),),
        dynamo=True,
        verbose=False,
        opset_version=18,
        dynamic_shapes=({0: "batch", 1: "length"},),
        input_names=["rows"],
        output_names=["out"],
    ).save(path)

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(path.read_bytes())
    assert parsed, [parser.get_error(number).desc() for number in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    profile.set_shape("rows", (1, 1, 64), (2, 40, 64), (3, 400, 64))
    config.add_optimization_profile(profile)
    engine = trt.Runtime(logger).deserialize_cuda_engine(builder.build_serialized_network(network, config))
    context = engine.create_execution_context()
    exact = Mamba(64, bimamba_type=kind).double()
    exact.load_state_dict(model.state_dict())
    for batch, length in ((1, 1), (2, 40), (3, 400)):
        rows = torch.randn(batch, length, 64, device="cuda")
        out = torch.empty_like(rows)
        context.set_input_shape("rows", tuple(rows.shape))
        context.set_tensor_address("rows", rows.data_ptr())
        context.set_tensor_address("out", out.data_ptr())
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        assert context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        with torch.no_grad():
            wanted = exact(rows.cpu().double())
        assert float((out.cpu().double() - wanted).abs().max() / wanted.abs().max()) < 1e-4, (batch, length)
