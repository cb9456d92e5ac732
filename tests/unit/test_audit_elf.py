"""The audit of compiled files: architecture, glibc, libraries; on real shared libraries."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import EM_AARCH64, EM_X86_64, aarch64_library, for_machine, shared_library, write_wheel

from mambaport.auditing import Finding, audit_wheel, require
from mambaport.auditing.elf import Library
from mambaport.errors import AuditError
from mambaport.goal import Goal
from mambaport.wheels import read_wheel

PI = Goal("aarch64", "2.28", "cortex-a72")
PC = Goal("x86_64", "2.28", "generic")
LINUX_PI, LINUX_PC, ANY = "py3-none-linux_aarch64", "py3-none-linux_x86_64", "py3-none-any"
# gettid is in glibc since 2.30.
NEEDS_GLIBC_2_30 = """
#define _GNU_SOURCE
#include <unistd.h>
int demo(void) { return gettid(); }
"""


def findings(
    folder: Path, library: bytes, tag: str, goal: Goal | None, name: str = "demo/libdemo.so"
) -> dict[str, Finding]:
    wheel = read_wheel(write_wheel(folder, {name: library}, tag=tag))
    return {finding.rule: finding for finding in audit_wheel(wheel, goal).findings}


def failed(found: dict[str, Finding]) -> list[str]:
    return [rule for rule, finding in found.items() if finding.verdict == "fail"]


def test_a_library_for_the_tags_machine_passes(tmp_path: Path) -> None:
    assert failed(findings(tmp_path, aarch64_library(), LINUX_PI, PI)) == []


def test_an_x86_64_library_under_an_aarch64_tag_is_refused_with_the_reason(tmp_path: Path) -> None:
    foreign = for_machine(shared_library(), EM_X86_64)
    wheel = read_wheel(write_wheel(tmp_path, {"demo/libdemo.so": foreign}, tag=LINUX_PI))
    for goal in (PI, None):
        with pytest.raises(AuditError) as caught:
            require(audit_wheel(wheel, goal))
        assert "arch: demo/libdemo.so is for x86_64" in str(caught.value.found)
        assert "aarch64, as the tag linux_aarch64 says" in str(caught.value.expected)


def test_a_foreign_library_hides_behind_no_other_name(tmp_path: Path) -> None:
    foreign = for_machine(shared_library(), EM_X86_64)
    files = {"demo/libdemo.so": aarch64_library(), "demo/data.bin": foreign}
    wheel = read_wheel(write_wheel(tmp_path, files, tag=LINUX_PI))
    arch = next(finding for finding in audit_wheel(wheel, PI).findings if finding.rule == "arch")
    assert (arch.verdict, arch.found) == ("fail", "demo/data.bin is for x86_64")


def test_a_name_for_another_machine_is_refused(tmp_path: Path) -> None:
    name = "demo.cpython-311-x86_64-linux-gnu.so"
    assert "is named for x86_64" in findings(tmp_path, aarch64_library(), LINUX_PI, PI, name)["arch"].found


def test_a_compiled_file_in_a_wheel_for_any_machine_is_refused(tmp_path: Path) -> None:
    assert failed(findings(tmp_path, aarch64_library(), ANY, PI)) == ["arch"]


def test_a_wheel_for_a_machine_with_nothing_compiled_is_refused(tmp_path: Path) -> None:
    found = findings(tmp_path, b"text", LINUX_PI, PI, "demo/data.txt")
    assert "nothing compiled is inside" in found["arch"].found


def test_a_wheel_for_another_machine_than_the_profiles_is_refused(tmp_path: Path) -> None:
    library = for_machine(shared_library(), EM_X86_64)
    assert failed(findings(tmp_path, library, LINUX_PC, PC)) == []
    assert (
        "the wheel is for x86_64, the profile for aarch64"
        in findings(tmp_path, library, LINUX_PC, PI)["arch"].found
    )


def test_a_symbol_newer_than_the_targets_glibc_is_refused(tmp_path: Path) -> None:
    library = for_machine(shared_library(NEEDS_GLIBC_2_30), EM_AARCH64)
    found = findings(tmp_path, library, LINUX_PI, PI)["glibc"]
    assert (found.verdict, found.found) == ("fail", "demo/libdemo.so needs glibc 2.30")
    assert "2.28" in found.expected
    newer = findings(tmp_path, library, LINUX_PI, Goal("aarch64", "2.31", "cortex-a72"))["glibc"]
    assert (newer.verdict, newer.found) == ("pass", "needs glibc 2.30, target has 2.31")


def test_packed_relocations_need_the_glibc_that_can_load_them(tmp_path: Path) -> None:
    source = "#include <stdlib.h>\nint x; int *demo[64] = {[0 ... 63] = &x};\nvoid f(void) { abort(); }\n"
    library = shared_library(source, "-Wl,-z,pack-relative-relocs", "-Wl,-Bsymbolic")
    if b"GLIBC_ABI_DT_RELR" not in library:
        pytest.skip("this linker does not pack relocations")
    found = findings(tmp_path, for_machine(library, EM_AARCH64), LINUX_PI, PI)["glibc"]
    assert (found.verdict, found.found) == ("fail", "demo/libdemo.so needs glibc 2.36")


def test_a_library_that_is_not_on_every_system_is_refused(tmp_path: Path) -> None:
    (tmp_path / "libforeign.so.1").write_bytes(shared_library("int foreign(void) { return 1; }\n"))
    source = "int foreign(void); int demo(void) { return foreign(); }\n"
    library = shared_library(source, f"-L{tmp_path}", "-l:libforeign.so.1")
    found = findings(tmp_path, for_machine(library, EM_AARCH64), LINUX_PI, PI)["needed"]
    assert (found.verdict, found.found) == ("fail", "demo/libdemo.so needs libforeign.so.1")


def test_a_library_that_the_wheel_brings_itself_is_no_foreign_one(tmp_path: Path) -> None:
    (tmp_path / "libforeign.so.1").write_bytes(shared_library("int foreign(void) { return 1; }\n"))
    source = "int foreign(void); int demo(void) { return foreign(); }\n"
    library = for_machine(shared_library(source, f"-L{tmp_path}", "-l:libforeign.so.1"), EM_AARCH64)
    files = {"demo/libdemo.so": library, "demo/libforeign.so.1": aarch64_library()}
    wheel = read_wheel(write_wheel(tmp_path, files, tag=LINUX_PI))
    assert audit_wheel(wheel, None).ok


def test_a_symbol_that_no_library_has_is_refused(tmp_path: Path) -> None:
    library = shared_library("int missing(void); int demo(void) { return missing(); }\n")
    found = findings(tmp_path, for_machine(library, EM_AARCH64), LINUX_PI, PI)["needed"]
    assert (found.verdict, found.found) == (
        "fail",
        "demo/libdemo.so needs the symbol missing, which no library has",
    )


@pytest.mark.parametrize(("path", "verdict"), [("/home/me/lib", "fail"), ("$ORIGIN/lib", "pass")])
def test_a_search_path_on_the_builders_disk_is_refused(tmp_path: Path, path: str, verdict: str) -> None:
    library = for_machine(shared_library("int demo;\n", f"-Wl,-rpath,{path}"), EM_AARCH64)
    found = findings(tmp_path, library, LINUX_PI, PI)["needed"]
    assert found.verdict == verdict
    assert (path in found.found) == (verdict == "fail")


def test_an_executable_stack_is_refused(tmp_path: Path) -> None:
    library = for_machine(shared_library("int demo;\n", "-Wl,-z,execstack"), EM_AARCH64)
    assert "executable stack" in findings(tmp_path, library, LINUX_PI, PI)["loading"].found


def test_a_library_without_a_section_table_cannot_pass_unseen(tmp_path: Path) -> None:
    library = bytearray(aarch64_library([0xB8E00041]))  # LDADDAL
    library[40:48] = bytes(8)  # e_shoff
    library[60:64] = bytes(4)  # e_shnum, e_shstrndx
    found = findings(tmp_path, bytes(library), LINUX_PI, PI)
    assert (found["loading"].verdict, found["loading"].found) == (
        "fail",
        "demo/libdemo.so has no section table to audit",
    )
    assert "lse, such as b8e00041" in found["isa"].found


@pytest.mark.parametrize("kept", [4, 7, 30, 70, 600])
def test_a_broken_compiled_file_fails_and_does_not_crash(tmp_path: Path, kept: int) -> None:
    assert "arch" in failed(findings(tmp_path, aarch64_library()[:kept], LINUX_PI, PI))
    assert "arch" in failed(findings(tmp_path, b"\x7fELF" + b"z" * kept, LINUX_PI, PI))


def test_what_a_real_library_of_this_machine_needs_is_read(tmp_path: Path) -> None:
    library = Library("libdemo.so", shared_library(NEEDS_GLIBC_2_30))
    assert library.glibc == (2, 30)
    assert any(re.fullmatch(r"libc\.so\.\d+", name) for name in library.needed)
    assert library.run_paths == []
