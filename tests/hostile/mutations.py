"""Seeded damage to bytes and texts: the same seed gives the same inputs."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence

NUMBERS = ("0", "-1", "1", "4294967296", "9" * 30, "9" * 5000, "1e999", "0x7fffffff", "NaN")
ODDITIES = (
    *(b"\0", b"\xff", b"\xe9", b"\xc3\x28", b"\xed\xa0\x80", b"\r\n", b"\n\n", b" ", b"\t", b"\x1b[2J"),
    *("\u202e".encode(), "é".encode(), "\U0001f40d".encode(), b"\xef\xbb\xbf", b"\x7f"),
    *(b"../", b"/etc/passwd", b"C:\\x", b"%s", b"{}", b"${HOME}", b"$(id)", b"'", b'"', b"\\", b"#", b";"),
)
DEEP = ("[" * 100_000, "{" * 100_000, '{"a":' * 50_000, "[[" * 20_000 + "]]" * 20_000)


def damaged(content: bytes, name: str, count: int, words: Sequence[bytes] = ()) -> Iterator[bytes]:
    """``content`` itself, then ``count`` damaged copies.

    Args:
        name: seeds the damage, with the number of the copy.
        words: pieces that mean something in this format.
    """
    yield content
    for number in range(count):
        dice = random.Random(f"{name}-{number}")
        data = bytearray(content)
        for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
            dice.choice(_DAMAGES)(dice, data, words)
        yield bytes(data)


def _flip(dice: random.Random, data: bytearray, _words: Sequence[bytes]) -> None:
    if data:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def _insert(dice: random.Random, data: bytearray, words: Sequence[bytes]) -> None:
    place = dice.randrange(len(data) + 1)
    piece = dice.choice((dice.randbytes(dice.randrange(1, 9)), dice.choice(ODDITIES), *words))
    data[place:place] = piece


def _delete(dice: random.Random, data: bytearray, _words: Sequence[bytes]) -> None:
    place = dice.randrange(len(data) + 1)
    del data[place : place + dice.choice((1, 1, 4, 40))]


def _cut(dice: random.Random, data: bytearray, _words: Sequence[bytes]) -> None:
    del data[dice.randrange(len(data) + 1) :]


def _limit(dice: random.Random, data: bytearray, _words: Sequence[bytes]) -> None:
    place = dice.randrange(len(data) + 1)
    width = dice.choice(("<H", "<I", ">I", "<Q"))
    limit = (1 << 8 * struct.calcsize(width)) - 1
    data[place : place + struct.calcsize(width)] = struct.pack(width, dice.choice((0, 1, limit // 2, limit)))


def _repeat(dice: random.Random, data: bytearray, _words: Sequence[bytes]) -> None:
    start = dice.randrange(len(data) + 1)
    block = data[start : start + dice.choice((8, 80, 800))]
    place = dice.randrange(len(data) + 1)
    data[place:place] = block


def _line(dice: random.Random, data: bytearray, _words: Sequence[bytes]) -> None:
    """Drops, doubles or swaps whole lines."""
    lines = bytes(data).split(b"\n")
    one, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    change = dice.randrange(3)
    if change == 0:
        del lines[one]
    elif change == 1:
        lines.insert(other, lines[one])
    else:
        lines[one], lines[other] = lines[other], lines[one]
    data[:] = b"\n".join(lines)


def _number(dice: random.Random, data: bytearray, _words: Sequence[bytes]) -> None:
    """Another number in the place of one."""
    digits = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
    if not digits:
        return
    start = dice.choice(digits)
    end = start + 1
    while end < len(data) and 48 <= data[end] <= 57:
        end += 1
    data[start:end] = dice.choice(NUMBERS).encode()


def _deep(dice: random.Random, data: bytearray, words: Sequence[bytes]) -> None:
    """Nested thousands of times; seldom, because it is slow to read."""
    if dice.random() < 0.03:
        place = dice.randrange(len(data) + 1)
        data[place:place] = dice.choice(DEEP).encode()
    else:
        _insert(dice, data, words)


_DAMAGES: tuple[Callable[[random.Random, bytearray, Sequence[bytes]], None], ...] = (
    *(_flip, _flip, _insert, _insert, _delete, _cut, _limit, _repeat, _line, _number, _deep),
)
