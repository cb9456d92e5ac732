"""A library as the loader sees it: what its headers may not say, and damage of any kind."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import EM_AARCH64, aarch64_library, for_machine, shared_library, write_wheel

from mambaport.auditing import audit_wheel
from mambaport.auditing.image import (
    DT_FLAGS,
    DT_NEEDED,
    DT_TEXTREL,
    EXECUTE,
    PT_DYNAMIC,
    PT_INTERP,
    PT_LOAD,
    WRITE,
    Image,
    image_faults,
)
from mambaport.goal import Goal
from mambaport.wheels import read_wheel

PI = Goal("aarch64", "2.28", "cortex-a72")
LIBRARY = shared_library(
    "#include <math.h>\nfloat demo(float x) { return expf(x); }\n", "-fno-builtin", "-lm"
)


def faults(content: bytes, constructors: int | None = 1) -> str:
    return "; ".join(image_faults(Image(content), constructors))


def test_a_compilers_library_has_no_faults() -> None:
    assert faults(LIBRARY) == ""
    assert faults(aarch64_library(), 0) == ""


def program(content: bytes, wanted: Callable[[int, int], bool]) -> int:
    """Where the first program header of this kind and flags stands."""
    start: int = struct.unpack_from("<Q", content, 32)[0]
    count: int = struct.unpack_from("<H", content, 56)[0]
    return next(
        at
        for number in range(count)
        if wanted(*struct.unpack_from("<II", content, at := start + 56 * number))
    )


def code_header(content: bytes) -> int:
    return program(content, lambda kind, flags: kind == PT_LOAD and bool(flags & EXECUTE))


def patched(at: int, form: str, value: int) -> bytes:
    content = bytearray(LIBRARY)
    struct.pack_into(form, content, at, value)
    return bytes(content)


def dynamic(tag: int, value: int) -> bytes:
    """The library with its last NEEDED entry replaced by another entry."""
    header = program(LIBRARY, lambda kind, _: kind == PT_DYNAMIC)
    start = struct.unpack_from("<Q", LIBRARY, header + 8)[0]
    at = max(
        start + 16 * number
        for number in range(40)
        if struct.unpack_from("<Q", LIBRARY, start + 16 * number)[0] == DT_NEEDED
    )
    content = bytearray(LIBRARY)
    struct.pack_into("<QQ", content, at, tag, value)
    return bytes(content)


CODE = code_header(LIBRARY)
CASES = {
    "an executable": (patched(16, "<H", 2), "is no shared library"),
    "writable code": (patched(CODE + 4, "<I", 4 | EXECUTE | WRITE), "writable and executable"),
    "data that is executable": (
        patched(code_header(LIBRARY) - 56 + 4, "<I", 4 | EXECUTE),
        "executable segment",
    ),
    "an interpreter": (
        patched(program(LIBRARY, lambda kind, _: kind == 4), "<I", PT_INTERP),
        "program interpreter",
    ),
    "an unknown segment": (
        patched(program(LIBRARY, lambda kind, _: kind == 4), "<I", 99),
        "program header of kind",
    ),
    "code that is not in the file": (patched(CODE + 40, "<Q", 1 << 13), "not all in the file"),
    "overlapping segments": (patched(CODE + 16, "<Q", 0), "overlap"),
    "text relocations": (dynamic(DT_TEXTREL, 0), "changes its code"),
    "text relocations by flag": (dynamic(DT_FLAGS, 4), "changes its code"),
    "an audit library": (dynamic(0x6FFFFEFC, 1), "dynamic tag 0x6ffffefc"),
    "functions before all others": (dynamic(32, 0), "dynamic tag 0x20"),
}


@pytest.mark.parametrize(("content", "reason"), CASES.values(), ids=CASES)
def test_what_no_compiler_makes_is_refused(content: bytes, reason: str) -> None:
    assert reason in faults(content)


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [(4, 1, "64-bit"), (5, 2, "little-endian"), (6, 9, "ELF version"), (7, 9, "ELF version")],
)
def test_another_class_or_byte_order_is_refused(at: int, value: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        faults(patched(at, "<B", value))


def test_constructors_of_a_kernel_are_the_compilers_alone() -> None:
    source = "int a; __attribute__((constructor)) void start(void) { a = 1; }\n"
    content = shared_library(source)
    assert "runs 2 functions at load" in faults(content)
    assert faults(content, constructors=None) == ""


def forged(name: str, field: int, value: int) -> bytes:
    """The library with a field (its offset) of one section header changed."""
    image = Image(LIBRARY)
    number = next(at for at, part in enumerate(image.sections) if part.name == name)
    start = struct.unpack_from("<Q", LIBRARY, 40)[0]
    return patched(start + 64 * number + field, "<Q", value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (forged(".text", 24, 64), "not where their headers say: .text"),
        (forged(".text", 16, 64), ".text"),
        (forged(".text", 8, 2), "data in an executable segment: .text"),
        (
            forged(".rodata" if Image(LIBRARY).section(".rodata") else ".dynstr", 8, 6),
            "code in a data segment",
        ),
    ],
)
def test_section_headers_that_contradict_the_loader_are_refused(content: bytes, reason: str) -> None:
    assert reason in faults(content)


def test_damage_is_a_finding_and_never_a_crash(tmp_path: Path) -> None:
    generator = random.Random(20)
    good = for_machine(LIBRARY, EM_AARCH64)
    for number in range(30):  # `make test-hostile` tries more
        content = bytearray(good)
        places = range(64 * 12) if number % 2 else range(len(good))
        for _ in range(generator.randrange(1, 8)):
            content[generator.choice(places)] = generator.randrange(256)
        content[:4] = b"\x7fELF"
        wheel = write_wheel(tmp_path / str(number), {"demo/libdemo.so": bytes(content)})
        for goal in (PI, None):
            assert audit_wheel(read_wheel(wheel), goal).findings
