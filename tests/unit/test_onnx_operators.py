"""The description of our ONNX operators agrees with itself and with the kernels."""

import re
import sys
from pathlib import Path

import pytest

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
sys.path.append(str(KERNELS))

from mambaport_onnx.operators import OPERATORS, Operator, operator  # noqa: E402

EACH = pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)


def axes(shape: str) -> list[str]:
    return [axis for alternative in shape.split("|") for axis in alternative.split()]


def names(axis: str) -> list[str]:
    return re.findall(r"[a-z]\w*", axis.partition("@")[0])


@EACH
def test_every_length_of_an_output_follows_from_the_inputs(op: Operator) -> None:
    bound = {name for value in op.inputs for axis in axes(value.shape) for name in names(axis)}
    for value in op.outputs:
        if value.shape.startswith("="):
            assert value.shape[1:] in {found.name for found in op.inputs}
        else:
            assert {name for axis in axes(value.shape) for name in names(axis)} <= bound


@EACH
def test_the_number_of_axes_decides_between_shapes(op: Operator) -> None:
    for value in (*op.inputs, *op.outputs):
        for shape in (value.shape, value.channels_last):
            ranks = [len(alternative.split()) for alternative in shape.split("|")]
            assert len(set(ranks)) == len(ranks), value


@EACH
def test_offsets_and_updates_name_what_exists(op: Operator) -> None:
    attributes = {attribute.name for attribute in op.attributes}
    inputs = {value.name for value in op.inputs}
    for value in (*op.inputs, *op.outputs):
        assert set(re.findall(r"@(\w+)", value.shape + value.channels_last)) <= attributes
        assert not value.updates or value.updates in inputs
        assert not value.channels_last or "channels_last" in attributes


@EACH
def test_kernels_are_exported_by_the_libraries(op: Operator) -> None:
    headers = "".join(path.read_text(encoding="utf-8") for path in KERNELS.glob("csrc/*_cpu/*.h"))
    for kernel in op.kernels:
        assert f"KERNEL({kernel}," in headers


def test_an_unknown_operator_is_named() -> None:
    assert operator("Norm").name == "Norm"
    with pytest.raises(KeyError, match=r"no operator 'Nrom'; its operators are CausalConv"):
        operator("Nrom")
