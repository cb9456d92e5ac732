"""Instructions that the target's CPU does not have.

AArch64 instructions are 32 bits wide. ``a64.txt`` says, feature by feature, which words are instructions; a
CPU is the sum of its features (``profiles/boards/cpus.toml``). A word of an executable segment that none of
them has is refused, whatever it is: an instruction of a newer CPU, or data. Words in the HINT space (BTI,
PACIASP, AUTIASP and the like) are no operation on a CPU without the feature, as the architecture defines, and
pass. Instructions that Linux does not let programs run (ERET, HVC, SMC, most system registers) are in
no feature.

Kernels for newer CPUs, chosen at run time, stand in sections of their own that ``kernels/wheels.toml`` names
with the features they may use (:class:`mambaport.contents.Level`).
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mambaport.auditing.elf import Library
from mambaport.auditing.findings import Finding, judge
from mambaport.boards import find_cpu
from mambaport.contents import Level
from mambaport.goal import Goal

TABLE = Path(__file__).with_name("a64.txt")
_SHOWN = 8
_KEY = 21  # the rows are found by a word's bits 31 to 21


class Row(NamedTuple):
    """Words that, under ``mask``, equal ``value``."""

    features: frozenset[str]
    """All of them are needed; none for ARMv8.0-A with NEON. ``never`` takes words out of every other row."""
    mask: int
    value: int
    distinct: tuple[str, ...]
    """Registers that must differ: ``n=t``, ``n=t2``, ``t=t2``."""
    names: str


@cache
def table() -> tuple[Row, ...]:
    """The rows of ``a64.txt``."""
    rows = []
    for line in TABLE.read_text(encoding="ascii").splitlines():
        if line.startswith("#"):
            continue
        features, pattern, distinct, names = line.split(" ", 3)
        rows.append(
            Row(
                frozenset() if features == "base" else frozenset(features.split("+")),
                int(pattern.replace("0", "1").replace(".", "0"), 2),
                int(pattern.replace(".", "0"), 2),
                () if distinct == "-" else tuple(distinct.split(",")),
                names,
            )
        )
    return tuple(rows)


class Instructions:
    """Every instruction word of a CPU with the given features."""

    def __init__(self, features: Iterable[str]) -> None:
        here = frozenset(features)
        self._rows = _indexed(row for row in table() if row.features <= here)
        self._never = _indexed(row for row in table() if row.features == {"never"})

    def __contains__(self, word: int) -> bool:
        for row in self._never[word >> _KEY]:
            if word & row.mask == row.value and _same_registers(word, row.distinct):
                return False
        return any(
            word & row.mask == row.value and not (row.distinct and _same_registers(word, row.distinct))
            for row in self._rows[word >> _KEY]
        )


def _indexed(rows: Iterable[Row]) -> list[list[Row]]:
    found: list[list[Row]] = [[] for _ in range(1 << (32 - _KEY))]
    for row in rows:
        mask, value = row.mask >> _KEY, row.value >> _KEY
        free = ~mask & ((1 << (32 - _KEY)) - 1)
        part = free
        while True:  # every subset of the free bits
            found[value | part].append(row)
            if not part:
                break
            part = (part - 1) & free
    return found


def _same_registers(word: int, distinct: tuple[str, ...]) -> bool:
    data, base, second = word & 31, word >> 5 & 31, word >> 10 & 31
    same = {"n=t": base == data != 31, "n=t2": base == second != 31, "t=t2": data == second}
    return any(same[pair] for pair in distinct)


@cache
def instructions(features: frozenset[str]) -> Instructions:
    return Instructions(features)


@cache
def _every_row() -> list[list[Row]]:
    return _indexed(table())


def features_of(word: int) -> str:
    """The features that have a word: ``lse``; for a word that no row has, what may be said of it."""
    for row in _every_row()[word >> _KEY]:
        if word & row.mask == row.value:
            return "+".join(sorted(row.features)) or "unpredictable registers"
    return "no known instruction"


def isa_finding(libraries: list[Library], goal: Goal, levels: Sequence[Level] = ()) -> Finding:
    """Whether every word of every executable segment is an instruction that the target's CPU has.

    Args:
        levels: sections that may use more.
    """
    if goal.arch != "aarch64":
        return Finding("isa", "skip", f"checked for aarch64 only; {goal.arch} kernels choose at run time")
    readable = [item for item in libraries if item.arch == "aarch64"]
    if not readable:
        return Finding("isa", "skip", "no aarch64 instructions inside")
    allowed = find_cpu(goal.cpu, goal.arch).features
    faults: list[str] = []
    count = 0
    used: set[str] = set()
    for library in readable:
        for level, words in code_words(library, levels):
            count += len(words)
            extra = level.features if level else frozenset()
            if level and words:
                used.add(level.section)
            kinds = above(words, allowed | extra)
            where = f"{library.name}, section {level.section}" if level else library.name
            faults += [f"{where}: {what} ({times} times)" for what, times in kinds.most_common(_SHOWN)]
            if len(kinds) > _SHOWN:
                faults.append(f"{where}: and {len(kinds) - _SHOWN} more kinds")
    found = f"{count:,} instructions, none above {goal.cpu}"
    found += f" but in {', '.join(sorted(used))}" if used else ""
    return judge(
        "isa", faults, found, f"only what {goal.cpu} has; data belongs outside of executable segments"
    )


def above(words: Iterable[int], features: frozenset[str]) -> Counter[str]:
    """How often each kind of word occurs that a CPU with these features does not have, with an example."""
    known = instructions(features)
    found: Counter[str] = Counter()
    kinds: dict[str, str] = {}
    for word, times in Counter(words).items():
        if word not in known:
            kind = features_of(word)
            found[kinds.setdefault(kind, f"{kind}, such as {word:08x}")] += times
    return found


def code_words(library: Library, levels: Sequence[Level] = ()) -> Iterator[tuple[Level | None, array[int]]]:
    """The words of a library's executable segments: those of no level, then those of each level's section.

    A section header only says which level's features a range may use; none takes a word out of the audit.
    """
    ranges = [
        (part.address, part.address + part.size, level)
        for level in levels
        for part in library.image.sections
        if part.name == level.section
    ]
    for start, code in library.image.code:
        words = _words(code[-start % 4 :])
        first = start + -start % 4
        plain = words
        for begin, end, level in ranges:
            low, high = (min(max((at - first) // 4, 0), len(words)) for at in (begin + 3, end))
            yield level, words[low:high]
            plain = plain[:low] + _nothing(high - low) + plain[high:] if high > low else plain
        yield None, plain


def _nothing(count: int) -> array[int]:
    return array("I", bytes(4 * count))  # UDF #0, which every CPU has


def _words(code: bytes) -> array[int]:
    words = array("I", code[: len(code) // 4 * 4])
    if sys.byteorder == "big":
        words.byteswap()
    return words
