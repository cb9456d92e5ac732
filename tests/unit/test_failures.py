"""The failure catalogue: every row has a hint and an owner, and is found by what people see."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from test_cli import Run, run

from mambaport.failures import catalogue, explain, where_to_ask

__all__ = ["run"]  # the fixture

# What a shell showed, and the row that it is.
SEEN = [
    ("B1", "NameError: name 'bare_metal_version' is not defined"),
    ("B2", 'File "setup.py", line 287, in get_wheel_url'),
    ("B3", "ImportError: causal_conv1d_cuda.cpython-310-x86_64-linux-gnu.so: wrong ELF class"),
    ("B4", "urllib.error.URLError: <urlopen error [Errno -2] Name or service not known>"),
    ("B4", "error: <urlopen error [Errno 110] Connection timed out>"),
    ("B5", "    Uninstalling torch-2.5.0a0:\n      Successfully uninstalled torch-2.5.0a0"),
    ("B6", "cc1plus: fatal error: csrc/selective_scan/selective_scan.cpp: No such file or directory"),
    (
        "B6",
        "ninja: error: '/tmp/mamba_ssm-2.2.2/csrc/selective_scan/selective_scan.cpp', needed by "
        "'/tmp/build/csrc/selective_scan/selective_scan.o', missing and no known rule to make it",
    ),
    ("B7", "nvcc fatal   : Unsupported gpu architecture 'compute_53'"),
    ("B8", 'reverse_scan.cuh(132): error: namespace "cub" has no member "LaneId"'),
    ("B9", "nvcc " + " ".join(f"-gencode arch=compute_{sm},code=sm_{sm}" for sm in (53, 62, 70, 72, 80, 87))),
    ("B10", "g++: fatal error: Killed signal terminated program cc1plus"),
    ("B10", "nvcc error   : 'cicc' died due to signal 9 (Kill signal)\nKilled\nninja: build stopped"),
    ("B11", "RuntimeError: causal_conv1d is only supported on CUDA 11.6 and above.  Note: make sure nvcc"),
    (
        "B12",
        "ERROR: Project has a pyproject.toml and its build backend is missing the 'build_editable' hook.",
    ),
    ("B13", "ERROR: No matching distribution found for triton==2.2.0"),
    ("B14", "csrc/causal_conv1d.cpp:5: fatal error: Python.h: No such file or directory"),
    ("B15", "OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root."),
    ("B15", "RuntimeError: CUDA unavailable or invalid cuda_HOME"),
    ("B15", "UserWarning: mamba_ssm was requested, but nvcc was not found.  Are you sure your environment"),
    (
        "B16",
        "ERROR: causal_conv1d-1.1.3.post1+cu118torch2.1cxx11abiFALSE-cp310-cp310-linux_x86_64.whl is not a "
        "supported wheel on this platform.",
    ),
    (
        "B17",
        "ImportError: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.32' not found (required by x.so)",
    ),
    ("B17", "OSError: /lib/aarch64-linux-gnu/libm.so.6: version `GLIBC_2.38' not found"),
    ("B17", "ImportError: libstdc++.so.6: version `GLIBCXX_3.4.32' not found"),
    ("B17", "GLIBC_2.38 not found"),
    ("B18", "error: externally-managed-environment\n\nThis environment is externally managed"),
    ("B19", "ERROR: No matching distribution found for torch"),
    ("B20", "ERROR: No matching distribution found for mamba-ssm==2.2.4+rpi.cpu.1"),
    (
        "B21",
        "RuntimeError:\nThe detected CUDA version (12.6) mismatches the version that was used to compile\n"
        "PyTorch (11.8). Please make sure to use the same CUDA versions.",
    ),
    (
        "B22",
        "host_config.h:132:2: error: #error -- unsupported GNU version! gcc versions later than 11 are not",
    ),
    ("B23", "subprocess.CalledProcessError: Command '['ninja', '-v']' returned non-zero exit status 1."),
    ("B23", "CalledProcessError: Command '['ninja', '-v', '-j', '23']' returned non-zero exit status 1."),
    ("B24", "Getting requirements to build wheel did not run successfully.\n  │ exit code: 1"),
    ("B24", "  ERROR: Failed building wheel for mamba-ssm"),
    ("B24", "error: metadata-generation-failed"),
    ("B25", "      ModuleNotFoundError: No module named 'torch'"),
    ("B26", "error: invalid command 'bdist_wheel'"),
    ("B26", "ModuleNotFoundError: No module named 'packaging'"),
    ("B27", "OSError: [Errno 28] No space left on device"),
    (
        "B28",
        "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed'))",
    ),
    ("B29", "ERROR: HTTPSConnectionPool(host='x', port=443): Max retries exceeded with url: /simple/torch/"),
    ("B30", "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."),
    ("B31", "error: command 'aarch64-linux-gnu-gcc' failed: No such file or directory"),
    ("B31", "bash: g++: command not found"),
    ("B32", "OSError: [Errno 8] Exec format error: '/home/pi/miniconda3/bin/python'"),
    (
        "B33",
        "ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/usr/local'",
    ),
    ("B34", "The virtual environment was not created successfully because ensurepip is not\navailable."),
    (
        "B35",
        "torch/include/ATen/cuda/CUDAContextLight.h:7:10: fatal error: cusparse.h: No such file or directory",
    ),
    ("B36", "/usr/bin/ld: cannot find -lcudart: No such file or directory"),
    ("R1", "ImportError: selective_scan_cuda.so: undefined symbol: _ZN3c104cuda9SetDeviceEab"),
    ("R2", "TypeError: causal_conv1d_fwd(): incompatible function arguments."),
    ("R3", "TypeError: Mamba.__init__() got an unexpected keyword argument 'bimamba_type'"),
    ("R3", "TypeError: Mamba.__init__() got an unexpected keyword argument 'init_layer_scale'"),
    ("R4", "NameError: name 'selective_scan_cuda_core' is not defined"),
    ("R4", "ImportError: cannot import name 'selective_scan_cuda_core'"),
    ("R5", "RuntimeError: Expected u.is_cuda() to be true, but got false."),
    ("R5", "ValueError: Expected a cuda device, but got: cpu"),
    ("R5", "ValueError: Pointer argument (at 0) cannot be accessed from Triton (cpu tensor?)"),
    ("R6", "RuntimeError: CUDA error: no kernel image is available for execution on the device"),
    ("R7", "ImportError: cannot import name 'GreedySearchDecoderOnlyOutput' from 'transformers.generation'"),
    ("R8", "AttributeError: module 'torch.distributed' has no attribute '_all_gather_base'"),
    ("R9", "ImportError: libc10.so: cannot open shared object file: No such file or directory"),
    ("R10", "ModuleNotFoundError: No module named 'triton'"),
    ("R11", "TypeError: 'NoneType' object is not callable"),
    ("R11", "TypeError: the first argument must be callable"),
    ("R11", "AttributeError: 'NoneType' object has no attribute 'causal_conv1d_fwd'"),
    ("R13", "Illegal instruction (core dumped)"),
    ("R14", "RuntimeError: CUDA error: the provided PTX was compiled with an unsupported toolchain."),
    ("R15", "RuntimeError: The size of tensor a (31) must match the size of tensor b (32) at dimension 3"),
    ("R16", "ImportError: libcusparseLt.so.0: cannot open shared object file: No such file or directory"),
    ("R16", "libcusparseLt.so.0"),
    ("R16", "ImportError: libcudss.so.0: cannot open shared object file: No such file or directory"),
    (
        "R17",
        "_pickle.UnpicklingError: Weights only load failed. This file can still be loaded, to do so you have",
    ),
    ("R18", "RuntimeError: expected scalar type Float but found Half"),
    ("R18", "RuntimeError: mat1 and mat2 must have the same dtype, but got Float and Half"),
    ("R18", "RuntimeError: Input type (float) and bias type (c10::Half) should be the same"),
    ("R19", "RuntimeError: operator torchvision::nms does not exist"),
    (
        "R20",
        "NotImplementedError: Could not run 'torchvision::nms' with arguments from the 'CUDA' backend. This",
    ),
    ("R21", "RuntimeError: unrecognized namespace causal_conv1d_cpu"),
    ("R21", "RuntimeError: Unknown builtin op: selective_scan_cpu::scan."),
    ("R22", "pi@raspberrypi:~ $ python infer.py --image cat.jpg\nKilled"),
    (
        "R22",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you",
    ),
    ("R23", "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory"),
    ("R24", "OSError: libcudnn.so.8: cannot open shared object file: No such file or directory"),
    ("R25", "OSError: libopenblas.so.0: cannot open shared object file: No such file or directory"),
    (
        "R26",
        "ImportError: libcusparse.so.12: undefined symbol: __nvJitLinkComplete_12_4, version libnvJitLink.so",
    ),
    (
        "R27",
        "ImportError: /usr/lib/aarch64-linux-gnu/libgomp.so.1: cannot allocate memory in static TLS block",
    ),
    ("R28", "A module that was compiled using NumPy 1.x cannot be run in\nNumPy 2.0.1 as it may crash."),
    ("R28", "RuntimeError: Numpy is not available"),
    ("R29", "AssertionError: Torch not compiled with CUDA enabled"),
    ("R30", "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"),
    ("R31", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB."),
    ("R32", "NvMapMemAllocInternalTagged: 1075072515 error 12"),
    (
        "R33",
        "RuntimeError: causal_conv1d with channel last layout requires strides (x.stride(0) and x.stride(2)) "
        "to be multiples of 8",
    ),
    ("R33", "RuntimeError: causal_conv1d only supports channel dimension divisible by 8 for now"),
    ("R34", "RuntimeError: causal_conv1d only supports width between 2 and 4"),
    ("R34", "RuntimeError: selective_scan only supports state dimension <= 256"),
    ("R35", "    assert self.d_ssm % self.headdim == 0\nAssertionError"),
    ("R36", "RuntimeError: Error(s) in loading state_dict for VisionMamba:\n\tsize mismatch for pos_embed"),
    (
        "R37",
        "ImportError: cannot import name 'mamba_inner_fn_no_out_proj' from 'mamba_ssm.ops.selective_scan",
    ),
    ("R38", "ImportError: cannot import name 'causal_conv1d_fn' from 'causal_conv1d' (unknown location)"),
    ("R39", "ModuleNotFoundError: No module named 'mamba_ssm'"),
    ("R40", "ModuleNotFoundError: No module named 'timm'"),
    ("R41", "AttributeError: module 'numpy' has no attribute 'trapz'"),
    (
        "R42",
        "TypeError: CaduceusForMaskedLM.tie_weights() got an unexpected keyword argument 'recompute_mapping'",
    ),
    ("R43", "ModuleNotFoundError: No module named 'selective_scan_cuda_ndstate'"),
    ("R44", "RuntimeError: \"slow_conv2d_cpu\" not implemented for 'Half'"),
    ("R45", "RuntimeError: DataLoader worker (pid 78) is killed by signal: Bus error. It is possible that"),
    ("R46", "ptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'"),
    ("R47", "ImportError: libfoo.so: ELF load command alignment not page-aligned"),
    ("R48", "OSError: libtorch_cuda.so: cannot open shared object file: No such file or directory"),
    ("R49", "RuntimeError: Expected B.stride(-1) == 1 to be true, but got false."),
    ("R50", "torch.AcceleratorError: CUDA error: misaligned address"),
    ("R50", "RuntimeError: CUDA error: an illegal memory access was encountered"),
    ("N1", "TypeError: Mamba.__init__() got an unexpected keyword argument 'nslices'"),
    ("N1", "TypeError: __init__() got an unexpected keyword argument 'bimamba'"),
    ("N1", "TypeError: Mamba.__init__() got an unexpected keyword argument 'if_devide_out'"),
    ("N2", "ModuleNotFoundError: No module named 'selective_scan_cuda'"),
    ("N2", "ModuleNotFoundError: No module named 'causal_conv1d_cuda'"),
    ("N3", "ModuleNotFoundError: No module named 'mamba_ssm.ops.triton.layernorm'"),
    (
        "N4",
        "UnsupportedOperatorError: Exporting the operator 'selective_scan_cpu::scan' to ONNX opset",
    ),
    ("N5", "There is no torch in /usr/bin/python3"),
    ("N6", "#error C++20 or later compatible compiler is required to use PyTorch."),
    (
        "N7",
        "NVIDIA GB10 with CUDA capability sm_121 is not compatible with the current PyTorch installation.",
    ),
    (
        "N8",
        "NotImplementedError: Int8Tensor dispatch: attempting to run unimplemented operator/function: func=<",
    ),
    (
        "N9",
        "The fast path is not available because one of `(selective_state_update, selective_scan_fn, "
        "causal_conv1d_fn, causal_conv1d_update, mamba_inner_fn)` is None. Falling back to the sequential",
    ),
    (
        "N9",
        "ValueError: Fast Mamba kernels are not available. Make sure to they are installed",
    ),
    ("N10", "NameError: name 'triton' is not defined"),
]


@pytest.mark.parametrize(("row", "seen"), SEEN)
def test_what_people_see_leads_to_the_row_and_its_hint(row: str, seen: str) -> None:
    found = explain(f"Traceback (most recent call last):\n  {seen}\nsee above\n")
    assert row in [item.failure.id for item in found]
    item = next(item for item in found if item.failure.id == row)
    assert item.line in seen
    assert item.to_json()["hint"]


def test_every_signature_is_tried_on_a_text_and_there_are_many() -> None:
    signatures = {row.id for row in catalogue() if row.signature is not None}
    assert signatures == {row for row, _seen in SEEN}
    assert len(signatures) >= 60


def test_an_error_is_explained_once_but_for_causes_that_go_together() -> None:
    """Two rows for one text confuse; the pairs below name a fault and what it is a part of."""
    together = {("B4", "B29"), ("B10", "B23"), ("R20", "R19"), ("R45", "R22"), ("B6", "B23"), ("B17", "B3")}
    for row, seen in SEEN:
        others = {item.failure.id for item in explain(seen)} - {row}
        assert all((row, other) in together for other in others), (row, seen, others)


def test_a_compilers_end_is_not_a_models() -> None:
    log = "[3/9] /usr/local/cuda/bin/nvcc -c scan.cu\nKilled\n"
    assert [item.failure.id for item in explain(log)] == ["B10"]
    found = explain("Loading the model\nKilled\n")
    assert [(item.failure.id, item.line) for item in found] == [("R22", "Killed")]


def test_commands_in_hints_are_shell(tmp_path: Path) -> None:
    for row in catalogue():
        for command in re.findall(r"`([^`]+)`", row.hint):
            if re.match(
                r"(sudo|export|python3?|mambaport|docker|echo|df|ls|cat|unset|date|getconf)\b", command
            ):
                ran = subprocess.run(
                    ["bash", "-n", "-c", command], capture_output=True, text=True, check=False
                )
                assert ran.returncode == 0, (row.id, command, ran.stderr)


def test_a_variable_is_not_read_in_the_command_that_sets_it() -> None:
    for row in catalogue():
        for command in re.findall(r"`([^`]+)`", row.hint):
            for name in re.findall(r"\b(\w+)=", command):
                first = command.split(";")[0].split("&&")[0]
                assert not (f"{name}=" in first and f"${name}/" in first), (row.id, command)


def test_an_unknown_text_ends_in_a_way_on(run: Run, tmp_path: Path) -> None:
    text = 'File "/x/site-packages/transformers/models/a.py", line 3, in f\nSomethingNew: never seen\n'
    (tmp_path / "error.log").write_text(text)
    answer = run("doctor", "--explain", str(tmp_path / "error.log"), "--json").json
    assert answer["explanations"] == []
    assert any("mambaport doctor --json" in command for command in answer["collect"])
    assert "huggingface/transformers" in answer["ask"]
    assert "mambaport's issues" in where_to_ask("SomethingNew: never seen")


def test_rows_come_in_the_order_in_which_the_text_shows_them() -> None:
    first = dict(SEEN)
    text = f"{first['R10']}\n{first['B15']}\n"
    assert [item.failure.id for item in explain(text)] == ["R10", "B15"]


def test_nothing_is_made_of_a_text_that_is_fine() -> None:
    assert explain("Successfully built mamba-ssm\nall 52 components within their bounds\n") == []


def test_every_row_is_owned_and_has_a_hint() -> None:
    for row in catalogue():
        assert row.owners, f"{row.id} has no owner"
        assert row.hint
        if row.signature is not None:
            re.compile(row.signature)
