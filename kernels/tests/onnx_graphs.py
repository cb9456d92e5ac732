"""Graphs of a single node of ours, run by ONNX Runtime."""

from __future__ import annotations

import mambaport_onnx
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "int8": TensorProto.INT8}


def model(name, inputs, outputs=None, **attributes):
    """A model of one node, all lengths open.

    Args:
        inputs: the names of the inputs that the node has
        outputs: the names of the outputs that the node has; None for all
    """
    op = mambaport_onnx.operator(name)
    outputs = [value.name for value in op.outputs] if outputs is None else outputs
    ranks = {value.name: value for value in op.inputs}
    graph_inputs = [helper.make_tensor_value_info(key, TYPES[ranks[key].dtype], None) for key in inputs]
    results = [helper.make_tensor_value_info(key, TensorProto.FLOAT, None) for key in outputs]
    names = [value.name if value.name in inputs else "" for value in op.inputs]
    made = [value.name if value.name in outputs else "" for value in op.outputs]
    while not made[-1]:  # as torch's exporter, which names no output after the last one that is used
        made.pop()
    node = helper.make_node(name, names, made, domain=mambaport_onnx.DOMAIN, **attributes)
    graph = helper.make_graph([node], name, graph_inputs, results)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(mambaport_onnx.DOMAIN, mambaport_onnx.VERSION)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def session(made, threads=1):
    """A session for a model, or for a file of one."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    mambaport_onnx.register(options)
    made = made.SerializeToString() if isinstance(made, onnx.ModelProto) else made
    return onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])


def run(name, outputs=None, threads=1, inputs=(), **values):
    """The outputs of one node, as arrays; the values are its inputs (tensors, arrays or None) and attributes."""
    op = mambaport_onnx.operator(name)
    names = {value.name for value in op.inputs}
    feed = {key: array(value) for key, value in values.items() if key in names and value is not None}
    attributes = {key: value for key, value in values.items() if key not in names}
    return session(model(name, list(feed), outputs, **attributes), threads).run(None, feed)


def array(value):
    """A tensor or an array as an array whose elements lie one after the other."""
    return np.ascontiguousarray(value.detach().numpy() if hasattr(value, "detach") else value)
