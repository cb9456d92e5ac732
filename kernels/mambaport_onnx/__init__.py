"""Mamba in ONNX Runtime: the operators of the domain ``ai.mambaport``, computed by the C kernels. Imports no torch.

options = onnxruntime.SessionOptions()
mambaport_onnx.register(options)
session = onnxruntime.InferenceSession("model.onnx", options)
"""

from .library import OLDEST_ONNXRUNTIME, library_path, register
from .operators import DOMAIN, OPERATORS, VERSION, operator

__all__ = ["DOMAIN", "OLDEST_ONNXRUNTIME", "OPERATORS", "VERSION", "library_path", "operator", "register"]
