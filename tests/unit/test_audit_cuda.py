"""The audit of CUDA extensions: on shared libraries with fat binaries in nvcc's layout."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import EM_AARCH64, for_machine, shared_library, write_wheel

from mambaport.auditing import Finding, TargetSymbols, audit_wheel
from mambaport.auditing.elf import Library
from mambaport.auditing.fatbin import DeviceCode, device_code
from mambaport.cuda.exports import Exports
from mambaport.goal import CudaGoal, Goal
from mambaport.wheels import read_wheel

ORIN = CudaGoal("12.6", ("87",), (), "l4t", "2.5")
JETSON = Goal("aarch64", "2.35", "cortex-a78ae", ORIN)
TAG = "py3-none-linux_aarch64"
NAME = "demo/libdemo.so"
CHECK = "_ZN3c106detail14torchCheckFailEPKcS2_jRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
OLD_CHECK = "_ZN3c106detail14torchCheckFailEPKcS2_jRKSs"
TORCH_25 = TargetSymbols("2.5.0", Exports(True, {"libc10.so": frozenset({CHECK})}))
PTX, CUBIN = 1, 2


def entry(kind: int, sm: int, header: int = 64, size: int = 24) -> bytes:
    fields = struct.pack("<HHIQIIHHI", kind, 0x101, header, size, 0, 0, 8, 1, sm)
    return fields.ljust(header, b"\0") + b"\x7f" * size


def fat_binary(*entries: bytes) -> bytes:
    content = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(content)) + content


def extension(
    *fat_binaries: bytes,
    needs: Sequence[str] = (CHECK,),
    run_path: str | None = None,
    cudart: str = "libcudart.so.12",
    libraries: Sequence[str] = (),
) -> bytes:
    """A shared library that has these fat binaries, needs these symbols and is marked as aarch64."""
    lines = [".data", *(f".quad {name}" for name in needs), '.section .nv_fatbin,"a"', ".align 8"]
    for content in fat_binaries:
        lines += [f".byte {', '.join(map(str, content))}", ".align 8"]
    with tempfile.TemporaryDirectory() as folder:
        stub = Path(folder) / "libstub.so"
        stub.write_bytes(shared_library("int stub;\n", "-nostdlib", f"-Wl,-soname,{cudart}"))
        flags = ["-nostdlib", "-Wl,--no-as-needed", str(stub), *libraries]
        flags += [f"-Wl,-rpath,{run_path},--enable-new-dtags"] if run_path else []
        made = shared_library("\n".join(lines) + "\n", *flags, assembler=True)
    return for_machine(made, EM_AARCH64)


def findings(
    folder: Path,
    library: bytes,
    goal: Goal | None = JETSON,
    symbols: TargetSymbols | None = TORCH_25,
    name: str = NAME,
    tag: str = TAG,
    flavour: str | None = "l4t",
) -> dict[str, Finding]:
    files = {name: library}
    if flavour is not None:
        record = json.dumps({"cuda": {"flavour": flavour}}).encode()
        files["demo-1.0+cpu.1.dist-info/provenance.json"] = record
    wheel = read_wheel(write_wheel(folder, files, tag=tag))
    return {finding.rule: finding for finding in audit_wheel(wheel, goal, symbols).findings}


def failed(found: dict[str, Finding]) -> list[str]:
    return [rule for rule, finding in found.items() if finding.verdict == "fail"]


GOOD = fat_binary(entry(CUBIN, 87))


def test_a_wheel_for_the_device_passes_and_says_what_it_holds(tmp_path: Path) -> None:
    found = findings(tmp_path, extension(GOOD, GOOD))
    assert failed(found) == []
    assert found["sm"].found == "2 cubins: sm_87 cubin, no PTX"
    assert found["cuda"].found == "CUDA 12"
    assert found["torch"].found == "1 symbols, all in torch 2.5.0"
    assert found["flavour"].found == "Jetson (L4T)"


def test_every_entry_of_every_fat_binary_is_read(tmp_path: Path) -> None:
    made = extension(
        fat_binary(entry(CUBIN, 80), entry(CUBIN, 87, header=72)), fat_binary(entry(PTX, 90, 80, 40))
    )
    assert device_code(Library("x.so", made)) == [
        DeviceCode("cubin", "80", 24),
        DeviceCode("cubin", "87", 24),
        DeviceCode("ptx", "90", 40),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x01" * 64, "no fat binary at 0x0"),
        (fat_binary(entry(7, 87)), "of kind 7"),
        (fat_binary(entry(CUBIN, 87))[:-8], "cut off|the entries end"),
        (fat_binary(entry(CUBIN, 5)), "sm_5"),
    ],
    ids=["foreign", "unknown kind", "cut off", "no architecture"],
)
def test_what_does_not_follow_the_layout_never_passes(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        device_code(Library("x.so", extension(content)))
    assert "arch" in failed(findings(tmp_path, extension(content)))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([entry(CUBIN, 80)], "has no sm_87 cubin"),
        ([entry(CUBIN, 87), entry(CUBIN, 90)], "has a sm_90 cubin"),
        ([entry(CUBIN, 87), entry(PTX, 87)], "has a compute_87 PTX"),
    ],
)
def test_other_architectures_are_refused(tmp_path: Path, entries: list[bytes], reason: str) -> None:
    found = findings(tmp_path, extension(fat_binary(*entries)))
    assert failed(found) == ["sm"]
    assert reason in found["sm"].found


def test_ptx_that_the_profile_asks_for_must_be_there(tmp_path: Path) -> None:
    goal = replace(JETSON, cuda=replace(ORIN, ptx=("87",)))
    both = fat_binary(entry(CUBIN, 87), entry(PTX, 87))
    assert failed(findings(tmp_path, extension(both), goal)) == []
    assert failed(findings(tmp_path, extension(GOOD), goal)) == ["sm"]


def test_another_cuda_major_is_refused(tmp_path: Path) -> None:
    found = findings(tmp_path, extension(GOOD, cudart="libcudart.so.13"))
    assert failed(found) == ["cuda"]
    assert found["cuda"].expected == "libcudart.so.12"


def test_a_symbol_that_torch_lacks_is_named_with_the_torch_that_has_it(tmp_path: Path) -> None:
    new = "_ZN2at4_ops3newE"
    others = {"2.9.1": Exports(True, {"libtorch_cpu.so": frozenset({CHECK, new})})}
    found = findings(tmp_path, extension(GOOD, needs=(CHECK, new)), symbols=replace(TORCH_25, others=others))
    assert failed(found) == ["torch"]
    assert f"needs {new}" in found["torch"].found
    assert "torch 2.9.1 has them all" in found["torch"].found
    assert "no torch at hand" in findings(tmp_path, extension(GOOD, needs=(new,)))["torch"].found


def test_symbols_of_cudas_runtime_are_not_torchs(tmp_path: Path) -> None:
    found = findings(tmp_path, extension(GOOD, needs=(CHECK, "cudaLaunchKernel", "__cudaRegisterFatBinary")))
    assert failed(found) == []
    assert found["torch"].found.startswith("1 symbols")


@pytest.mark.parametrize("name", ["PyObject_Call", "_Py_NoneStruct"])
def test_an_extension_that_needs_python_is_refused(tmp_path: Path, name: str) -> None:
    found = findings(tmp_path, extension(GOOD, needs=(CHECK, name)))
    assert set(failed(found)) == {"python", "torch"}
    assert f"needs {name}" in found["python"].found


def test_an_extension_that_needs_torchs_python_library_is_refused(tmp_path: Path) -> None:
    stub = tmp_path / "libtorch_python.so"
    stub.write_bytes(shared_library("int stub;\n", "-nostdlib", f"-Wl,-soname,{stub.name}"))
    found = findings(tmp_path, extension(GOOD, libraries=(str(stub),)))
    assert set(failed(found)) == {"python", "needed"}


def test_the_other_string_abi_is_refused(tmp_path: Path) -> None:
    found = findings(tmp_path, extension(GOOD, needs=(OLD_CHECK,)))
    assert "c++ abi" in failed(found)
    old = TargetSymbols("2.5.1", Exports(False, {"libc10.so": frozenset({OLD_CHECK})}))
    assert failed(findings(tmp_path, extension(GOOD, needs=(OLD_CHECK,)), symbols=old)) == []
    assert "c++ abi" in failed(findings(tmp_path, extension(GOOD), symbols=old))


def test_an_absolute_run_path_behind_a_relative_one_is_seen(tmp_path: Path) -> None:
    found = findings(tmp_path, extension(GOOD, run_path="$ORIGIN/torch/lib:/home/me/lib"))
    assert "looks for libraries in /home/me/lib" in found["needed"].found


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"tag": "cp311-cp311-linux_aarch64"}, "python"),
        ({"flavour": "sbsa"}, "flavour"),
    ],
)
def test_a_tag_for_one_python_and_another_flavour_are_refused(
    tmp_path: Path, fields: dict[str, str], rule: str
) -> None:
    assert failed(findings(tmp_path, extension(GOOD), **fields)) == [rule]  # type: ignore[arg-type]


def test_a_wheel_without_the_extension_that_the_profile_asks_for_is_refused(tmp_path: Path) -> None:
    found = findings(tmp_path, for_machine(shared_library(), EM_AARCH64))
    assert found["cuda"].found == "no CUDA extension inside"


def test_libraries_of_torch_are_for_cuda_extensions_alone(tmp_path: Path) -> None:
    stub = shared_library("int stub;\n", "-nostdlib", "-Wl,-soname,libc10.so")
    (tmp_path / "libc10.so").write_bytes(stub)
    plain = shared_library("int demo;\n", "-Wl,--no-as-needed", str(tmp_path / "libc10.so"))
    found = findings(tmp_path, for_machine(plain, EM_AARCH64), goal=None)
    assert "needs libc10.so" in found["needed"].found


def test_without_profile_and_torch_it_says_what_it_sees(tmp_path: Path) -> None:
    found = findings(tmp_path, extension(GOOD), None, None, flavour=None)
    assert failed(found) == []
    assert found["torch"].verdict == found["flavour"].verdict == "skip"
