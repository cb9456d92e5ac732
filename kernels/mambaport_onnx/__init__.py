"""Mamba in ONNX Runtime: the operators of the domain ``ai.mambaport``, computed by the C kernels. Imports no torch."""

from .operators import DOMAIN, OPERATORS, VERSION, operator

__all__ = ["DOMAIN", "OPERATORS", "VERSION", "operator"]
