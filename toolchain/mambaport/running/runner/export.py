"""Writes a model as an ONNX file, and compares the file with PyTorch."""

import collections
import contextlib
import hashlib
import io
import logging
import os
import shutil
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from answers import Refusal, send
from models import VISION
from onnx_models import LanguageWork, VisionWork
from onnx_session import (
    FUSED_DOMAIN,
    PREFIX,
    has_operators,
    no_operators,
    open_session,
    require_versions,
)
from setting import facts, prepare

OPSET = 18
FORM_VARIABLE = "MAMBAPORT_ONNX_FORM"
EXTERNAL_BYTES = 100 << 20
"""Weights of more bytes are in a file of their own."""
AGREE = {False: 1e-5, True: 0.25}
"""With int8 or without: the largest difference allowed, relative to the largest logit."""
LEAST_FEATURES = 64
"""A projection from fewer features stays float32."""


@torch.inference_mode(False)
@torch.no_grad()
def export(request):
    """Exports, checks, compares and times a model. The file is alone in its folder."""
    require_versions("torch", "onnx", "onnxscript", "onnxruntime")
    import onnxruntime
    from mamba_ssm.ops.exporting import quantized_linear  # noqa: F401 - the newest name: older wheels end here

    prepare(request["threads"], "cpu")
    threads, path = torch.get_num_threads(), Path(request["output"])
    if request["form"] == "fused" and not has_operators():
        raise no_operators("A model in the fused form")
    send(stage=f"making {request['model']}")
    work = VisionWork(request) if request["model"] in VISION else LanguageWork(request)
    send(stage="exporting")
    write(work, request, path)
    if request["int8"] and not work.quantized:
        send(stage="quantizing")
        quantize(path)
    send(stage="checking")
    described = inspect(path)
    session = open_session(path, threads)
    send(stage="comparing with PyTorch")
    compared = work.compare(session)
    worst = float(np.max([item["difference"] for item in compared]))  # NaN, where one is NaN
    limit = AGREE[request["int8"]]
    if not worst <= limit:
        raise disagreement(request, compared, worst, limit)
    send(stage="measuring")
    times = work.measure(session)
    return {
        "model": request["model"],
        "checkpoint": request.get("checkpoint"),
        "form": request["form"],
        "int8": request["int8"],
        "path": str(path),
        "bytes": sum(part.stat().st_size for part in path.parent.iterdir()),
        **described,
        "compared": compared,
        "largest_difference": worst,
        "allowed_difference": limit,
        "times": times,
        "onnxruntime": onnxruntime.__version__,
        "environment": facts("cpu"),
    }


def write(work, request, file):
    """Exports to ``file``, with the properties that say what the file is.

    Raises:
        Refusal: the exporter does not take the model.
    """
    before = os.environ.get(FORM_VARIABLE)
    os.environ[FORM_VARIABLE] = request["form"]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                work.exported,
                work.arguments,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=work.names[0],
                output_names=work.names[1],
                dynamic_shapes=work.dynamic,
            )
    except torch.onnx.OnnxExporterError as fault:
        raise unexportable(request, fault) from None
    finally:
        os.environ.pop(FORM_VARIABLE)
        if before is not None:
            os.environ[FORM_VARIABLE] = before
    for name, value in properties(work, request).items():
        program.model.metadata_props[PREFIX + name] = str(value)
    size = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    program.save(file, external_data=size > EXTERNAL_BYTES)


def properties(work, request):
    """What the file says of itself."""
    path = request.get("checkpoint")
    weights = "random, seed 0"
    if path is not None:
        digest = hashlib.sha256()
        with Path(path).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        weights = digest.hexdigest()
    return {
        "model": request["model"],
        "form": request["form"],
        "weights": weights,
        "int8": request["int8"],
        "mambaport": request["mambaport"],
        **{name: metadata.version(name) for name in ("mamba_ssm", "causal_conv1d", "torch", "onnxscript")},
        **work.facts,
    }


def unexportable(request, fault):
    """The refusal for an error of the exporter: its first cause."""
    cause = fault
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
    return Refusal(
        "run",
        f"torch's exporter does not take {request['model']}",
        found=f"{type(cause).__name__}: {lines[0]}",
        expected=f"operators that torch {torch.__version__} translates to ONNX",
        hint="a newer torch and onnxscript may know the operator: pip install --upgrade onnxscript",
    )


def quantize(file):
    """Makes the weights of the projections int8, by ONNX Runtime's own quantizer; the scan stays float32."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)
    model = onnx.load(file, load_external_data=False)
    shapes = {item.name: tuple(item.dims) for item in model.graph.initializer}
    matrices = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in shapes]
    # delta's projection, from few features, is a part of the scan.
    kept = [node.name for node in matrices if shapes[node.input[1]][0] < LEAST_FEATURES]
    # The quantizer appends to a file of weights that exists, and looks for it in the working folder too.
    file = file.resolve()
    external = file.with_name(file.name + ".data")
    whole = file.parent / "float32" / file.name
    whole.parent.mkdir()
    large = external.exists()
    for part in (file, external) if large else (file,):
        part.rename(whole.with_name(part.name))
    before = Path.cwd()
    os.chdir(file.parent)
    try:
        quantize_dynamic(
            whole,
            file,
            op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=kept,
            use_external_data_format=large,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        os.chdir(before)
    shutil.rmtree(whole.parent)


def inspect(file):
    """Checks the file with onnx, and counts the nodes.

    Raises:
        Refusal: onnx finds a fault.
    """
    import onnx

    if has_operators():
        from mambaport_onnx.schemas import register_schemas

        register_schemas()
    try:
        onnx.checker.check_model(str(file))
        model = onnx.load(file, load_external_data=False)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as fault:
        raise Refusal(
            "run", "onnx finds a fault in the exported file", found=str(fault).splitlines()[0],
            hint="other versions of onnxscript and onnx may help: pip install --upgrade onnx onnxscript",
        ) from None  # fmt: skip
    unknown = [item.name for item in inferred.graph.output if not item.type.tensor_type.HasField("shape")]
    if unknown:
        raise Refusal(
            "run", "The shape of an output is not known", found=unknown[0], hint="report this command line"
        )
    count = collections.Counter(node.domain or "ai.onnx" for node in nodes(model.graph))
    return {
        "opset": next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx")),
        "nodes": sum(count.values()),
        "fused_nodes": count[FUSED_DOMAIN],
    }


def nodes(graph):
    """All nodes of a graph and of the graphs in its nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


def disagreement(request, compared, worst, limit):
    item = next(item for item in compared if not item["difference"] <= limit)
    length = "" if item["length"] is None else f", {item['length']} tokens"
    return Refusal(
        "run",
        f"The ONNX file and PyTorch disagree on {request['model']}",
        found=f"a difference of {worst:.2g} of the largest logit, batch {item['batch']}{length}",
        expected=f"at most {limit:g}",
        hint="NaN means weights with NaN; else another version of onnxruntime may help, and --form standard",
    )
