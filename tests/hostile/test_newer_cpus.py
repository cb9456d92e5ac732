"""Programs for newer CPUs, compiled by every compiler here: refused for a Cortex-A72."""

from __future__ import annotations

from pathlib import Path

import pytest
from compilers import compile_library, compilers
from llvm import Llvm, library
from newer_cpus import CASES, HEAD, Case

from mambaport.auditing.elf import Library
from mambaport.auditing.image import image_faults
from mambaport.auditing.isa import above, code_words
from mambaport.boards import find_cpu

pytestmark = pytest.mark.skipif(library() is None, reason="no libLLVM of version 16 or newer here")
A72 = find_cpu("cortex-a72", "aarch64").features


@pytest.mark.parametrize("compiler", compilers())
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_program_for_a_newer_cpu_is_refused(tmp_path: Path, case: Case, compiler: str) -> None:
    source = case.source if case.name == "sme" else HEAD + case.source
    made = compile_library(compilers()[compiler], case.march, source, case.flags, tmp_path)
    if isinstance(made, str):
        pytest.skip(f"{compiler} does not compile for {case.march}")
    read = Library("case.so", made)
    assert image_faults(read.image, constructors=0) == []
    words = [word for _, part in code_words(read) for word in part]
    if all(Llvm("generic", sorted(A72)).known(words)):
        pytest.skip(f"{compiler} needs nothing newer for this")
    assert above(words, A72)
