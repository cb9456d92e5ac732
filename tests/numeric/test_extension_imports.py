"""selective_scan_cuda and causal_conv1d_cuda: what an import says, and how the variables are read."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NAMES = ["selective_scan", "causal_conv1d"]


@pytest.mark.parametrize("fault", ["ImportError('of different builds')", "ModuleNotFoundError('absent')"])
def test_a_kernel_package_that_does_not_load_is_warned_of(fault, tmp_path):
    """A package without compiled kernels is no fault; a package of another build is one."""
    for name in NAMES:
        (tmp_path / f"{name}_cpu.py").write_text(f"raise {fault}\n")
    code = "print(selective_scan_cuda.selective_scan_cpu, causal_conv1d_cuda.causal_conv1d_cpu)"
    ran = python(f"import selective_scan_cuda, causal_conv1d_cuda; {code}", tmp_path)
    assert ran.stdout == "None None\n", ran.stderr
    for name in NAMES:
        warning = f"{name}_cpu is installed but does not load; PyTorch computes in its place: of different"
        assert (warning in ran.stderr) == fault.startswith("ImportError")


def test_the_fallback_variables_are_read_as_in_dispatch(monkeypatch):
    import causal_conv1d_cuda
    import selective_scan_cuda

    for word, forced in ((" true\n", True), ("on", True), ("", False), ("no", False)):
        for name, module in zip(NAMES, (selective_scan_cuda, causal_conv1d_cuda), strict=True):
            monkeypatch.setenv(f"{name.upper()}_FORCE_FALLBACK", word)
            assert module._force_fallback() == forced


def python(code, first):
    """A new Python, whose first folder of modules is `first`."""
    folders = [str(first), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
