"""Instructions above the target's CPU: every one of a list is found, and none of the base set is."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import EM_X86_64, aarch64_library, for_machine

from mambaport.auditing.elf import Library
from mambaport.auditing.isa import above, code_words, isa_finding
from mambaport.goal import Goal

DATA = Path(__file__).with_name("data")


def words(name: str) -> list[tuple[int, str]]:
    """Instruction words with their text, assembled from the .s file of the same name."""
    lines = (DATA / f"{name}.words").read_text().splitlines()
    return [(int(line[:8], 16), line[10:]) for line in lines]


def instructions(name: str) -> list[str]:
    return [line for line in (DATA / f"{name}.s").read_text().splitlines() if not line.startswith(".")]


ABOVE, BASE = words("above-armv8.0"), words("armv8.0")
RET = 0xD65F03C0
LDADDAL, SDOT, SHA1C, PTRUE = 0xB8E00041, 0x4E829420, 0x5E020020, 0x2518E3E0


@pytest.mark.parametrize("name", ["above-armv8.0", "armv8.0"])
def test_the_words_are_those_of_the_source(name: str) -> None:
    assert [text for _word, text in words(name)] == instructions(name)
    assert len(words(name)) > 40


@pytest.mark.parametrize(("word", "text"), ABOVE, ids=[text for _word, text in ABOVE])
def test_an_instruction_above_armv8_0_is_found(word: int, text: str) -> None:
    assert sum(above([word], frozenset()).values()) == 1


@pytest.mark.parametrize(("word", "text"), BASE, ids=[text for _word, text in BASE])
def test_an_instruction_of_armv8_0_is_not_found(word: int, text: str) -> None:
    assert not above([word], frozenset())


def finding(code: list[int], cpu: str) -> tuple[str, str]:
    found = isa_finding([Library("libdemo.so", aarch64_library(code))], Goal("aarch64", "2.28", cpu))
    return found.verdict, found.found


def test_lse_atomics_are_refused_for_a_cortex_a72_and_counted() -> None:
    verdict, found = finding([RET, LDADDAL, RET, LDADDAL], "cortex-a72")
    assert verdict == "fail"
    assert "libdemo.so: LSE" in found
    assert "(2 times)" in found


def test_what_a_cpu_has_it_may_use() -> None:
    code = [LDADDAL, SDOT, SHA1C]
    assert finding(code, "cortex-a53")[0] == "fail"
    assert finding(code, "cortex-a76")[0] == "pass"
    assert finding([*code, PTRUE], "cortex-a76")[0] == "fail"
    assert finding([*code, PTRUE], "neoverse-v2")[0] == "pass"


def test_a_clean_library_passes_with_its_count() -> None:
    assert finding([RET] * 3, "generic") == ("pass", "3 instructions, none above generic")


def test_x86_64_is_not_judged() -> None:
    library = Library("libdemo.so", for_machine(aarch64_library([LDADDAL]), EM_X86_64))
    assert isa_finding([library], Goal("x86_64", "2.28", "generic")).verdict == "skip"


def test_only_code_is_read_for_instructions() -> None:
    assert code_words(Library("libdemo.so", aarch64_library([RET, LDADDAL]))) == [RET, LDADDAL]
