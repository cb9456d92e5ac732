"""The probe: it says what ran, and an installation without the kernels that it should have does not pass."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = Path(__file__).parents[2] / "toolchain" / "mambaport" / "verifying" / "probe"
KERNELS = ("causal_conv1d_cpu", "selective_scan_cpu")
SWITCHES = ("CAUSAL_CONV1D_FORCE_FALLBACK", "SELECTIVE_SCAN_FORCE_FALLBACK")
pytestmark = [
    pytest.mark.skipif(not all(map(importlib.util.find_spec, KERNELS)), reason="needs the compiled kernels"),
    pytest.mark.skipif(not PROBE.is_dir(), reason="needs mambaport's own files"),
]


def probe(paths=(), **switches):
    """The exit status, and what the probe reports, with these folders before the installed packages."""
    environment = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), **switches}
    command = [sys.executable, str(PROBE), *KERNELS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def computed(report, path):
    return [row for row in report["components"] if row["path"] == path and "bound" in row]


def copied(package, folder):
    """A copy of an installed package, and its library."""
    origin = Path(importlib.util.find_spec(package).origin).parent
    shutil.copytree(origin, folder / package)
    return folder / package / f"lib{package}.so"


@pytest.mark.parametrize("word", ["FALSE", ""])
def test_a_variable_that_says_no_leaves_the_default_path_alone(word):
    status, report = probe(SELECTIVE_SCAN_FORCE_FALLBACK=word, CAUSAL_CONV1D_FORCE_FALLBACK=word)
    assert status == 0
    rows = computed(report, "default")
    assert len(rows) == len(computed(report, "fallback")) >= 24
    assert sum(bool(row["kernels"]) for row in rows) >= 20
    assert not any(row["kernels"] for row in computed(report, "fallback"))


@pytest.mark.parametrize("word", ["1", " True "])
def test_a_variable_that_says_yes_shows_in_what_ran(word):
    status, report = probe(SELECTIVE_SCAN_FORCE_FALLBACK=word)
    assert status == 0
    ran = {name for row in computed(report, "default") for name in row["kernels"]}
    assert ran == {"causal_conv1d_cpu"}


@pytest.mark.parametrize("package", KERNELS)
@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_a_library_that_does_not_load_fails(package, damage, tmp_path):
    library = copied(package, tmp_path)
    library.unlink()
    if damage == "broken":
        library.write_bytes(b"\x7fELF")
    status, report = probe([tmp_path])
    assert status == 1
    failed = [row for row in report["components"] if not row["ok"]]
    assert f"import {package}" in [row["name"] for row in failed]
    assert "library" in failed[-1]["failure"]


def test_a_package_that_is_not_there_fails(tmp_path):
    (tmp_path / "causal_conv1d_cpu.py").write_text("raise ModuleNotFoundError('causal_conv1d_cpu')\n")
    status, report = probe([tmp_path])
    assert status == 1
    assert not next(r for r in report["components"] if r["name"] == "import causal_conv1d_cpu")["ok"]


def test_kernels_that_are_there_and_never_run_fail(tmp_path):
    """As where the packages that choose the kernels never do."""
    copied("selective_scan_cpu", tmp_path)
    module = tmp_path / "selective_scan_cpu" / "__init__.py"
    names = ("", "_chunk_scan", "_linear", "_mamba_step", "_norm", "_projected_scan", "_state_update")
    refusals = "".join(f"supports{name} = lambda *args, **kwargs: False\n" for name in names)
    module.write_text(module.read_text() + refusals)
    status, report = probe([tmp_path])
    assert status == 1
    failed = {row["name"]: row["failure"] for row in report["components"] if not row["ok"]}
    assert failed["selective_scan_fn"] == "RuntimeError: no kernel of selective_scan_cpu ran"
    assert {row["path"] for row in report["components"] if not row["ok"]} == {"default"}
