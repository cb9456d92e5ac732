"""torch.onnx.export of our models: the files in ONNX Runtime against float64, for lengths and batches."""

import importlib.util

import numpy as np
import pytest
import selective_scan_cuda
import selective_scan_cuda_core
import selective_scan_cuda_oflex
import torch
from causal_conv1d import causal_conv1d_fn
from mamba_ssm import Mamba, Mamba2
from mamba_ssm.ops import standard
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from mamba_ssm.utils.quantize import quantize
from tensorrt_operators import refused
from torch import nn

try:
    from mamba_ssm import Mamba3
except ImportError:
    Mamba3 = None

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

FORM = "MAMBAPORT_ONNX_FORM"
OPSET = 18
NO_LIBRARY = importlib.util.find_spec("mambaport_onnx.library") is None
FORMS = ["standard", pytest.param("fused", marks=pytest.mark.skipif(NO_LIBRARY, reason="wheels without it"))]
FUSED_MAMBA3 = pytest.param("fused", {"is_outproj_norm": True}, marks=FORMS[1].marks)
MODELS = {
    "mamba": lambda: Mamba(24, d_state=8),
    "vim": lambda: Mamba(24, d_state=8, bimamba_type="v2", if_divide_out=True),
    "videomamba": lambda: Mamba(24, d_state=8, bimamba_type="v2", conv_bias=False),
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
        assert name == "mamba2" or not refused(file)
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


def quantized_model(bits):
    model = nn.Sequential(nn.Embedding(100, 64), nn.Linear(64, 80), nn.Tanh(), nn.Linear(80, 100))
    return quantize(model, bits)


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_8_bits(form, tmp_path, monkeypatch):
    """The products of integers are exact, so the file differs from PyTorch as a float32 file does."""
    monkeypatch.setenv(FORM, form)
    model, path = quantized_model(8), tmp_path / "model.onnx"
    file = export(model, (torch.randint(0, 100, (2, 9)),), ({0: "batch", 1: "length"},), path)
    names = [node.op_type for node in nodes(file.graph)]
    assert names.count("QuantizedLinear") == (2 if form == "fused" else 0)
    runs = session(path, form)
    for batch, length in ((1, 1), (3, 33)):
        tokens = torch.randint(0, 100, (batch, length))
        assert difference(run(runs, tokens)[0], model(tokens)) < 2e-6, (batch, length)


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_4_bits_are_refused(form, tmp_path, monkeypatch):
    monkeypatch.setenv(FORM, form)
    with pytest.raises(Exception, match="weights of 4 bits are not exported"):
        export(quantized_model(4), (torch.randint(0, 100, (2, 9)),), ({1: "length"},), tmp_path / "m")


def test_the_number_of_nodes_does_not_depend_on_the_example(tmp_path):
    model = Mamba(16, d_state=4).eval().requires_grad_(False)
    counts = {
        length: len(
            list(nodes(export(model, (torch.randn(2, length, 16),), ({1: "length"},), tmp_path / "m").graph))
        )
        for length in (5, 300)
    }
    assert counts[5] == counts[300]


@pytest.mark.parametrize("size", [1e-30, 1e-8, 1e-3, 1.0, 15.0, 80.0, 1e4, 1e30])
def test_softplus_is_exact_for_small_and_large_numbers(size):
    x = torch.linspace(-size, size, 10001)
    wanted = torch.nn.functional.softplus(x.double(), threshold=1000)
    found = standard.softplus(x).double()
    assert torch.isfinite(found).all()
    assert ((found - wanted).abs() <= 5e-7 * wanted + 1e-37).all()


def test_both_directions_are_one_scan(tmp_path):
    model, path = MODELS["vim"]().eval().requires_grad_(False), tmp_path / "model.onnx"
    file = export(model, (torch.randn(2, 9, model.d_model),), ({0: "batch", 1: "length"},), path)
    assert [node.op_type for node in file.graph.node].count("Scan") == 1


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


class Flattened(torch.autograd.Function):
    """An image (batch, channels, height, width) in four orders, (batch, 4, channels, height * width)."""

    @staticmethod
    def forward(ctx, image):
        batch, channels, height, width = image.shape
        rows = image.new_empty((batch, 4, channels, height * width))
        rows[:, 0] = image.flatten(2)
        rows[:, 1] = image.transpose(2, 3).flatten(2)
        rows[:, 2:] = rows[:, :2].flip(-1)
        return rows


class Scanned(torch.autograd.Function):
    """The call of an extension module in VMamba and Mamba-YOLO: below every function of mamba_ssm."""

    @staticmethod
    def forward(ctx, module, u, delta, A, B, C, D, bias):
        words = (u, delta, A, B, C, D, None, bias, True)
        out, x, *_ = module.fwd(*(words if module is selective_scan_cuda else words[:6] + words[7:]))
        ctx.save_for_backward(u, delta, A, B, C, D, bias, x)
        return out


class FourWays(nn.Module):
    """The scan of an image in four directions, with a group of B and C for each."""

    def __init__(self, module, dstate, channels=8):
        super().__init__()
        self.module, self.dstate, self.d_model = module, dstate, channels
        self.projection = nn.Parameter(torch.randn(4, 3 + 2 * dstate, channels) / 4)
        self.delta = nn.Parameter(torch.randn(4, channels, 3))
        self.A_log, self.D, self.bias = (
            nn.Parameter(t) for t in (torch.rand(4 * channels, dstate), *torch.randn(2, 4 * channels))
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, image):
        batch, channels, height, width = image.shape
        rows = Flattened.apply(image)
        projected = torch.einsum("bkdl,kcd->bkcl", rows, self.projection)
        low, B, C = projected.split([3, self.dstate, self.dstate], 2)
        delta = torch.einsum("bkrl,kdr->bkdl", low, self.delta)
        u, delta = (t.contiguous().view(batch, -1, height * width) for t in (rows, delta))
        words = (-self.A_log.exp(), B.contiguous(), C.contiguous(), self.D, self.bias)
        out = Scanned.apply(self.module, u, delta, *words).view(batch, 4, channels, -1)
        out = out[:, :2] + out[:, 2:].flip(-1)
        other = out[:, 1].view(batch, channels, width, height).transpose(2, 3).flatten(2)
        return self.norm((out[:, 0] + other).transpose(1, 2))


@pytest.mark.parametrize(
    ("module", "dstate", "form"),
    [
        (selective_scan_cuda_core, 6, FORMS[0]),
        (selective_scan_cuda_oflex, 1, FORMS[0]),
        pytest.param(selective_scan_cuda, 6, "fused", marks=FORMS[1].marks),
    ],
)
def test_other_repositories_scans_of_images(module, dstate, form, tmp_path, monkeypatch):
    """Of any size, with parameters that have gradients: their code has no torch.no_grad."""
    monkeypatch.setenv(FORM, form)
    model, path = FourWays(module, dstate).eval(), tmp_path / "scan.onnx"
    dynamic = ({0: "batch", 2: "height", 3: "width"},)
    words = {"dynamic_shapes": dynamic, "opset_version": OPSET, "verbose": False}
    torch.onnx.export(model, (torch.randn(2, 8, 4, 5),), dynamo=True, **words).save(path)
    file = onnx.load(path)
    if form == "standard":
        assert not refused(file)
    else:
        assert [node.op_type for node in nodes(file.graph) if node.domain] == ["SelectiveScan"]
    runs = session(path, form)
    for shape in ((1, 8, 1, 1), (3, 8, 7, 6)):
        image = torch.randn(shape)
        assert difference(run(runs, image)[0], model(image).detach()) < 1e-5, shape


@pytest.mark.skipif(Mamba3 is None, reason="a release of mamba_ssm without Mamba-3")
def test_mamba_3_at_the_length_of_the_example(tmp_path):
    model = Mamba3(32, d_state=16, headdim=16).eval().requires_grad_(False)
    path = tmp_path / "model.onnx"
    file = export(model, (torch.randn(2, 70, 32),), ({0: "batch"},), path)
    assert {node.domain for node in nodes(file.graph)} == {""}
    rows = torch.randn(3, 70, 32)
    assert difference(run(session(path, "standard"), rows)[0], model(rows)) < 1e-5


@pytest.mark.skipif(Mamba3 is None, reason="a release of mamba_ssm without Mamba-3")
@pytest.mark.parametrize(
    ("form", "options"),
    [("standard", {}), ("standard", {"is_mimo": True, "mimo_rank": 2, "ngroups": 2}), FUSED_MAMBA3],
)
def test_mamba_3_at_every_length(form, options, tmp_path, monkeypatch):
    monkeypatch.setenv(FORM, form)
    model, path = Mamba3(32, d_state=16, headdim=16, **options), tmp_path / "model.onnx"
    model.eval().requires_grad_(False)
    file = export(model, (torch.randn(2, 70, 32),), ({0: "batch", 1: "length"},), path)
    assert [node.op_type for node in nodes(file.graph)].count("Scan") == 2
    runs = session(path, form)
    for batch, length in ((1, 1), (3, 33), (1, 2000)):
        rows = torch.randn(batch, length, 32)
        assert difference(run(runs, rows)[0], model(rows)) < 1e-5, (batch, length)


def test_what_tensorrt_refuses_is_found():
    def model(*nodes, opset=18):
        ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"]
        graph = onnx.helper.make_graph(nodes, "graph", ends[:1], ends[1:])
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])

    node = onnx.helper.make_node
    assert refused(model(node("Exp", ["x"], ["y"]))) == []
    assert refused(model(node("Exp", ["x"], ["y"]), opset=22)) == ["opset 22 of ai.onnx"]
    assert refused(model(node("Det", ["x"], ["y"]))) == ["operator  Det"]
    assert refused(model(node("Norm", ["x"], ["y"], domain="ai.mambaport"))) == ["operator ai.mambaport Norm"]
    assert refused(model(node("Squeeze", ["x", "x"], ["y"]))) == ["Squeeze, whose input 1 is no constant"]
