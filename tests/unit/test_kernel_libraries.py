"""kernels/mambaport_build: what the libraries are compiled of."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
sys.path.append(str(KERNELS))

from mambaport_build.config import BuildConfig  # noqa: E402
from mambaport_build.libraries import INSTRUCTION_SETS, ONNX, OPERATORS, KernelLibrary  # noqa: E402
from mambaport_build.units import Unit, kernel_units  # noqa: E402

from mambaport.contents import contents  # noqa: E402


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


def aarch64_units(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, tuple[str, ...]], str]:
    """Object -> the words that compile it with CFLAGS of `words`, and the linker's script."""
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho aarch64-linux-gnu\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("CFLAGS", words)
    library, folder = KernelLibrary(name, str(KERNELS)), tmp_path / "build"
    found, link = kernel_units(library, tmp_path / "out.so", folder, BuildConfig(1, 1024))
    (option,) = (word for word in link.after if word.startswith("-Wl,-T,"))
    return {unit.object.name: unit.command for unit in found}, Path(option[7:]).read_text()


@pytest.mark.parametrize("words", ["-mcpu=cortex-a72", "-march=armv8-a+crc"])
def test_an_operator_is_compiled_for_the_sets_that_name_it(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, script = aarch64_units("selective_scan_cpu", words, tmp_path, monkeypatch)
    assert {"norm_base.o", "norm_i8mm.o", "tile_base.o", "tile_i8mm.o", "scan_forward_base.o"} <= set(found)
    assert not {"norm_dotprod.o", "scan_forward_i8mm.o"} & set(found)
    assert words in found["norm_base.o"]
    assert words not in found["norm_i8mm.o"]
    assert "-march=armv8.2-a+fp16+dotprod+i8mm+bf16" in found["norm_i8mm.o"]
    assert words in found["isa.o"]
    assert "mambaport_i8mm : { *_i8mm.o(.text .text.*) }" in script


def test_the_sets_of_the_build_are_those_of_c_and_of_the_audit() -> None:
    header = (KERNELS / "csrc" / "common" / "isa.h").read_text()
    lists = [
        re.findall(r"NAME\((\w+)\)", line) for line in header.splitlines() if "INSTRUCTION_SETS(NAME)" in line
    ]
    assert lists == [list(INSTRUCTION_SETS["aarch64"]), list(INSTRUCTION_SETS["x86_64"])]
    levels = {level.section.removeprefix("mambaport_"): level for level in contents().level}
    assert list(levels) == list(OPERATORS["aarch64"]) == list(INSTRUCTION_SETS["aarch64"])[1:]
    guards = {level.guard for level in levels.values()}
    assert guards == {"best_instruction_set"}
    assert "EXPORT int best_instruction_set(void)" in (KERNELS / "csrc" / "common" / "isa.c").read_text()


def test_the_operators_of_a_set_are_files() -> None:
    names = {path.stem for path in KERNELS.glob("csrc/*/operators/*.c")}
    assert all(operators <= names for sets in OPERATORS.values() for operators in sets.values())
