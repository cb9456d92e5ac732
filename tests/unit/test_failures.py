"""The failure catalogue: every row has a hint and an owner, and is found by what people see."""

from __future__ import annotations

import re

import pytest

from mambaport.failures import catalogue, explain

# What a shell showed, and the row that it is.
SEEN = {
    "B1": "NameError: name 'bare_metal_version' is not defined",
    "B3": "ImportError: causal_conv1d_cuda.cpython-310-x86_64-linux-gnu.so: wrong ELF class",
    "B4": "urllib.error.URLError: <urlopen error [Errno -2] Name or service not known>",
    "B5": "    Uninstalling torch-2.5.0a0:\n      Successfully uninstalled torch-2.5.0a0",
    "B7": "nvcc fatal   : Unsupported gpu architecture 'compute_53'",
    "B8": 'reverse_scan.cuh(132): error: namespace "cub" has no member "LaneId"',
    "B10": "g++: fatal error: Killed signal terminated program cc1plus",
    "B12": "ERROR: Project has a pyproject.toml and its build backend is missing the 'build_editable' hook.",
    "B13": "ERROR: No matching distribution found for triton==2.2.0",
    "B14": "csrc/causal_conv1d.cpp:5: fatal error: Python.h: No such file or directory",
    "B15": "OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root.",
    "R1": "ImportError: selective_scan_cuda.so: undefined symbol: _ZN3c104cuda9SetDeviceEab",
    "R2": "TypeError: causal_conv1d_fwd(): incompatible function arguments.",
    "R3": "TypeError: Mamba.__init__() got an unexpected keyword argument 'bimamba_type'",
    "R4": "NameError: name 'selective_scan_cuda_core' is not defined",
    "R5": "RuntimeError: Expected u.is_cuda() to be true, but got false.",
    "R6": "RuntimeError: CUDA error: no kernel image is available for execution on the device",
    "R7": "ImportError: cannot import name 'GreedySearchDecoderOnlyOutput' from 'transformers.generation'",
    "R8": "AttributeError: module 'torch.distributed' has no attribute '_all_gather_base'",
    "R9": "ImportError: libc10.so: cannot open shared object file: No such file or directory",
    "R10": "ModuleNotFoundError: No module named 'triton'",
    "R11": "TypeError: 'NoneType' object is not callable",
    "R13": "Illegal instruction (core dumped)",
    "R15": "RuntimeError: The size of tensor a (31) must match the size of tensor b (32) at dimension 3",
}


@pytest.mark.parametrize("row", SEEN)
def test_what_people_see_leads_to_the_row_and_its_hint(row: str) -> None:
    log = f"Building wheels for collected packages\n  {SEEN[row]}\nsee above\n"
    found = explain(log)
    assert row in [item.failure.id for item in found]
    item = next(item for item in found if item.failure.id == row)
    assert item.line in SEEN[row]
    assert item.to_json()["hint"]


def test_rows_come_in_the_order_in_which_the_text_shows_them() -> None:
    text = f"{SEEN['R10']}\n{SEEN['B15']}\n"
    assert [item.failure.id for item in explain(text)] == ["R10", "B15"]


def test_nothing_is_made_of_a_text_that_is_fine() -> None:
    assert explain("Successfully built mamba-ssm\nall 52 components within their bounds\n") == []


def test_every_row_is_owned_and_has_a_hint() -> None:
    for row in catalogue():
        assert row.owners, f"{row.id} has no owner"
        assert row.hint
        if row.signature is not None:
            re.compile(row.signature)
