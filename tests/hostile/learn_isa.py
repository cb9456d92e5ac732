"""Makes toolchain/mambaport/auditing/a64.txt: the table of AArch64 encodings, feature by feature.

A word has 22 upper bits (the prefix) and 10 lower bits, which are two registers in most instructions. LLVM is
asked about all 2^22 prefixes with 16 low parts each, once without any feature and once with each; where the
answer depends on the low part, about all 1024 of them. The words that a feature adds are then covered with
patterns (prime implicants, greedily), so that the union of a feature's patterns is exactly what LLVM knows.

Not learned but written by hand, because a program that is no kernel may use only a part of them: the system
instructions (top bytes d4 and d5), in SYSTEM.

    python tests/hostile/learn_isa.py [FILE]   needs numpy, a C compiler, libLLVM; minutes

test_isa.py holds the table against LLVM by random words, for every CPU.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from llvm import Llvm, library

TABLE = Path(__file__).parents[2] / "toolchain" / "mambaport" / "auditing" / "a64.txt"

# Features by LLVM's names, each after those that it needs. A pair is what two features give only together.
FEATURES = (
    "crc", "lse", "rdm", "lor", "fullfp16", "dotprod", "aes", "sha2", "sha3", "sm4", "rcpc", "rcpc-immo",
    "jsconv", "complxnum", "pauth", "fp16fml", "flagm", "altnzcv", "fptoint", "bf16", "i8mm", "mte", "ls64",
    "cssc", "hbc", "lse128", "rcpc3", "sve", "sve2", "sve-bitperm", "sve-aes", "sve-sha3", "sve-sm4",
    "complxnum+fullfp16", "bf16+sve", "i8mm+sve", "f32mm+sve", "f64mm+sve",
)  # fmt: skip
NEEDS = {
    "sha3": ("sha2",),
    "rcpc-immo": ("rcpc",),
    "rcpc3": ("rcpc", "rcpc-immo"),
    "lse128": ("lse",),
    "fp16fml": ("fullfp16",),
    "sve": ("fullfp16",),
    "sve2": ("fullfp16", "sve"),
    "sve-bitperm": ("fullfp16", "sve", "sve2"),
    "sve-aes": ("aes", "fullfp16", "sve", "sve2"),
    "sve-sha3": ("fullfp16", "sha2", "sha3", "sve", "sve2"),
    "sve-sm4": ("fullfp16", "sm4", "sve", "sve2"),
}
# Loads and stores, with the registers that must not be the same. n: the base; t, t2: the data.
# LLVM accepts the first kind.
HAZARDS = (
    ("n=t", 0x3F200400, 0x38000400),  # LDR, STR with writeback
    ("n=t,n=t2", 0x3EC00000, 0x28800000),  # STP with writeback
    ("n=t,n=t2,t=t2", 0x3EC00000, 0x28C00000),  # LDP with writeback
    ("t=t2", 0x3AC00000, 0x28400000),  # LDP, LDNP
    ("t=t2", 0x3EC00000, 0x2CC00000),  # LDP of SIMD registers with writeback
    ("t=t2", 0xBFE00000, 0x88600000),  # LDXP, LDAXP
    ("n=t", 0xFF200C00, 0xF8200C00),  # LDRAA, LDRAB with writeback
)
PRIVILEGED = (0xD69F03E0, 0xD6BF03E0)  # ERET, DRPS


def mrs(op1: int, crn: int, crm: int, op2: int) -> str:
    """The pattern of reading a system register of op0 3."""
    return _bits(0xD5380000 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5, 0xFFFFFFE0)


def msr(op1: int, crn: int, crm: int, op2: int) -> str:
    """The pattern of writing one."""
    return _bits(0xD5180000 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5, 0xFFFFFFE0)


def _bits(value: int, mask: int) -> str:
    return "".join("." if not mask >> bit & 1 else str(value >> bit & 1) for bit in range(31, -1, -1))


SYSTEM = (
    ("base", _bits(0x00000000, 0xFFFF0000), "udf"),
    ("base", _bits(0xD4000001, 0xFFE0001F), "svc"),
    ("base", _bits(0xD4200000, 0xFFE0001F), "brk"),
    (
        "base",
        _bits(0xD503201F, 0xFFFFF01F),
        "hint: nop, bti, paciasp, ... (no operation where the CPU lacks it)",
    ),
    ("base", _bits(0xD503305F, 0xFFFFF0FF), "clrex"),
    ("base", _bits(0xD503309F, 0xFFFFF0FF), "dsb"),
    ("base", _bits(0xD50330BF, 0xFFFFF0FF), "dmb"),
    ("base", _bits(0xD50330DF, 0xFFFFF0FF), "isb"),
    *(("base", pattern(3, 4, 2, 0), f"{name} nzcv") for pattern, name in ((mrs, "mrs"), (msr, "msr"))),
    *(("base", pattern(3, 4, 4, 0), f"{name} fpcr") for pattern, name in ((mrs, "mrs"), (msr, "msr"))),
    *(("base", pattern(3, 4, 4, 1), f"{name} fpsr") for pattern, name in ((mrs, "mrs"), (msr, "msr"))),
    *(("base", pattern(3, 13, 0, 2), f"{name} tpidr_el0") for pattern, name in ((mrs, "mrs"), (msr, "msr"))),
    ("base", mrs(3, 13, 0, 3), "mrs tpidrro_el0"),
    ("base", mrs(3, 14, 0, 0), "mrs cntfrq_el0"),
    ("base", mrs(3, 14, 0, 2), "mrs cntvct_el0"),
    ("base", mrs(3, 0, 0, 1), "mrs ctr_el0"),
    ("base", mrs(3, 0, 0, 7), "mrs dczid_el0"),
    ("base", _bits(0xD5380000, 0xFFFFF800), "mrs midr_el1, id_aa64*_el1 (Linux answers for them)"),
    ("base", _bits(0xD50B7420, 0xFFFFFFE0), "dc zva"),
    ("base", _bits(0xD50B7A20, 0xFFFFFFE0), "dc cvac"),
    ("base", _bits(0xD50B7B20, 0xFFFFFFE0), "dc cvau"),
    ("base", _bits(0xD50B7E20, 0xFFFFFFE0), "dc civac"),
    ("base", _bits(0xD50B7520, 0xFFFFFFE0), "ic ivau"),
    ("pauth", _bits(0xD65F0BFF, 0xFFFFFBFF), "retaa retab"),
    ("flagm", _bits(0xD500401F, 0xFFFFFFFF), "cfinv"),
    ("altnzcv", _bits(0xD500403F, 0xFFFFFFFF), "xaflag"),
    ("altnzcv", _bits(0xD500405F, 0xFFFFFFFF), "axflag"),
    ("sb", _bits(0xD50330FF, 0xFFFFFFFF), "sb"),
    ("wfxt", _bits(0xD5031000, 0xFFFFFFC0), "wfet, wfit"),
    ("rand", mrs(3, 2, 4, 0), "mrs rndr"),
    ("rand", mrs(3, 2, 4, 1), "mrs rndrrs"),
    ("ssbs", mrs(3, 4, 2, 6), "mrs ssbs"),
    ("ssbs", msr(3, 4, 2, 6), "msr ssbs"),
    ("dit", mrs(3, 4, 2, 5), "mrs dit"),
    ("dit", msr(3, 4, 2, 5), "msr dit"),
)

# Rows of the base have these words, and LLVM refuses them where the registers are the same.
NEVER = ((_bits(0x38400800, 0x3F600C00), "n=t", "ldtr ldtrb ldtrh ldtrsb ldtrsh"),)

LOW_BITS, PREFIX_BITS = 10, 22
PREFIXES = np.arange(1 << PREFIX_BITS, dtype=np.uint32)
# Registers n and t. In the first eight they differ, and every bit is 0 in one and 1 in another: where all
# eight are known, all low parts are. The others are what instructions without a register t have there.
SAMPLES = tuple(
    n << 5 | t
    for n, t in (
        *((0, 1), (31, 30), (5, 9), (16, 8), (10, 21), (27, 4), (12, 18), (1, 31)),
        *((0, 0), (7, 0), (31, 0), (24, 0), (2, 13), (6, 16), (0, 31), (20, 16)),
    )
)
ALL = 0xFF
LEARNED = ~np.isin(PREFIXES >> 14, (0xD4, 0xD5)) & ~np.isin(
    PREFIXES, [word >> LOW_BITS for word in PRIVILEGED]
)
HAZARD = np.zeros(1 << PREFIX_BITS, np.uint8)
for _number, (_name, _mask, _value) in enumerate(HAZARDS, start=1):
    HAZARD[((PREFIXES << LOW_BITS) & _mask) == _value] = _number


def judge(features: str) -> Llvm:
    names = features.split("+")
    return Llvm(
        "generic", [*names, *(need for name in names for need in NEEDS.get(name, ()))] if features else []
    )


def answers(llvm: Llvm, prefixes: np.ndarray) -> np.ndarray:
    """16 bits for each prefix: which of SAMPLES make a word that LLVM knows."""
    found = np.zeros(len(prefixes), np.uint16)
    for number, low in enumerate(SAMPLES):
        known = llvm.known(prefixes << LOW_BITS | low)
        found |= np.frombuffer(known, np.uint8).astype(np.uint16) << number
    return found


def cover(wanted: np.ndarray, bits: int) -> list[tuple[int, int]]:
    """Patterns (mask, value) whose union is exactly the set of numbers below 2^bits that are wanted."""
    shape = (2,) * bits
    allowed, rest = wanted.reshape(shape), wanted.copy()
    rest_shaped = rest.reshape(shape)
    generator = np.random.default_rng(1)
    orders = [
        list(range(bits)),
        list(range(bits))[::-1],
        *(list(generator.permutation(bits)) for _ in range(4)),
    ]
    patterns = []
    while rest[first := int(np.argmax(rest))]:
        best_count, best = -1, []
        for order in orders:
            place: list = [first >> (bits - 1 - axis) & 1 for axis in range(bits)]
            for bit in order:
                axis = bits - 1 - bit
                kept = place[axis]
                place[axis] = 1 - kept
                place[axis] = slice(None) if allowed[tuple(place)].all() else kept
            count = int(rest_shaped[tuple(place)].sum())
            if count > best_count:
                best_count, best = count, place
        rest_shaped[tuple(best)] = False
        fixed = [(bits - 1 - axis, bit) for axis, bit in enumerate(best) if not isinstance(bit, slice)]
        patterns.append((sum(1 << bit for bit, _ in fixed), sum(value << bit for bit, value in fixed)))
    return patterns


def rows(llvm: Llvm, found: np.ndarray, added: np.ndarray) -> list[tuple[int, int, str]]:
    """Patterns for all words of the prefixes ``added``, each with its hazard."""
    groups: dict[tuple[bytes, int], list] = defaultdict(list)
    every = np.full(128, 255, np.uint8).tobytes()
    hazards = added[HAZARD[added] > 0]
    for number in np.unique(HAZARD[hazards]):
        groups[every, int(number)].append(hazards[HAZARD[hazards] == number])
    plain = added[HAZARD[added] == 0]
    groups[every, 0].append(plain[found[plain] & ALL == ALL])
    mixed = plain[found[plain] & ALL != ALL]
    for start in range(0, len(mixed), 1 << 14):
        part = mixed[start : start + (1 << 14)]
        bits = np.frombuffer(llvm.low_parts(part), np.uint8).reshape(len(part), 128)
        kinds, which = np.unique(bits, axis=0, return_inverse=True)
        for number, kind in enumerate(kinds):
            groups[kind.tobytes(), 0].append(part[which.ravel() == number])
    patterns = []
    for (kind, number), parts in groups.items():
        wanted = np.zeros(1 << PREFIX_BITS, bool)
        wanted[np.concatenate(parts)] = True
        low = np.unpackbits(np.frombuffer(kind, np.uint8), bitorder="little").astype(bool)
        hazard = HAZARDS[number - 1][0] if number else "-"
        for mask, value in cover(wanted, PREFIX_BITS):
            for low_mask, low_value in cover(low, LOW_BITS):
                patterns.append((mask << LOW_BITS | low_mask, value << LOW_BITS | low_value, hazard))
    return sorted(patterns, key=lambda row: row[1])


def names(llvm: Llvm, mask: int, value: int) -> str:
    """Up to four mnemonics of a pattern's words."""
    generator = np.random.default_rng(mask ^ value)
    words = generator.integers(0, 1 << 32, 24, dtype=np.uint64) & ~np.uint64(mask) & 0xFFFFFFFF | value
    found = list(dict.fromkeys(text.split()[0] for text in llvm.text([int(word) for word in words]) if text))
    return " ".join(found[:4]) + (" ..." if len(found) > 4 else "")


def learn() -> list[tuple[str, str, str, str]]:
    base = judge("")
    found = answers(base, PREFIXES)
    lines = [
        ("base", _bits(value, mask), hazard, names(base, mask, value))
        for mask, value, hazard in rows(base, found, PREFIXES[(found != 0) & LEARNED])
    ]
    everything = Llvm("generic", sorted({name for item in FEATURES for name in item.split("+")}))
    open_ = PREFIXES[(found & ALL != ALL) & LEARNED]
    candidates = open_[answers(everything, open_) != found[open_]]
    known = {}
    for feature in FEATURES:
        llvm = judge(feature)
        here = found.copy()
        here[candidates] = answers(llvm, candidates)
        known[feature] = here
        before = found.copy()
        for need in (*feature.split("+"), *NEEDS.get(feature, ())):
            if need != feature and need in known:
                before |= known[need]
        added = PREFIXES[(here & ~before) != 0]
        made = rows(llvm, here, added)
        print(f"{feature:20} {len(added):7} prefixes {len(made):4} patterns", file=sys.stderr, flush=True)
        lines += [
            (feature, _bits(value, mask), hazard, names(llvm, mask, value)) for mask, value, hazard in made
        ]
    lines += [(feature, pattern, "-", what) for feature, pattern, what in SYSTEM]
    lines += [("never", pattern, distinct, what) for pattern, distinct, what in NEVER]
    union = found.copy()
    for here in known.values():
        union |= here
    missing = candidates[(answers(everything, candidates) & ~union[candidates]) != 0]
    if len(missing):
        texts = everything.text([int(prefix) << LOW_BITS | SAMPLES[0] for prefix in missing[:20]])
        raise SystemExit(f"{len(missing)} prefixes need several features together, for example {texts}")
    return lines


HEAD = """\
# AArch64 instruction words, feature by feature. Made by tests/hostile/learn_isa.py with LLVM {version};
# proven against LLVM by tests/hostile/test_isa.py. Columns: the features (LLVM's names) that the words need;
# the 32 bits, a dot where both 0 and 1 are right; the registers that must differ (n: bits 9-5, t: 4-0,
# t2: 14-10); what LLVM calls some of the words. A word that no row of a CPU's features has is refused,
# and one of a `never` row whose registers are the same.
"""


def main() -> None:
    table = Path(sys.argv[1]) if len(sys.argv) > 1 else TABLE
    found = library()
    assert found is not None, "no libLLVM here"
    lines = learn()
    body = "".join(f"{feature} {pattern} {hazard} {what}\n" for feature, pattern, hazard, what in lines)
    table.write_text(HEAD.format(version=found[0]) + body, encoding="ascii")
    print(f"{table}: {len(lines)} rows", file=sys.stderr)


if __name__ == "__main__":
    main()
