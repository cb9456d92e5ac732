"""What TensorRT's parser takes: facts of its published table, and a comparison of a file with them."""

REPOSITORY = "https://github.com/onnx/onnx-tensorrt"
TABLE = "docs/operators.md"
COMMIT = "96e781103cfc4adf4a6bb557e94bac8e693f6f4c"
RELEASE = "10.1"
OPSETS = range(9, 21)
OPERATORS = {
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh",
    "AveragePool", "BatchNormalization", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Concat", "Constant",
    "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "Cosh", "CumSum", "DeformConv", "DepthToSpace",
    "DequantizeLinear", "Div", "Dropout", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike",
    "Flatten", "Floor", "GRU", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm",
    "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GridSample",
    "GroupNormalization", "HardSigmoid", "HardSwish", "Hardmax", "Identity", "If", "ImageScaler",
    "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LSTM", "LayerNormalization", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "LogSoftmax", "Loop", "LpNormalization", "LpPool", "MatMul", "Max", "MaxPool",
    "Mean", "MeanVarianceNormalization", "Min", "Mish", "Mod", "Mul", "Neg", "NonMaxSuppression",
    "NonZero", "Not", "OneHot", "Or", "PRelu", "Pad", "ParametricSoftplus", "Pow", "QuantizeLinear",
    "RNN", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range",
    "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize",
    "ReverseSequence", "RoiAlign", "Round", "ScaledTanh", "Scan", "Scatter", "ScatterElements",
    "ScatterND", "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice", "Softmax",
    "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tan", "Tanh",
    "ThresholdedRelu", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Upsample", "Where", "Xor",
}  # fmt: skip
CONSTANT_INPUTS = {"Pad": 3, "ReduceMean": 1, "ReduceSum": 1, "Slice": 3, "Squeeze": 1, "Unsqueeze": 1}
"""The input of an operator, by its place, that must be a constant."""


def refused(model):
    """What TensorRT's parser would refuse in an onnx.ModelProto, in words; empty where it takes the file."""
    reasons = [
        f"opset {item.version} of {item.domain or 'ai.onnx'}"
        for item in model.opset_import
        if item.domain or item.version not in OPSETS
    ]
    return reasons + [f"function {item.name}" for item in model.functions] + _refused(model.graph, set())


def _refused(graph, outer):
    constants = outer | {item.name for item in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    reasons = []
    for node in graph.node:
        name, place = node.op_type, CONSTANT_INPUTS.get(node.op_type)
        if node.domain or name not in OPERATORS:
            reasons.append(f"operator {node.domain} {name}")
        given = node.input[place] if place is not None and len(node.input) > place else ""
        if given and given not in constants:
            reasons.append(f"{name}, whose input {place} is no constant")
        if name == "LayerNormalization" and len([item for item in node.output if item]) > 1:
            reasons.append(f"{name} with a second output")
        for attribute in node.attribute:
            if name.startswith("ScatterND") and attribute.name == "reduction" and attribute.s != b"none":
                reasons.append(f"{name} with a reduction")
            if attribute.HasField("g"):
                reasons += _refused(attribute.g, constants)
    return reasons
