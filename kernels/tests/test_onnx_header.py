"""The library's own list of ONNX Runtime's interface agrees with ONNX Runtime's header.

MAMBAPORT_ORT_INCLUDE names the folder of onnxruntime_c_api.h, which ONNX Runtime's releases for C and Debian's
libonnxruntime-dev have, and the Python package does not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PLACES = ["/usr/include/onnxruntime", "/usr/include/onnxruntime/core/session", "/usr/local/include/onnxruntime"]


def include_folder():
    named = os.environ.get("MAMBAPORT_ORT_INCLUDE")
    return next((p for p in ([named] if named else PLACES) if Path(p, "onnxruntime_c_api.h").is_file()), None)


def compile_against(folder, lists):
    words = [shutil.which("gcc") or "cc", "-std=gnu11", "-fsyntax-only", f"-I{folder}", f"-I{lists}"]
    return subprocess.run([*words, HERE / "ort_header.c"], capture_output=True, text=True, check=False)


@pytest.mark.skipif(include_folder() is None, reason="no onnxruntime_c_api.h; MAMBAPORT_ORT_INCLUDE names its folder")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_the_lists_agree_with_the_header(tmp_path):
    lists = HERE.parent / "csrc" / "mambaport_onnx"
    done = compile_against(include_folder(), lists)
    assert done.returncode == 0, done.stderr
    wrong = (lists / "ort_entries.h").read_text().replace("ENTRY(90,", "ENTRY(91,")
    (tmp_path / "ort_entries.h").write_text(wrong)
    assert "number of KernelContext_GetInput" in compile_against(include_folder(), tmp_path).stderr
