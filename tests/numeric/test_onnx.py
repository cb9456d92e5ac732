"""torch.onnx.export of our models: the files in ONNX Runtime against float64, for lengths and batches."""

import importlib.util

import numpy as np
import pytest
import torch
from causal_conv1d import causal_conv1d_fn
from mamba_ssm import Mamba, Mamba2
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from torch import nn

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

FORM = "MAMBAPORT_ONNX_FORM"
OPSET = 18
NO_LIBRARY = importlib.util.find_spec("mambaport_onnx.library") is None
FORMS = ["standard", pytest.param("fused", marks=pytest.mark.skipif(NO_LIBRARY, reason="wheels without it"))]
MODELS = {
    "mamba": lambda: Mamba(24, d_state=8),
    "vim": lambda: Mamba(24, d_state=8, bimamba_type="v2", if_divide_out=True),
    "mamba2": lambda: Mamba2(32, d_state=16, headdim=8, ngroups=2),
}


def export(model, arguments, dynamic, path):
    with torch.no_grad():
        program = torch.onnx.export(
            model, arguments, dynamo=True, dynamic_shapes=dynamic, opset_version=OPSET, verbose=False
        )
    program.save(path)
    return onnx.load(path)


def session(path, form):
    options = ort.SessionOptions()
    if form == "fused":
        import mambaport_onnx

        mambaport_onnx.register(options)
    return ort.InferenceSession(path, options)


def run(runs, *tensors):
    names = [item.name for item in runs.get_inputs()]
    return runs.run(None, {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)})


def nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


def difference(found, wanted):
    wanted = wanted.double().numpy()
    return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_one_file_computes_every_length_and_batch(name, form, tmp_path, monkeypatch):
    monkeypatch.setenv(FORM, form)
    model = MODELS[name]().eval().requires_grad_(False)
    path = tmp_path / "model.onnx"
    file = export(model, (torch.randn(2, 40, model.d_model),), ({0: "batch", 1: "length"},), path)
    operators = list(nodes(file.graph))
    fused = {node.op_type for node in operators if node.domain == "ai.mambaport"}
    if form == "standard":
        assert not file.functions
        assert all(onnx.defs.has(node.op_type, OPSET, node.domain) for node in operators)
        assert {node.domain for node in operators} == {""}
        assert [item.domain for item in file.opset_import] == [""]
        onnx.checker.check_model(file, full_check=True)
    else:
        assert fused == (
            {"ChunkScan", "Norm", "CausalConv"} if name == "mamba2" else {"CausalConv", "ProjectedScan"}
        )
    assert len(operators) < 130  # none for each step
    runs, reference = session(path, form), model.double()
    for batch, length in ((1, 1), (3, 33), (1, 2000)):
        x = torch.randn(batch, length, model.d_model)
        assert difference(run(runs, x)[0], reference(x.double())) < 2e-6, (batch, length)


def test_the_number_of_nodes_does_not_depend_on_the_example(tmp_path):
    model = Mamba(16, d_state=4).eval().requires_grad_(False)
    counts = {
        length: len(
            list(nodes(export(model, (torch.randn(2, length, 16),), ({1: "length"},), tmp_path / "m").graph))
        )
        for length in (5, 300)
    }
    assert counts[5] == counts[300]


class Scan(nn.Module):
    """The scan with all arguments: u, delta, z, B and C in time; A, D, the bias; the last state."""

    def __init__(self, groups):
        super().__init__()
        self.A, self.D, self.bias = (
            nn.Parameter(t, requires_grad=False)
            for t in (-torch.rand(12, 5) * 4, torch.randn(12), torch.randn(12))
        )
        self.groups = groups

    def forward(self, u, delta, z, B, C):
        D, bias = self.D.to(u.dtype), self.bias.to(u.dtype)
        return selective_scan_fn(u, delta, self.A.to(u.dtype), B, C, D, z, bias, True, True)

    def inputs(self, batch, length):
        steps = [torch.randn(batch, 12, length) for _ in range(3)]
        groups = [] if self.groups is None else [self.groups]
        return *steps, *(torch.randn(batch, *groups, 5, length) for _ in range(2))


@pytest.mark.parametrize("form", FORMS)
def test_a_scan_with_groups(form, tmp_path, monkeypatch):
    monkeypatch.setenv(FORM, form)
    scan, path = Scan(3), tmp_path / "scan.onnx"
    last = {0: "batch", 2: "length"}
    export(
        scan,
        scan.inputs(2, 7),
        (last, last, last, {0: "batch", 3: "length"}, {0: "batch", 3: "length"}),
        path,
    )
    runs = session(path, form)
    inputs = scan.inputs(3, 20)
    wanted = scan(*(t.double() for t in inputs))
    for found, expected in zip(run(runs, *inputs), wanted, strict=True):
        assert difference(found, expected) < 2e-6


def test_large_steps_neither_overflow_nor_lose_the_last_input(tmp_path):
    scan, path = Scan(None), tmp_path / "scan.onnx"
    last = {2: "length"}
    export(scan, scan.inputs(1, 7), (last,) * 5, path)
    u, delta, z, B, C = scan.inputs(1, 50)
    inputs = (u, delta * 200, z, B, C)  # decays of e**-800 and steps of 0
    wanted = scan(*(t.double() for t in inputs))
    found = run(session(path, "standard"), *inputs)
    assert np.isfinite(found[0]).all()
    assert difference(found[0], wanted[0]) < 2e-6


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4), requires_grad=False)

    def forward(self, x, states):
        weight = self.weight.to(x.dtype)
        return causal_conv1d_fn(
            x, weight, None, initial_states=states, return_final_states=True, activation="silu"
        )


@pytest.mark.parametrize("form", FORMS)
def test_a_convolution_with_states(form, tmp_path, monkeypatch):
    monkeypatch.setenv(FORM, form)
    module, path = Convolution(), tmp_path / "conv.onnx"
    export(module, (torch.randn(1, 6, 9), torch.randn(1, 6, 3)), ({2: "length"}, {}), path)
    runs = session(path, form)
    for length in (1, 2, 30):
        inputs = (torch.randn(1, 6, length), torch.randn(1, 6, 3))
        for found, wanted in zip(run(runs, *inputs), module(*(t.double() for t in inputs)), strict=True):
            assert difference(found, wanted) < 1e-6


def test_another_word_for_the_form_is_refused(monkeypatch):
    monkeypatch.setenv(FORM, "fast")
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    with pytest.raises(ValueError, match="MAMBAPORT_ONNX_FORM is 'fast'; set it to standard or fused"):
        torch.export.export(Convolution(), (torch.randn(1, 6, 9), torch.randn(1, 6, 3)), strict=False)


def test_a_complex_scan_is_refused(tmp_path):
    class Complex(Scan):
        def forward(self, u, delta, B):
            return selective_scan_fn(u, delta, torch.complex(self.A, self.A), B, B)

    inputs = (torch.randn(1, 12, 4), torch.randn(1, 12, 4), torch.randn(1, 5, 8))
    with pytest.raises(Exception, match="ONNX has no complex numbers"):
        export(Complex(None), inputs, None, tmp_path / "scan.onnx")


def test_without_an_export_the_variable_has_no_effect(monkeypatch):
    monkeypatch.setenv(FORM, "fast")
    assert torch.isfinite(Mamba(16).eval()(torch.randn(1, 3, 16))).all()
