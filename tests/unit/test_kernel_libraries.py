"""kernels/mambaport_build: what the libraries are compiled of."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
sys.path.append(str(KERNELS))

from mambaport_build.config import BuildConfig  # noqa: E402
from mambaport_build.libraries import ONNX, KernelLibrary  # noqa: E402
from mambaport_build.units import Unit, kernel_units  # noqa: E402


def units(library: KernelLibrary, monkeypatch: pytest.MonkeyPatch) -> dict[Path, Unit]:
    monkeypatch.chdir(KERNELS)
    found, link = kernel_units(
        replace(library, root="."), Path("out.so"), Path("build"), BuildConfig(1, 1024)
    )
    assert link.output == Path("out.so")
    assert set(link.objects) == {unit.object for unit in found}
    return {unit.object: unit for unit in found}


def test_the_operators_for_onnxruntime_are_the_objects_of_the_other_libraries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    onnx = units(ONNX, monkeypatch)
    for name, operators in ONNX.borrows.items():
        own = units(KernelLibrary(name), monkeypatch)
        shared = {path: unit for path, unit in onnx.items() if path.parent.name == name}
        assert {unit.source.stem for unit in shared.values()} == set(operators)
        assert all(own[path] == unit for path, unit in shared.items())


def test_a_source_of_a_library_replaces_the_common_source_of_its_name() -> None:
    found = {path.name: path.parent.name for path in replace(ONNX, root=str(KERNELS)).sources}
    assert found["parallel.c"] == "mambaport_onnx"
    assert found["isa.c"] == "common"
    scan = {path.name: path.parent.name for path in KernelLibrary("selective_scan_cpu", str(KERNELS)).sources}
    assert scan["parallel.c"] == "common"
