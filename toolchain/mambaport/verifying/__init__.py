"""Verify: do the installed packages give right numbers, on the target or on a stand-in for it?"""

from mambaport.verifying.emulation import EmulatedRoot, prepare_emulation
from mambaport.verifying.results import Component, Verification, engine, failure_text, require, summary
from mambaport.verifying.run import probe_emulated, probe_interpreter, probe_onnx

__all__ = [
    "Component",
    "EmulatedRoot",
    "Verification",
    "engine",
    "failure_text",
    "prepare_emulation",
    "probe_emulated",
    "probe_interpreter",
    "probe_onnx",
    "require",
    "summary",
]
