"""The rpi-cpu wheels on emulated aarch64 systems, with a real aarch64 torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mambaport.cli.options import open_session

Run = Callable[..., dict[str, Any]]
pytestmark = [pytest.mark.emulated, pytest.mark.network, pytest.mark.usefixtures("emulator")]


FORGETFUL = b"""
_right = selective_scan


def selective_scan(u, delta, A, B, C, D=None, *rest, **options):
    return _right(u, delta, A, B, C, None, *rest, **options)
"""


@pytest.mark.parametrize(
    ("suite", "python", "line"), [("bookworm", "3.11", "2.2.4"), ("trixie", "3.13", "2.3")]
)
def test_every_component_is_right_on(
    mambaport: Run, tmp_path: Path, suite: str, python: str, line: str
) -> None:
    """Each system runs one line's wheels: the lines have the same kernels."""
    assert mambaport("build", "-p", "rpi", "--line", line, "-o", tmp_path)["exit"] == 0
    words = ("--line", line, "--system", suite, "--wheelhouse", tmp_path)
    found = mambaport("verify", "-p", "rpi", "--emulate", *words)
    failed = [item for item in found["components"] if not item["ok"]]
    assert found["exit"] == 0
    assert not failed
    assert found["arch"] == "aarch64"
    assert found["python"].startswith(python + ".")
    assert found["torch"].startswith("2.6.0")
    assert {"import causal_conv1d_cpu", "import selective_scan_cpu"} <= {
        i["name"] for i in found["components"]
    }
    paths = {item["path"] for item in found["components"] if item["name"] == "selective_scan_fn"}
    assert paths == {"default", "fallback"}


ACTION = Path(__file__).parents[2] / "deploy/action/action.yml"


def verified_by_the_action(wheels: Path, temporary: Path) -> tuple[int, dict[str, Any]]:
    """Runs the shell of the action's last step as a runner does. Returns exit code and verify.json."""
    (step,) = [
        item for item in yaml.safe_load(ACTION.read_text())["runs"]["steps"] if item.get("id") == "verify"
    ]
    (temporary / "mambaport/bin").mkdir(parents=True)
    (temporary / "mambaport/bin/mambaport").symlink_to(Path(sys.executable).with_name("mambaport"))
    (temporary / "script.sh").write_text(step["run"])
    store = open_session(as_json=True, quiet=True).shop.store.root
    inputs = {
        "PROFILE": "rpi",
        "VARIANT": "",
        "LINE": "",
        "OUTPUT": str(wheels),
        "MAMBAPORT_CACHE": str(store),
    }
    assert set(step["env"]) == set(inputs)
    runner = {"RUNNER_TEMP": str(temporary), "GITHUB_OUTPUT": str(temporary / "outputs")}
    words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(temporary / "script.sh")]
    done = subprocess.run(words, env={**os.environ, **inputs, **runner}, check=False)
    assert not (temporary / "outputs").exists()
    return done.returncode, json.loads((wheels / "verify.json").read_text())


def test_an_illegal_instruction_is_named_and_ends_a_workflow_with_16(
    wheelhouse: Path, tmp_path: Path
) -> None:
    """As torch 2.10 ends on a Cortex-A72; here mamba_ssm runs into UDF by itself."""
    illegal = b"import ctypes, mmap\ncode = mmap.mmap(-1, 4096, prot=7)\ncode.write(bytes(4))\n"
    illegal += b"ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()\n"
    for wheel in wheelhouse.glob("*.whl"):
        with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(tmp_path / wheel.name, "w") as copy:
            for item in source.infolist():
                copy.writestr(
                    item, illegal if item.filename == "mamba_ssm/__init__.py" else source.read(item)
                )
    code, found = verified_by_the_action(tmp_path, tmp_path / "runner")
    assert code == 16
    assert "instruction" in found["error"]["what"]
    assert "torch 2.9.1" in found["error"]["hint"]


def test_a_wrong_kernel_is_caught(mambaport: Run, wheelhouse: Path, tmp_path: Path) -> None:
    """The probe must not be satisfied with whatever runs: here the scan forgets D."""
    for wheel in wheelhouse.glob("*.whl"):
        with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(tmp_path / wheel.name, "w") as copy:
            for item in source.infolist():
                content = source.read(item)
                if item.filename == "selective_scan_cpu/__init__.py":
                    content += FORGETFUL
                copy.writestr(item, content)
    found = mambaport("verify", "-p", "rpi", "--emulate", "--wheelhouse", tmp_path)
    failed = {(item["name"], item["path"]) for item in found["components"] if not item["ok"]}
    assert found["exit"] == 16
    assert ("selective_scan_fn", "default") in failed
    assert ("selective_scan_fn", "fallback") not in failed
    assert found["error"]["kind"] == "verify"
