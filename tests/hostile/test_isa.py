"""The instruction audit against LLVM's disassembler, told the same CPU.

Let in: a word that the audit passes and LLVM does not know. Never.
Refused: a word that LLVM knows and the audit does not. Only those of ``left_out``.
"""

from __future__ import annotations

import os

import pytest
from llvm import Llvm, library
from words import attack

from mambaport.auditing.isa import Instructions
from mambaport.boards import Cpu, cpus

pytestmark = pytest.mark.skipif(library() is None, reason="no libLLVM of version 16 or newer here")
SEED = int(os.environ.get("MAMBAPORT_HOSTILE_SEED", "20261"))
WORDS = {"short": 60_000, "": 300_000, "night": 20_000_000}[os.environ.get("MAMBAPORT_HOSTILE", "")]
BATCH = 500_000
# Older releases of LLVM know fewer features, and some encodings that the manual leaves unallocated.
WHOLE = 22
NEWER = ("neoverse-n2", "neoverse-v2", "neoverse-v3", "cortex-x925", "cortex-a725")
OLDER_LLVM = library() is not None and (library() or (0,))[0] < WHOLE
# LLVM's Neoverse V2 is without the cryptography that a maker may leave out; boards with that core have it.
AS_BUILT = {"neoverse-v2": "grace"}
ARM = [cpu for cpu in cpus() if cpu.arch == "aarch64"]


def skip_newer(cpu: Cpu) -> None:
    """Skips where this LLVM does not know all features of the CPU."""
    if OLDER_LLVM and cpu.name.startswith(NEWER):
        pytest.skip(f"this LLVM is older than {WHOLE}, and does not know the whole CPU")


def left_out(word: int) -> bool:
    """What LLVM knows and no program needs.

    Privileged and debuggers' instructions, the kernel's system registers, and loads and stores with writeback
    whose address register is also their data, which the manual leaves unpredictable.
    """
    system = word >> 24 in (0xD4, 0xD5) or word in (0xD69F03E0, 0xD6BF03E0)
    unpredictable = word & 0x3F200400 == 0x38000400 and word >> 5 & 31 == word & 31
    return system or unpredictable


@pytest.mark.parametrize("cpu", ARM, ids=lambda cpu: cpu.name)
def test_nothing_is_let_in_that_llvm_does_not_know(cpu: Cpu) -> None:
    skip_newer(cpu)
    ours, llvm = Instructions(cpu.features), Llvm("generic", sorted(cpu.features))
    let_in, refused, tried = [], [], 0
    for start in range(0, WORDS, BATCH):
        words = attack(SEED + start, min(BATCH, WORDS - start))
        tried += len(words)
        for word, known in zip(words, llvm.known(words), strict=True):
            if (word in ours) and not known:
                let_in.append(word)
            elif known and word not in ours and not left_out(word):
                refused.append(word)
    print(f"{cpu.name}: {tried} words tried, {len(let_in)} wrongly let in, {len(refused)} wrongly refused")
    assert not let_in, shown(let_in)
    assert OLDER_LLVM or not refused, [
        f"{word:08x} {text}" for word, text in zip(refused[:20], llvm.text(refused[:20]), strict=True)
    ]


@pytest.mark.parametrize("cpu", ARM, ids=lambda cpu: cpu.name)
def test_no_cpu_is_said_to_have_more_than_llvm_says(cpu: Cpu) -> None:
    skip_newer(cpu)
    words = attack(SEED, min(WORDS, 60_000))
    ours, llvm = Instructions(cpu.features), Llvm(AS_BUILT.get(cpu.name, cpu.name))
    let_in = [
        word for word, known in zip(words, llvm.known(words), strict=True) if not known and word in ours
    ]
    assert not let_in, shown(let_in)


def test_every_prefix_of_a_cortex_a72() -> None:
    """All 4,194,304 values of the upper 22 bits, each with two registers."""
    features = next(cpu.features for cpu in ARM if cpu.name == "cortex-a72")
    ours, llvm = Instructions(features), Llvm("generic", sorted(features))
    step = 16 if WORDS < 100_000 else 1
    low = 9 << 5 | 5
    let_in, refused = [], []
    for prefix, known in list(enumerate(llvm.sweep([low])))[::step]:
        word = prefix << 10 | low
        if (word in ours) and not known:
            let_in.append(word)
        elif known and word not in ours and not left_out(word):
            refused.append(word)
    assert not let_in, shown(let_in)
    assert OLDER_LLVM or not refused, [
        f"{word:08x} {text}" for word, text in zip(refused[:20], llvm.text(refused[:20]), strict=True)
    ]


def shown(words: list[int]) -> list[str]:
    return [f"{word:08x}" for word in words[:20]]
