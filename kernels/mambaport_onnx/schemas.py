"""The operators as schemas of the package onnx, whose checker and shape inference then know them. Needs onnx."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from onnx import TypeProto, defs

from .operators import DOMAIN, OPERATORS, VERSION, Operator, Value
from .shapes import Length, infer

_TYPES = {
    "float32": ("tensor(float)", onnx.TensorProto.FLOAT),
    "int32": ("tensor(int32)", onnx.TensorProto.INT32),
    "int8": ("tensor(int8)", onnx.TensorProto.INT8),
}


def schema(op: Operator) -> Any:
    """An operator as an ``onnx.defs.OpSchema``, with its shape inference."""
    made = defs.OpSchema(
        op.name,
        DOMAIN,
        VERSION,
        op.meaning,
        inputs=[_parameter(value) for value in op.inputs],
        outputs=[_parameter(value) for value in op.outputs],
        attributes=[
            defs.OpSchema.Attribute(a.name, onnx.helper.make_attribute(a.name, a.default), a.meaning)
            for a in op.attributes
        ],
    )
    made.set_type_and_shape_inference_function(_inference(op))
    return made


def register_schemas() -> None:
    """Makes ``onnx.checker`` and ``onnx.shape_inference`` of this process know the operators; once is enough.

    Raises:
        onnx.shape_inference.InferenceError: later, with ``strict_mode``, for a model whose shapes do not fit.
    """
    for op in OPERATORS:
        if not defs.has(op.name, domain=DOMAIN):
            defs.register_schema(schema(op))


def _parameter(value: Value) -> Any:
    option = defs.OpSchema.FormalParameterOption
    return defs.OpSchema.FormalParameter(
        value.name, _TYPES[value.dtype][0], param_option=option.Optional if value.optional else option.Single
    )


def _inference(op: Operator) -> Callable[[Any], None]:
    def inference(context: Any) -> None:
        inputs = [_shape(context.get_input_type(i)) for i in range(context.get_num_inputs())]
        attributes = {}
        for a in op.attributes:
            found = context.get_attribute(a.name)
            if found is not None:
                attributes[a.name] = onnx.helper.get_attribute_value(found)
        shapes = infer(op, inputs, attributes)
        for number, (value, shape) in enumerate(zip(op.outputs, shapes, strict=True)):
            if number < context.get_num_outputs():
                context.set_output_type(number, _type(value, shape))

    return inference


def _shape(found: TypeProto | None) -> list[Length] | None:
    if found is None or not found.tensor_type.HasField("shape"):
        return None
    return [
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in found.tensor_type.shape.dim
    ]


def _type(value: Value, shape: list[Length] | None) -> TypeProto:
    return onnx.helper.make_tensor_type_proto(_TYPES[value.dtype][1], shape)
