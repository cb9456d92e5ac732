"""Instruction words to attack the instruction audit with. Seeded: the same seed gives the same words."""

from __future__ import annotations

import random
from collections.abc import Iterator

from mambaport.auditing.isa import table


def random_words(seed: int, count: int) -> list[int]:
    """Any 32 bits."""
    generator = random.Random(seed)
    return [generator.getrandbits(32) for _ in range(count)]


def instruction_words(seed: int, each: int) -> Iterator[int]:
    """``each`` words of every row of the table, of every feature."""
    generator = random.Random(seed)
    for row in table():
        for _ in range(each):
            yield row.value | generator.getrandbits(32) & ~row.mask & 0xFFFFFFFF


def neighbours(seed: int, each: int) -> Iterator[int]:
    """Words that differ in one or two bits from an instruction. Most unallocated encodings lie there."""
    generator = random.Random(seed + 1)
    for word in instruction_words(seed, each):
        yield word ^ 1 << generator.randrange(32)
        yield word ^ 1 << generator.randrange(32) ^ 1 << generator.randrange(32)


def attack(seed: int, count: int) -> list[int]:
    """About ``count`` words: a third at random, a third instructions, a third their neighbours."""
    each = max(1, count // (3 * len(table())))
    words = [
        *random_words(seed, count // 3),
        *instruction_words(seed, each),
        *neighbours(seed, max(1, each // 2)),
    ]
    return list(dict.fromkeys(words))
