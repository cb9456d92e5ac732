"""What the operators of mambaport_onnx refuse, and in which words; no input ends the process."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import selective_scan_cpu

mambaport_onnx = pytest.importorskip("mambaport_onnx", reason="the installed wheels have no mambaport_onnx")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from mambaport_onnx.operators import OPERATORS, Operator  # noqa: E402
from mambaport_onnx.schemas import register_schemas  # noqa: E402
from mambaport_onnx.shapes import infer  # noqa: E402
from onnx_graphs import model, run, session  # noqa: E402

LENGTHS = {
    "batch": 2, "dim": 4, "seqlen": 5, "width": 3, "dstate": 6, "groups": 2, "rank": 3, "heads": 4, "head_dim": 7,
    "features": 8, "state_len": 4, "columns": 9, "rows": 10, "tiles": 1, "parts": 8,
}  # fmt: skip
EACH = pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)


def axes_of(text: str) -> list[str]:
    """The axes of the first shape of a text."""
    return text.split("|", maxsplit=1)[0].replace("... ", "batch seqlen ").split()


def shape_of(text: str, lengths=LENGTHS) -> tuple[int, ...]:
    """The first shape of a text, with these lengths."""
    return tuple(eval(axis.partition("@")[0], {}, dict(lengths)) for axis in axes_of(text))


def values_of(op: Operator) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {value.name: rng.standard_normal(shape_of(value.shape)).astype(value.dtype) for value in op.inputs}
    return {key: np.zeros(a.shape, np.int32) if key == "seq_idx" else a for key, a in made.items()}


def attributes_of(op: Operator) -> dict[str, int]:
    return {"gate": 1} if op.name == "Norm" else {}


@EACH
def test_each_operator_takes_all_inputs_and_the_required_alone(op):
    values = values_of(op)
    for feed in (values, {v.name: values[v.name] for v in op.inputs if not v.optional}):
        found = run(op.name, **feed, **(attributes_of(op) if "z" in feed else {}))
        shapes = infer(op, [list(feed[v.name].shape) if v.name in feed else None for v in op.inputs], {})
        assert [list(a.shape) for a in found] == shapes
        assert all(np.isfinite(a).all() for a in found)


@EACH
def test_each_wrong_length_of_each_input_is_named(op):
    values, attributes = values_of(op), attributes_of(op)
    made = session(model(op.name, list(values), **attributes))
    for value in op.inputs:
        for axis in range(values[value.name].ndim):
            wrong = dict(values)
            wrong[value.name] = np.concatenate([wrong[value.name]] * 2, axis)
            sizes = {name for other in op.inputs for name in axes_of(other.shape) if other.name != value.name}
            if axes_of(value.shape)[axis] not in sizes:
                continue  # no other input has the length
            with pytest.raises(Exception, match=rf"ai\.mambaport\.{op.name}: \w+ has shape \(.*\), expected \("):
                made.run(None, wrong)


@EACH
def test_each_wrong_number_of_axes_is_named(op):
    values, attributes = values_of(op), attributes_of(op)
    made = session(model(op.name, list(values), **attributes))
    for value in op.inputs:
        if value.shape.startswith("..."):
            continue
        wrong = {**values, value.name: np.zeros((2,) * 5, values[value.name].dtype)}
        found = r"\(2, 2, 2, 2, 2\)"
        with pytest.raises(Exception, match=rf"{op.name}: {value.name} has shape {found}, expected \("):
            made.run(None, wrong)


@EACH
def test_each_other_type_is_refused_when_the_model_is_loaded(op):
    for value in op.inputs:
        made = model(op.name, [v.name for v in op.inputs])
        given = next(found for found in made.graph.input if found.name == value.name)
        given.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
        with pytest.raises(Exception, match=r"Type Error|tensor\(double\)"):
            session(made)


@EACH
def test_each_missing_input_is_refused(op):
    """ONNX Runtime refuses the model, because the library says which inputs are optional."""
    for number, value in enumerate(op.inputs):
        if not value.optional:
            made = model(op.name, [other.name for other in op.inputs if other is not value and not other.optional])
            with pytest.raises(
                Exception, match=rf"{op.name}.* input {number} is marked single but has an empty string"
            ):
                session(made)


@EACH
def test_inputs_without_elements_and_odd_lengths(op):
    """Every combination of lengths 0, 1 and 2 that the inputs share ends in a result or a named error."""
    rng = random.Random(op.name)
    made = session(model(op.name, [value.name for value in op.inputs], **attributes_of(op)), threads=2)
    done, messages = 0, []
    for _ in range(150):
        lengths = {name: rng.choice([0, 1, 2, 2, 3]) for name in LENGTHS}
        lengths["parts"] = rng.choice([0, 8])
        try:
            feed = {value.name: np.ones(shape_of(value.shape, lengths), value.dtype) for value in op.inputs}
        except ValueError:  # width - 1 of width 0
            continue
        try:
            made.run(None, feed)
            done += 1
        except Exception as error:
            messages.append(str(error))
    assert done > 0
    assert all(f"ai.mambaport.{op.name}: " in message for message in messages)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("CausalConv", {"weight": np.ones((4, 5), np.float32), "initial_states": None}, "width 5, expected 2 to 4"),
        ("CausalConv", {"reverse": 1}, "reverse=1 goes with neither seq_idx nor initial_states"),
        ("CausalConv", {"x_offset": 1}, r"x has shape \(2, 4, 5\), expected \(batch=2, dim=4 from channel 1 on, seq"),
        (
            "CausalConvUpdate",
            {"state": np.ones((2, 4, 1), np.float32)},
            "holds 1 inputs .*, expected width-1=2 or more",
        ),
        ("SelectiveScan", {"B": np.ones((2, 3, 6, 5), np.float32)}, "dim=4 is not a multiple of groups=3"),
        ("SelectiveScan", {"B": np.ones((2, 2, 6, 5), np.float32)}, "B has 4 axes and C 3: with groups=2"),
        ("ChunkScan", {"B": np.ones((2, 5, 3, 6), np.float32), "C": np.ones((2, 5, 3, 6), np.float32)}, "multiple of"),
        ("StateUpdate", {"D": np.ones((4, 7), np.float32)}, "D has 2 axes, expected 1, because state has 3"),
        ("StateUpdate", {"B": np.ones((2, 2, 6), np.float32)}, "B has 3 axes and C 2|B has 3 axes, expected 2"),
        ("Norm", {"gate": 0}, "gate is 0 and z is there"),
        ("Norm", {"gate": 3}, "gate is 3, expected 0, 1 or 2"),
        ("Norm", {"group": 3}, "dim=4 is not a multiple of group=3"),
        ("Norm", {"group": -1}, "dim=4 is not a multiple of group=-1"),
        ("Norm", {"rms": 1.0}, "the attribute rms is not an integer"),
        ("Norm", {"eps": 1}, "the attribute eps is not a float"),
    ],
)
def test_values_that_do_not_fit_each_other(name, change, message):
    op = mambaport_onnx.operator(name)
    with pytest.raises(Exception, match=rf"ai\.mambaport\.{name}: .*{message}"):
        run(name, **{**values_of(op), **attributes_of(op), **change})


def test_an_unknown_operator_and_another_domain_version_are_refused_by_onnxruntime():
    made = model("Linear", ["x", "weight"])
    made.graph.node[0].op_type = "Linaer"
    with pytest.raises(Exception, match="Linaer"):
        session(made)


@EACH
def test_onnx_checks_and_infers_the_operators(op):
    register_schemas()
    values = values_of(op)
    made = model(op.name, list(values), **attributes_of(op))
    for given in made.graph.input:
        for length in values[given.name].shape:
            given.type.tensor_type.shape.dim.add().dim_value = length
    inferred = onnx.shape_inference.infer_shapes(made, check_type=True, strict_mode=True)
    onnx.checker.check_model(inferred, full_check=True)
    found = [[dim.dim_value for dim in out.type.tensor_type.shape.dim] for out in inferred.graph.output]
    assert found == infer(op, [list(values[value.name].shape) for value in op.inputs], {})
    wrong = 2 if op.name == "QuantizedLinear" else 1  # no other input has the lengths of packed weights
    made.graph.input[wrong].type.tensor_type.shape.dim[0].dim_value += 77
    with pytest.raises(Exception, match=rf"{op.name}: \w+ has shape \(.*\), expected \("):
        onnx.shape_inference.infer_shapes(made, check_type=True, strict_mode=True)


@pytest.mark.skipif(
    tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 24),
    reason="before 1.24, ONNX Runtime cannot infer shapes of a node without its optional inputs",
)
def test_onnxruntime_infers_lengths_that_the_model_leaves_open():
    made = model("ProjectedScan", ["u", "projected", "delta_weight", "A", "z"], channels_last=1, z_offset=0)
    shapes = {"u": ["b", "t", 8], "projected": ["b", "t", 5], "delta_weight": [8, 1], "A": [8, 2], "z": ["b", "t", 16]}
    for given in made.graph.input:
        given.type.CopyFrom(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, shapes[given.name]))
    # The shape of an optional output, here the last state, is left to the run.
    assert [out.shape for out in session(made).get_outputs()] == [["b", "t", 8], []]


@pytest.mark.parametrize("name", ["Norm", "CausalConv"])
def test_a_node_may_end_before_its_optional_outputs(name):
    """ONNX Runtime 1.24 to 1.27 end the process where inference sets the shape of an output that is not there."""
    made = model(name, ["x", "weight"], [mambaport_onnx.operator(name).outputs[0].name])
    shapes = {"Norm": {"x": [2, 5, 8], "weight": [8]}, "CausalConv": {"x": [2, 8, 5], "weight": [8, 4]}}[name]
    for given in made.graph.input:
        given.type.CopyFrom(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, shapes[given.name]))
    assert len(made.graph.node[0].output) == 1
    assert [out.shape for out in session(made).get_outputs()] == [shapes["x"]]


def test_importing_the_package_and_its_path_need_no_torch():
    code = "import sys, mambaport_onnx as m; m.library_path(); print(*sorted({'torch', 'numpy'} & sys.modules.keys()))"
    folder = str(Path(mambaport_onnx.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": folder},
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("number", "message"),
    [(62, "is for x86_64"), (183, "is for aarch64"), (40, "is for ELF machine 40"), (None, "is damaged")],
)
def test_a_library_of_another_processor_is_named(tmp_path, monkeypatch, number, message):
    import platform

    from mambaport_onnx import library

    copied = tmp_path / library.NAME
    shutil.copy(mambaport_onnx.library_path(), copied)
    data = bytearray(copied.read_bytes())
    if number is None:
        data[:4] = b"junk"
    else:
        data[18:20] = number.to_bytes(2, "little")
    copied.write_bytes(data)
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    if message == f"is for {platform.machine()}":
        assert library.library_path() == str(copied)
    else:
        with pytest.raises(ImportError, match=message):
            library.library_path()
    copied.unlink()
    with pytest.raises(ModuleNotFoundError, match="built without its library"):
        library.library_path()


def test_an_instruction_set_that_the_processor_lacks_is_named():
    code = "import onnxruntime, mambaport_onnx; mambaport_onnx.register(onnxruntime.SessionOptions())"
    folder = str(Path(mambaport_onnx.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": folder, "MAMBAPORT_KERNEL_ISA": "sve9"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode != 0
    available = ", ".join(selective_scan_cpu._lib.library.available)
    expected = (
        f"MAMBAPORT_KERNEL_ISA is sve9, and the instruction sets of this processor are {available}: set it to one"
    )
    assert expected in done.stderr


def test_an_old_onnxruntime_is_named(monkeypatch):
    monkeypatch.setattr(onnxruntime, "__version__", "1.17.3")
    with pytest.raises(RuntimeError, match=r"need ONNX Runtime 1\.18 or newer, and this is ONNX Runtime 1\.17\.3"):
        mambaport_onnx.register(onnxruntime.SessionOptions())
