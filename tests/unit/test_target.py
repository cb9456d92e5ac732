"""The environment that wheels go to: what it is, and whether they fit."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from mambaport.errors import InstallError, VerifyError
from mambaport.goal import Goal
from mambaport.installing.target import (
    check_installed,
    check_target,
    missing_requirements,
    queried_names,
)
from mambaport.interpreter import Interpreter, Package, Torch, read_interpreter
from mambaport.profile import find_profile

PI = Goal("aarch64", "2.28", "cortex-a72")
RPI = find_profile("rpi")
GOOD = Interpreter(
    executable="/venv/bin/python",
    version="3.11.2",
    implementation="CPython",
    arch="aarch64",
    bits=64,
    glibc="2.36",
    prefix="/venv",
    virtual=True,
    purelib="/venv/lib/python3.11/site-packages",
    externally_managed=False,
    torch=Torch(version="2.6.0+cpu", cuda=None, path="/venv/lib/torch-2.6.0.dist-info"),
    packages={},
)


def with_torch(version: str) -> Torch:
    return Torch(version=version, cuda=None, path="")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"version": "3.13.1"},
        {"version": "3.10.0"},
        {"torch": with_torch("2.4.0")},
        {"torch": with_torch("2.5.0a0+872d972e41.nv24.8")},
        {"externally_managed": True},
        {"virtual": False},
    ],
)
def test_an_environment_that_fits_is_accepted(changes: dict[str, object]) -> None:
    check_target(GOOD.model_copy(update=changes), RPI, PI)


@pytest.mark.parametrize(
    ("changes", "found", "hint"),
    [
        ({"arch": "x86_64"}, "x86_64", "--emulate"),
        ({"arch": "armv7l", "bits": 32}, "32 bits, on armv7l", "64-bit system"),
        ({"arch": "armv8l", "bits": 32}, "armv8l", "64-bit system"),
        ({"version": "3.9.18"}, "CPython 3.9.18", "newer Python"),
        ({"implementation": "PyPy"}, "PyPy", "environment"),
        ({"bits": 32}, "32 bits, on aarch64", "64-bit system"),
        ({"bits": 32, "version": "3.9.1"}, "32 bits", "64-bit system"),
        ({"externally_managed": True, "virtual": False}, "/venv/bin/python", "-m venv"),
        ({"torch": None}, "none in /venv", "-m pip install 'torch==2.9.1'"),
        ({"torch": with_torch("2.3.1")}, "torch 2.3.1", "does not replace"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused_with_the_hint(
    changes: dict[str, object], found: str, hint: str
) -> None:
    with pytest.raises(InstallError) as caught:
        check_target(GOOD.model_copy(update=changes), RPI, PI)
    assert found in str(caught.value.found)
    assert hint in str(caught.value.hint)


def test_only_a_profile_with_an_emulated_system_is_pointed_to_it() -> None:
    jetson = find_profile("jetson").with_variant("jetpack6")
    wrong = GOOD.model_copy(update={"arch": "x86_64"})
    with pytest.raises(InstallError) as caught:
        check_target(wrong, jetson, PI)
    assert "copy the wheelhouse" in str(caught.value.hint)
    assert "--emulate" not in str(caught.value.hint)
    with pytest.raises(VerifyError) as failed:
        check_installed(wrong, jetson, PI, [])
    assert "--emulate" not in str(failed.value.hint)


def test_onnx_runtime_needs_no_torch() -> None:
    check_target(GOOD.model_copy(update={"torch": None}), RPI, PI, with_torch=False)
    with pytest.raises(InstallError, match="64-bit system"):
        check_target(GOOD.model_copy(update={"torch": None, "bits": 32}), RPI, PI, with_torch=False)


def test_onnxruntime_for_a_gpu_is_onnxruntime() -> None:
    def has(name: str, version: str) -> Interpreter:
        return GOOD.model_copy(update={"packages": {name: Package(version=version, path="")}})

    wanted = ("onnxruntime>=1.20",)
    assert queried_names(wanted) == ["onnxruntime", "onnxruntime-gpu"]
    assert missing_requirements(has("onnxruntime-gpu", "1.23.0"), wanted) == []
    assert missing_requirements(has("onnxruntime", "1.10.0"), wanted) == list(wanted)
    check_installed(has("onnxruntime-gpu", "1.23.0"), RPI, PI, ["onnxruntime"])
    with pytest.raises(VerifyError) as caught:
        check_installed(GOOD, RPI, PI, ["onnxruntime"], " --runtime onnx")
    assert "install -p rpi-cpu --runtime onnx" in str(caught.value.hint)


def test_only_what_is_missing_or_too_old_is_asked_for() -> None:
    def package(version: str) -> Package:
        return Package(version=version, path="")

    there = GOOD.model_copy(update={"packages": {"einops": package("0.6.1"), "packaging": package("24.0")}})
    assert missing_requirements(there, ("einops>=0.7", "packaging>=22", "numpy")) == ["einops>=0.7", "numpy"]


def test_this_interpreter_says_what_it_is() -> None:
    found = read_interpreter(Path(sys.executable), ["pytest", "no-such-distribution"])
    assert (found.version, found.arch) == (platform.python_version(), platform.machine())
    assert found.virtual == (sys.prefix != sys.base_prefix)
    assert found.packages["pytest"].version == pytest.__version__
    assert "no-such-distribution" not in found.packages


def test_a_distribution_without_metadata_is_not_installed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    (site / "broken-1.0.dist-info").mkdir()
    (site / "torch-2.6.0.dist-info").mkdir()
    found = read_interpreter(tmp_path / "venv" / "bin" / "python", ["broken"])
    assert found.packages == {}
    assert found.torch is None


@pytest.mark.parametrize(
    ("script", "what"),
    [
        ("#!/bin/sh\necho hello\n", "is not a Python that mambaport understands"),
        ("#!/bin/sh\nexit 1\n", "is not a Python that mambaport understands"),
        ("#!/no/such/interpreter\n", "cannot be run"),
        ("\x7fELF of another machine", "does not run on this machine"),
    ],
)
def test_what_is_no_working_python_is_refused(tmp_path: Path, script: str, what: str) -> None:
    path = tmp_path / "python"
    path.write_text(script)
    path.chmod(0o755)
    with pytest.raises(InstallError, match=what):
        read_interpreter(path, [])
