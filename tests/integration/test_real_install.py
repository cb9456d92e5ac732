"""Real installations: proven there, or the environment is as it was; torch is never touched."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real import ended, environment_with_torch, mambaport, reach, sha256, started

pytestmark = pytest.mark.network


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A new environment that sees a real torch, and nothing of ours."""
    return environment_with_torch(tmp_path)


def packages(python: Path) -> dict[str, str]:
    """Every file of the environment itself but bytecode: path -> sha256."""
    root = python.parent.parent
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    files = [path for path in files if path.suffix != ".pyc"]
    return {path.relative_to(root).as_posix(): sha256(path) for path in files}


def torch_files(python: Path) -> list[tuple[str, int, int]]:
    """Every file of torch, with size and time."""
    root = python.parent.parent.parent / "seen"
    folders = [root / "torch", *root.glob("torch-*.dist-info")]
    files = [path for folder in folders for path in folder.resolve().rglob("*") if path.suffix != ".pyc"]
    return sorted((str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in files)


@pytest.fixture(scope="session")
def wrong(cpu: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheelhouse whose mamba-ssm passes every audit and gives wrong numbers."""
    house = tmp_path_factory.mktemp("wrong")
    good = {wheel["name"]: Path(wheel["path"]) for wheel in cpu["wheels"]}
    shutil.copy(good["causal-conv1d"], house)
    opened = tmp_path_factory.mktemp("opened")
    subprocess.run([sys.executable, "-m", "wheel", "unpack", good["mamba-ssm"], "--dest", opened], check=True)
    (root,) = opened.iterdir()
    path = root / "mamba_ssm" / "ops" / "selective_scan_interface.py"
    path.write_text(path.read_text() + WRONG_NUMBERS)
    subprocess.run([sys.executable, "-m", "wheel", "pack", root, "--dest-dir", house], check=True)
    assert {path.name for path in house.iterdir()} == {path.name for path in good.values()}
    return house


WRONG_NUMBERS = """

_right = selective_scan_fn


def selective_scan_fn(*args, **kwargs):
    out = _right(*args, **kwargs)
    return (out[0] + 0.01, *out[1:]) if isinstance(out, tuple) else out + 0.01
"""


def test_an_environment_for_onnx_runtime_has_no_torch(cpu: Any, shared: Path, tmp_path: Path) -> None:
    """The wheel alone is installed and proven; where the proof fails, the environment is as it was."""
    python = environment_with_torch(tmp_path, without=("torch", "einops", "transformers"))
    words = ("-p", "cpu", "--runtime", "onnx", "--python", python)
    ran = mambaport(shared, "verify", *words)
    assert ran.code == 16
    assert "mamba-ssm not installed" in ran.err
    assert "--runtime onnx" in ran.err

    house = ("--wheelhouse", Path(cpu["wheelhouse"]))
    answer = mambaport(shared, "install", *words, *house).good()
    assert [wheel["name"] for wheel in answer["wheels"]] == ["mamba-ssm"]
    proof = answer["verification"]
    assert "torch" not in proof
    assert proof["onnxruntime"]
    assert proof["ran"] == {"kernels": 6, "pytorch": 0, "gpu": 0}
    assert len(proof["wheels"]) == 1
    assert mambaport(shared, "verify", *words).good()["ok"]

    (site,) = python.parent.parent.glob("lib/python3*/site-packages")
    before = packages(python)
    # Not sitecustomize, which Debian's Python has too.
    (site / "wrong_scan.py").write_text(WRONG_SCAN)
    (site / "wrong_scan.pth").write_text("import wrong_scan\n")
    failed = mambaport(shared, "install", *words, *house)
    assert failed.code == 16
    assert "SelectiveScan" in failed.err
    assert "environment is as it was before" in failed.err
    for name in ("wrong_scan.pth", "wrong_scan.py"):
        (site / name).unlink()
    assert packages(python) == before


# The proof's reference of each scan, so that library and reference differ.
WRONG_SCAN = """
import numpy

right = numpy.logaddexp
numpy.logaddexp = lambda *args: right(*args) + 1e-3
"""


def install(shared: Path, cpu: Any, python: Path, wheelhouse: Path | None = None) -> tuple[str | Path, ...]:
    return ("install", "-p", "cpu", "--python", python, "--wheelhouse", wheelhouse or Path(cpu["wheelhouse"]))


def test_wheels_are_installed_and_proven_and_torch_is_the_same_file_set(
    cpu: Any, shared: Path, python: Path
) -> None:
    torch = torch_files(python)
    answer = mambaport(shared, *install(shared, cpu, python)).good()
    assert answer["verification"]["ok"] is True
    rows = answer["verification"]["components"]
    assert {row["path"] for row in rows} == {"default", "fallback"}
    assert any(row["name"] == "import causal_conv1d_cpu" for row in rows)
    assert all(row["error"] <= row["bound"] for row in rows if row.get("error") is not None)
    assert {wheel["sha256"] for wheel in answer["wheels"]} == {wheel["sha256"] for wheel in cpu["wheels"]}
    assert torch_files(python) == torch
    there = packages(python)
    assert any("/mamba_ssm-2.2.4+cpu" in name for name in there)
    assert not any(part in name for name in there for part in ("/.mambaport", "/torch-2", "/~"))


def test_a_proof_that_fails_puts_back_what_was_there(
    cpu: Any, shared: Path, python: Path, wrong: Path
) -> None:
    empty = packages(python)
    ran = mambaport(shared, *install(shared, cpu, python, wrong))
    assert ran.code == 16, ran.err
    assert "as it was before" in ran.json["error"]["hint"]
    assert packages(python) == empty

    mambaport(shared, *install(shared, cpu, python)).good()
    before, torch = packages(python), torch_files(python)
    ran = mambaport(shared, *install(shared, cpu, python, wrong))
    assert ran.code == 16, ran.err
    assert "put back" in ran.json["error"]["hint"]
    assert packages(python) == before
    assert torch_files(python) == torch


@pytest.mark.parametrize("late", [False, True], ids=["while pip works", "before the proof"])
def test_killed_while_installing_a_plain_rerun_heals_the_environment(
    cpu: Any, shared: Path, python: Path, wrong: Path, late: bool
) -> None:
    (site,) = (python.parent.parent / "lib").glob("python3*/site-packages")
    journal = site.parent / ".mambaport-backup" / "journal.json"
    installed: Callable[[], bool] = lambda: any(site.glob("mamba_ssm-*.dist-info/RECORD"))  # noqa: E731
    victim = started(shared, *install(shared, cpu, python, wrong))
    reach(victim, lambda: journal.is_file() and (installed() or not late))
    victim.kill()
    ended(victim)
    assert journal.is_file()
    ran = mambaport(shared, *install(shared, cpu, python))
    assert ran.good()["verification"]["ok"] is True
    assert "an earlier installation was interrupted" in ran.err
    assert not any(part in name for name in packages(python) for part in ("/.mambaport", "/~"))
    interface = (site / "mamba_ssm/ops/selective_scan_interface.py").read_text()
    assert WRONG_NUMBERS not in interface


def test_an_old_python_is_refused_with_15_and_the_hint(cpu: Any, shared: Path) -> None:
    candidates = [shutil.which("python3.9"), *map(str, Path.home().glob(".pyenv/versions/3.9*/bin/python"))]
    for candidate in filter(None, candidates):
        answer = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if answer.stdout.startswith("Python 3.9"):
            break
    else:
        pytest.skip("no Python 3.9 here")
    ran = mambaport(shared, *install(shared, cpu, Path(candidate)))
    assert ran.code == 15
    assert "CPython 3.9" in ran.json["error"]["found"]
    assert "CPython 3.10 or newer" in ran.json["error"]["expected"]
    assert "newer Python" in ran.json["error"]["hint"]


def test_wheels_for_another_machine_are_refused_before_anything_is_touched(
    rpi: Any, shared: Path, python: Path
) -> None:
    before = packages(python)
    ran = mambaport(shared, "install", "-p", "rpi", "--python", python, "--wheelhouse", rpi["wheelhouse"])
    if json.loads(mambaport(shared, "doctor").out)["host"]["arch"] == "aarch64":
        assert ran.code == 0
        return
    assert ran.code == 15
    assert "--emulate" in ran.json["error"]["hint"]
    assert packages(python) == before
