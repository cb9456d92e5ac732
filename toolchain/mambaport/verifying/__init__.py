"""Verify: do the installed packages give right numbers, on the target or on a stand-in for it?"""

from mambaport.verifying.emulation import EmulatedRoot, prepare_emulation
from mambaport.verifying.results import Component, Verification, failure_text, require, summary
from mambaport.verifying.run import probe_emulated, probe_interpreter

__all__ = [
    "Component",
    "EmulatedRoot",
    "Verification",
    "failure_text",
    "prepare_emulation",
    "probe_emulated",
    "probe_interpreter",
    "require",
    "summary",
]
