"""Instructions above the target's CPU.

AArch64 instructions are 32 bits wide and each extension has encodings of its own, so a mask and a value per
group of instructions finds them without a disassembler. The groups are those of the Arm A64 instruction set,
index by encoding. Hints (pointer authentication, branch targets) are no-operations on older CPUs and pass.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from mambaport.auditing.elf import Library
from mambaport.auditing.findings import Finding, judge
from mambaport.boards import find_cpu
from mambaport.goal import Goal


class Group(NamedTuple):
    """Instructions whose words, under ``mask``, equal ``value``."""

    feature: str
    what: str
    mask: int
    value: int


GROUPS = (
    # FEAT_LRCPC (ARMv8.3); inside the encoding space of the atomics, so it comes first
    Group("rcpc", "LDAPR", 0x3FFF_FC00, 0x38BF_C000),
    # Atomics (FEAT_LSE, ARMv8.1)
    Group("lse", "LDADD and the other atomic memory operations, SWP", 0x3F20_0C00, 0x3820_0000),
    Group("lse", "CAS", 0x3FA0_7C00, 0x08A0_7C00),
    Group("lse", "CASP", 0xBFA0_7C00, 0x0820_7C00),
    # FEAT_RDM (ARMv8.1)
    Group("rdm", "SQRDMLAH, SQRDMLSH (vector)", 0xBF20_F400, 0x2E00_8400),
    Group("rdm", "SQRDMLAH, SQRDMLSH (scalar)", 0xFF20_F400, 0x7E00_8400),
    # FEAT_DotProd (ARMv8.2)
    Group("dotprod", "SDOT, UDOT (vector)", 0x9F20_FC00, 0x0E00_9400),
    Group("dotprod", "SDOT, UDOT (by element)", 0x9F00_F400, 0x0F00_E000),
    # FEAT_FP16 (ARMv8.2): the half-precision forms of scalar and vector arithmetic
    Group("fullfp16", "half-precision FADD and the like (scalar, two sources)", 0xFFE0_0C00, 0x1EE0_0800),
    Group("fullfp16", "half-precision FMADD and the like (scalar, three sources)", 0xFFC0_0000, 0x1FC0_0000),
    Group("fullfp16", "half-precision FCMP", 0xFFE0_FC00, 0x1EE0_2000),
    Group("fullfp16", "half-precision FMLA and the like (vector, three same)", 0x9F60_C400, 0x0E40_0400),
    Group("fullfp16", "half-precision FRINT and the like (vector, two registers)", 0x9F7E_0C00, 0x0E78_0800),
    # FEAT_FHM, FEAT_FCMA, FEAT_JSCVT
    Group("fp16fml", "FMLAL", 0x9FA0_FC00, 0x0E20_EC00),
    Group("complxnum", "FCADD", 0xBF20_EC00, 0x2E00_E400),
    Group("complxnum", "FCMLA", 0xBF20_E400, 0x2E00_C400),
    Group("jsconv", "FJCVTZS", 0xFFFF_FC00, 0x1E7E_0000),
    # FEAT_BF16, FEAT_I8MM (ARMv8.6)
    Group("bf16", "BFDOT", 0xBFE0_FC00, 0x2E40_FC00),
    Group("bf16", "BFMMLA", 0xFFE0_FC00, 0x6E40_EC00),
    Group("bf16", "BFMLAL", 0xBFE0_FC00, 0x2EC0_FC00),
    Group("bf16", "BFCVT", 0xFFFF_FC00, 0x1E63_4000),
    Group("bf16", "BFCVTN", 0xBFFF_FC00, 0x0EA1_6800),
    Group("i8mm", "SMMLA, UMMLA, USMMLA", 0xDFE0_F400, 0x4E80_A400),
    Group("i8mm", "USDOT", 0xBFE0_FC00, 0x0E80_9C00),
    # Cryptography, which the Raspberry Pi 4's Cortex-A72 was built without
    Group("aes", "AESE, AESD, AESMC, AESIMC", 0xFFFF_CC00, 0x4E28_4800),
    Group("sha2", "SHA1*, SHA256* (three registers)", 0xFFE0_8C00, 0x5E00_0000),
    Group("sha2", "SHA1H, SHA1SU1, SHA256SU0", 0xFFFF_CC00, 0x5E28_0800),
    Group("sha3", "EOR3, BCAX", 0xFFC0_8000, 0xCE00_0000),
    # SVE and SME: op0 of the top-level encoding table
    Group("sve", "SVE", 0x1E00_0000, 0x0400_0000),
    Group("sme", "SME", 0x9E00_0000, 0x8000_0000),
)


def isa_finding(libraries: list[Library], goal: Goal) -> Finding:
    """Whether every instruction is one that the target's CPU has."""
    if goal.arch != "aarch64":
        return Finding("isa", "skip", f"checked for aarch64 only; {goal.arch} kernels choose at run time")
    readable = [item for item in libraries if item.arch == "aarch64"]
    if not readable:
        return Finding("isa", "skip", "no aarch64 instructions inside")
    allowed = find_cpu(goal.cpu, goal.arch).features
    faults = []
    count = 0
    for library in readable:
        words = code_words(library)
        count += len(words)
        for what, times in above(words, allowed).items():
            faults.append(f"{library.name}: {what} ({times} times)")
    return judge("isa", faults, f"{count:,} instructions, none above {goal.cpu}", f"only what {goal.cpu} has")


def above(words: list[int], allowed: frozenset[str]) -> Counter[str]:
    """How often each group that is not allowed occurs among instruction words."""
    groups = [group for group in GROUPS if group.feature not in allowed]
    found: Counter[str] = Counter()
    for word, times in Counter(words).items():
        for group in groups:
            if word & group.mask == group.value:
                found[f"{group.feature.upper()} {group.what}"] += times
                break
    return found


def code_words(library: Library) -> list[int]:
    """The instruction words of an aarch64 library's executable sections, always little-endian."""
    words: list[int] = []
    for section in library.elf.iter_sections():
        if section["sh_flags"] & 0x4 and section["sh_type"] == "SHT_PROGBITS":
            data = section.data()
            words += memoryview(data[: len(data) // 4 * 4]).cast("I").tolist()
    return words
