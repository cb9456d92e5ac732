"""Instructions above the target's CPU: what no row of the CPU's features has is refused.

LLVM judged the words; tests/hostile/record_isa.py recorded them. tests/hostile/test_isa.py asks LLVM itself.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import EM_X86_64, aarch64_library, for_machine

from mambaport.auditing.elf import Library
from mambaport.auditing.isa import Instructions, above, code_words, isa_finding, table
from mambaport.boards import cpus, find_cpu
from mambaport.contents import Level, contents
from mambaport.goal import Goal

DATA = Path(__file__).with_name("data")


def words(name: str) -> list[tuple[int, str]]:
    """Instruction words with their text, assembled from the .s file of the same name."""
    lines = (DATA / f"{name}.words").read_text().splitlines()
    return [(int(line[:8], 16), line[10:]) for line in lines]


def instructions(name: str) -> list[str]:
    return [line for line in (DATA / f"{name}.s").read_text().splitlines() if not line.startswith(".")]


def features(cpu: str) -> frozenset[str]:
    return find_cpu(cpu, "aarch64").features


ABOVE, BASE, EVERY = words("above-armv8.0"), words("armv8.0"), words("above-cortex-a72")
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
    assert not above([word], features("cortex-a72"))


def test_one_word_of_every_newer_mnemonic_is_refused_for_a_cortex_a72() -> None:
    assert len(EVERY) > 1000
    known = Instructions(features("cortex-a72"))
    assert [text for word, text in EVERY if word in known] == []


def test_what_llvm_does_not_know_is_never_let_in_and_what_it_knows_is_not_refused() -> None:
    head, *lines = (DATA / "llvm-words.txt").read_text().splitlines()
    names = head.rpartition(": ")[2].split()
    assert len(lines) > 5000
    for column, name in enumerate(names):
        known = Instructions(features(name))
        words = [int(line[:8], 16) for line in lines if line[9 + column] == "1"]
        others = [int(line[:8], 16) for line in lines if line[9 + column] == "0"]
        assert [f"{word:08x}" for word in others if word in known] == []
        refused = [word for word in words if word not in known]
        assert all(not_for_programs(word) for word in refused), [f"{word:08x}" for word in refused]
        assert len(refused) < len(words) / 20


def not_for_programs(word: int) -> bool:
    """System instructions, and loads and stores with writeback of their address register into itself."""
    return word >> 24 in (0xD4, 0xD5) or word & 0x3F200400 == 0x38000400


PROGRAMS = [
    (name, [int(word, 16) for word in code.split()])
    for name, code in zip(*(iter((DATA / "newer-cpus.txt").read_text().splitlines()[1:]),) * 2, strict=True)
]


@pytest.mark.parametrize(("name", "code"), PROGRAMS, ids=[name for name, _ in PROGRAMS])
def test_a_program_for_a_newer_cpu_is_refused_for_a_cortex_a72(name: str, code: list[int]) -> None:
    assert above(code, features("cortex-a72"))


@pytest.mark.parametrize(
    ("word", "allowed"),
    [
        (0xD503233F, True),  # paciasp, in the HINT space
        (0xD503245F, True),  # bti c
        (0xD65F0BFF, False),  # retaa
        (0xD53B4420, True),  # mrs x0, fpsr
        (0xD5380600, True),  # mrs x0, id_aa64isar0_el1, which Linux answers
        (0xD5381000, False),  # mrs x0, sctlr_el1
        (0xD4000003, False),  # smc
        (0xD69F03E0, False),  # eret
        (0xD4000001, True),  # svc #0
        (0x00000000, True),  # udf, which linkers fill with
        (0xFFFFFFFF, False),
        (0x464C457F, False),  # the first bytes of an ELF file
        (0xF8008400, False),  # str x0, [x0], #8
        (0xF80087FF, True),  # str xzr, [sp], #8
        (0xB846A842, False),  # ldtr w2, [x2, #106]
    ],
)
def test_what_programs_may_run(word: int, allowed: bool) -> None:
    assert (word in Instructions(features("cortex-a72"))) is allowed


def test_features_add_up() -> None:
    half_complex = 0x6E42C420  # fcmla v0.8h, v1.8h, v2.8h, #0
    assert half_complex not in Instructions(["complxnum"])
    assert half_complex not in Instructions(["fullfp16"])
    assert half_complex in Instructions(["complxnum", "fullfp16"])


def test_every_feature_of_a_board_has_rows_or_gives_no_instructions() -> None:
    known = {name for row in table() for name in row.features}
    for cpu in cpus():
        if cpu.arch == "aarch64":
            assert cpu.features - known <= {"bti"}, cpu.name


def test_millions_of_words_are_read_in_seconds() -> None:
    import time

    code = [RET + (number << 5) for number in range(400_000)]
    started = time.process_time()
    above(code, features("cortex-a72"))
    assert time.process_time() - started < 20


def finding(code: list[int], cpu: str) -> tuple[str, str]:
    found = isa_finding([Library("libdemo.so", aarch64_library(code))], Goal("aarch64", "2.28", cpu))
    return found.verdict, found.found


def test_lse_atomics_are_refused_for_a_cortex_a72_and_counted() -> None:
    verdict, found = finding([RET, LDADDAL, RET, LDADDAL], "cortex-a72")
    assert verdict == "fail"
    assert "libdemo.so: lse, such as b8e00041" in found
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


def test_all_of_an_executable_segment_is_read() -> None:
    [(level, code)] = code_words(Library("libdemo.so", aarch64_library([RET, LDADDAL])))
    assert level is None
    assert code.tolist()[:2] == [RET, LDADDAL]


def test_a_section_header_takes_no_word_out_of_the_audit() -> None:
    content = bytearray(aarch64_library([RET, LDADDAL]))
    library = Library("libdemo.so", bytes(content))
    number = next(at for at, part in enumerate(library.image.sections) if part.name == ".text")
    header = int.from_bytes(content[40:48], "little") + 64 * number
    content[header + 4 : header + 8] = (8).to_bytes(4, "little")  # NOBITS
    forged = isa_finding([Library("libdemo.so", bytes(content))], Goal("aarch64", "2.28", "cortex-a72"))
    assert forged.verdict == "fail"


def test_a_level_names_a_section_and_what_it_may_use() -> None:
    source = aarch64_library([RET, LDADDAL], section="mambaport_lse")
    goal = Goal("aarch64", "2.28", "cortex-a72")
    level = Level(section="mambaport_lse", features=frozenset({"lse"}), guard="has_lse")
    assert isa_finding([Library("libdemo.so", source)], goal).verdict == "fail"
    found = isa_finding([Library("libdemo.so", source)], goal, [level])
    assert (found.verdict, found.found.partition(", ")[2]) == (
        "pass",
        "none above cortex-a72 but in mambaport_lse",
    )
    other = level.model_copy(update={"features": frozenset({"dotprod"})})
    assert (
        "section mambaport_lse: lse, such as b8e00041"
        in isa_finding([Library("x.so", source)], goal, [other]).found
    )


BFCVTN, SMMLA, FEXPA = 0x0EA16800, 0x4E82A420, 0x04A0B820


def verdict(words: list[int], section: str) -> tuple[str, str]:
    library = Library("libdemo.so", aarch64_library([RET, *words], section=section))
    found = isa_finding([library], Goal("aarch64", "2.28", "cortex-a72"), contents().level)
    return found.verdict, found.found


def test_the_wheels_levels_hold_their_instructions_and_no_more() -> None:
    assert verdict([SDOT], "mambaport_dotprod")[0] == "pass"
    assert verdict([SDOT, BFCVTN, SMMLA], "mambaport_i8mm")[0] == "pass"
    assert verdict([BFCVTN], "mambaport_dotprod") == (
        "fail",
        "libdemo.so, section mambaport_dotprod: bf16, such as 0ea16800 (1 times)",
    )
    assert verdict([SMMLA, FEXPA], "mambaport_sve")[0] == "pass"
    assert verdict([FEXPA], "mambaport_i8mm")[0] == "fail"
    assert verdict([LDADDAL], "mambaport_sve")[0] == "fail"


@pytest.mark.parametrize("word", [SDOT, BFCVTN, SMMLA, FEXPA])
@pytest.mark.parametrize("section", [".text", ".init", "mambaport_sve9", ".mambaport_i8mm"])
def test_the_base_of_a_wheel_holds_no_instruction_of_a_level(word: int, section: str) -> None:
    assert verdict([word], section)[0] == "fail"
