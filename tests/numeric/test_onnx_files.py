"""`mambaport export` in the environment of the models: files, states, comparisons with PyTorch, refusals."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import export as exporting  # noqa: E402 - the runner's
import onnx_bench  # noqa: E402
import onnx_language  # noqa: E402
import onnx_models  # noqa: E402
import onnx_session  # noqa: E402
import setting  # noqa: E402
from answers import MARK, Refusal  # noqa: E402
from models import LANGUAGE  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from tensorrt_operators import refused  # noqa: E402

NO_LIBRARY = importlib.util.find_spec("mambaport_onnx.library") is None
FORMS = ["standard", pytest.param("fused", marks=pytest.mark.skipif(NO_LIBRARY, reason="wheels without it"))]


def request_for(model, path, **changes):
    request = {
        "model": model,
        "form": "standard",
        "int8": False,
        "output": str(path),
        "threads": 1,
        "size": None,
    }
    return {**request, "depth": 1, "checkpoint": None, "mambaport": "1.0", **changes}


@pytest.mark.parametrize("form", FORMS)
def test_vision_mamba(form, tmp_path):
    path = tmp_path / "vim.onnx"
    result = exporting.export(request_for("vim-tiny", path, form=form, size=224))
    assert result["largest_difference"] < 1e-5
    assert [item["batch"] for item in result["compared"]] == [1, 3]
    assert (result["fused_nodes"] > 0) == (form == "fused")
    assert result["opset"] >= 18
    assert form == "fused" or not refused(onnx.load(path))
    assert [item.name for item in tmp_path.iterdir()] == ["vim.onnx"]
    described = onnx_session.properties(onnx_session.open_session(path))
    assert described["model"], described["form"] == ("vim-tiny", form)
    assert described["weights"] == "random, seed 0"
    assert described["size"] == "224"


def test_a_larger_difference_than_the_allowed_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(exporting.AGREE, True, 1e-6)  # int8 differs by more
    with pytest.raises(Refusal, match="disagree on vim-tiny") as refusal:
        exporting.export(request_for("vim-tiny", tmp_path / "vim.onnx", int8=True, size=32))
    assert "of the largest logit" in refusal.value.fields["found"]


LONG = pytest.mark.skipif("MAMBAPORT_TEST_ONNX" not in os.environ, reason="`make test-onnx` runs it")
LANGUAGES = [("mamba-130m", "standard"), ("mamba2-130m", "standard"), ("mamba2-130m", "fused")]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Few runs for the times."""
    monkeypatch.setattr(onnx_models, "SECONDS", 0.0)


@pytest.mark.parametrize(
    ("model", "form"), [("mamba-130m", "fused"), *(pytest.param(*case, marks=LONG) for case in LANGUAGES)]
)
def test_one_file_reads_a_prompt_and_decodes(model, form, tmp_path, monkeypatch):
    if form == "fused" and NO_LIBRARY:
        pytest.skip("wheels without the operators")
    monkeypatch.setitem(LANGUAGE, model, replace(LANGUAGE[model], vocabulary=200))
    monkeypatch.setattr(exporting, "EXTERNAL_BYTES", 1000)
    path = tmp_path / "model.onnx"
    result = exporting.export(request_for(model, path, form=form))
    assert result["largest_difference"] < 1e-5
    assert {item["length"] for item in result["compared"]} == {1, 5, 100}
    assert {item["measure"] for item in result["times"]} == {"prefill", "decode"}
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    names = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    projections = 4 if model == "mamba-130m" else 3
    assert names.count("Linear") == (projections if form == "fused" else 0)
    assert ("MatMul" in names) == (form == "standard")
    check_bench(path, result)
    path.with_name("model.onnx.data").unlink()
    with pytest.raises(Refusal, match=r"weights of .* are not beside it"):
        onnx_session.open_session(path)


INT8 = [
    ("mamba-130m", "fused", {"QuantizedLinear"}),
    pytest.param("mamba2-130m", "fused", {"QuantizedLinear"}, marks=LONG),
    pytest.param("mamba-130m", "standard", {"DynamicQuantizeLinear", "MatMulInteger"}, marks=LONG),
]


@pytest.mark.parametrize(("model", "form", "products"), INT8)
def test_a_language_model_with_int8_projections(model, form, products, tmp_path, monkeypatch):
    """Rounding to 8 bits changes a logit by 5e-3 to 2.2e-2 of the largest here."""
    if form == "fused" and NO_LIBRARY:
        pytest.skip("wheels without the operators")
    monkeypatch.setitem(LANGUAGE, model, replace(LANGUAGE[model], vocabulary=500))
    monkeypatch.setattr(exporting, "EXTERNAL_BYTES", 1000)
    path = tmp_path / "model.onnx"
    result = exporting.export(request_for(model, path, form=form, int8=True))
    assert 1e-4 < result["largest_difference"] < 0.04
    assert [item["measure"] for item in result["times"]] == ["prefill", "decode"]
    file = onnx.load(path, load_external_data=False)
    names = [node.op_type for node in file.graph.node]
    assert products <= set(names)
    assert "Linear" not in names
    if form == "fused":
        projections = 4 if model == "mamba-130m" else 3
        assert names.count("QuantizedLinear") == projections
        assert "MatMul" not in names
        # The embedding and the output layer are one table of 8 bits.
        floats = {tuple(item.dims) for item in file.graph.initializer if item.data_type == TensorProto.FLOAT}
        assert not any(len(dims) == 2 and min(dims) > 100 for dims in floats), floats


def check_bench(path, exported):
    """`bench` of the file; and the states of a decoder stay where the decoder has put them."""
    asked = {"checkpoint": str(path), "threads": 1, "seconds": 0.01, "prompt": 7}
    result = onnx_bench.bench(asked)
    assert [item["measure"] for item in result["measures"]] == ["prefill", "decode"]
    assert all(item["runs"] >= 5 and item["flops"]["scan"] > 0 for item in result["measures"])
    assert (result["model"], result["depth"], result["prompt"]) == (exported["model"], 1, 7)
    assert result["environment"]["torch"] is None

    session = onnx_session.open_session(path, 1)
    decoder = onnx_language.Decoder(session, torch.ones(1, 1).long().numpy(), onnx_language.zeros(session, 1))
    addresses = []
    for _ in range(4):
        decoder.step()
        addresses.append([value.data_ptr() for value in decoder.bindings[1].get_outputs()[1:]])
    assert addresses[0] == addresses[2]
    assert addresses[1] == addresses[3]
    if exported["form"] == "fused":
        assert addresses[0] == addresses[1]
    else:
        assert not set(addresses[0]) & set(addresses[1])


def test_bench_wants_a_file_of_export(tmp_path):
    path = tmp_path / "model.onnx"
    model_of(helper.make_node("Relu", ["x"], ["y"]), path)
    with pytest.raises(Refusal, match="not a model that mambaport exported"):
        onnx_bench.bench({"checkpoint": str(path), "threads": 1})
    model = onnx.load(path)
    for name in ("model", "form", "mamba_ssm", "causal_conv1d"):
        model.metadata_props.add(key=f"mambaport.{name}", value="unknown")
    onnx.save(model, path)
    with pytest.raises(Refusal, match="not a model that mambaport exported") as refusal:
        onnx_bench.bench({"checkpoint": str(path), "threads": 1})
    assert "model unknown" in refusal.value.fields["found"]


def model_of(node, path):
    """A file of one node from x to y."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 3]) for name in "xy"]
    weight = numpy_helper.from_array(torch.ones(2, 4).numpy(), "w")
    graph = helper.make_graph([node], "one", tensors[:1], tensors[1:], [weight])
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.mambaport", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), path)


def test_operators_of_other_kernels_are_named(tmp_path):
    path = tmp_path / "model.onnx"
    model_of(helper.make_node("Unknown", ["x", "w"], ["y"], domain="ai.mambaport"), path)
    expected = "needs mambaport's operators" if NO_LIBRARY else "exported for other kernels"
    with pytest.raises(Refusal, match=expected):
        onnx_session.open_session(path)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(Refusal, match="ONNX Runtime does not take"):
        onnx_session.open_session(path)


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(Refusal, match="There is no file"):
        onnx_session.open_session(tmp_path / "model.onnx")


def test_an_old_onnxruntime_is_refused(monkeypatch):
    monkeypatch.setitem(onnx_session.LEAST, "onnxruntime", (99, 0))
    with pytest.raises(Refusal, match="too old") as refusal:
        onnx_session.require_versions("onnxruntime")
    assert refusal.value.fields["kind"] == "host"
    assert "pip install 'onnxruntime>=99.0'" in refusal.value.fields["hint"]


def test_an_absent_package_is_refused(monkeypatch):
    monkeypatch.setitem(onnx_session.LEAST, "no-such-package", (1, 0))
    with pytest.raises(Refusal, match="There is no no-such-package"):
        onnx_session.require_versions("no-such-package")


def test_what_the_exporter_does_not_take_is_named(tmp_path, monkeypatch):
    import vim

    class Sorted(vim.VisionMamba):
        def forward(self, image):
            return torch.linalg.eigvals(super().forward(image)[:, :4].unflatten(1, (2, 2))).real

    monkeypatch.setattr(vim, "VisionMamba", Sorted)
    with pytest.raises(Refusal, match="exporter does not take vim-tiny") as refusal:
        exporting.export(request_for("vim-tiny", tmp_path / "vim.onnx", size=32))
    assert "eig" in refusal.value.fields["found"]


OLDER = """
import runpy, sys
from mamba_ssm.ops import exporting
del exporting.quantized_linear
sys.argv.pop(0)  # -c
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("model", ["mamba-130m", "vim-tiny"])
def test_wheels_older_than_the_runner_are_named(model, tmp_path):
    """Wheels without a name that this runner calls: what to do is said, and there is no traceback."""
    request = {**request_for(model, tmp_path / "file.onnx", size=32), "task": "export"}
    (tmp_path / "request.json").write_text(json.dumps(request))
    runner = Path(exporting.__file__).parent
    words = [sys.executable, "-c", OLDER, runner, tmp_path / "request.json"]
    ran = subprocess.run(words, check=False, capture_output=True, text=True)
    assert ran.returncode == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    error = json.loads(ran.stdout.rpartition(MARK)[2])["error"]
    assert error["kind"] == "host"
    assert "older than this mambaport" in error["what"]
    assert "quantized_linear" in error["found"]
    assert "mambaport install" in error["hint"]


def test_a_name_that_is_missing_elsewhere_is_no_matter_of_old_wheels():
    import mamba_ssm.ops

    with pytest.raises(AttributeError) as of_wheels:
        mamba_ssm.ops.no_such_name  # noqa: B018
    assert "older than this mambaport" in str(setting.outdated(of_wheels.value))
    with pytest.raises(AttributeError) as of_torch:
        torch.no_such_name  # noqa: B018
    assert setting.outdated(of_torch.value) is None
    assert setting.outdated(ModuleNotFoundError("none", name="mamba_ssm")) is None
