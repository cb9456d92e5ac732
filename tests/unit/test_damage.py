"""Damaged files, seeded: each is read, or refused by a named error. None reaches the error for a bug."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import member, write_sdist, write_wheel
from test_fit import FACTS, JETSON, ORIN

from mambaport.auditing import audit_wheel
from mambaport.errors import MambaportError
from mambaport.installing import check_fit
from mambaport.models import read_toml
from mambaport.sources.archives import unpack_sdist, unpack_wheel
from mambaport.wheels import Wheel, find

COUNT = int(os.environ.get("MAMBAPORT_TEST_DAMAGES", "40"))
"""Damages of each file; `make test-hostile` sets more."""
INFO = "demo-1.0+cpu.1.dist-info"


def damages(content: bytes, seed: int) -> Iterator[bytes]:
    """Bits turned, bytes put in and taken out, tails cut off, fields of headers set to their limits."""
    for number in range(COUNT):
        dice = random.Random(f"{seed}-{number}")
        data = bytearray(content)
        for _ in range(dice.choice((1, 1, 1, 2, 5, 20))):
            place = dice.randrange(len(data))
            kind = dice.randrange(5)
            if kind == 0:
                data[place] ^= 1 << dice.randrange(8)
            elif kind == 1:
                data[place:place] = dice.randbytes(dice.randrange(1, 9))
            elif kind == 2:
                del data[place : place + dice.randrange(1, 9)]
            elif kind == 3:
                data[place : place + 4] = struct.pack("<I", dice.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF)))
            else:
                del data[max(1, place) :]
            if not data:
                data = bytearray(b"\0")
        yield bytes(data)


def outcome(read: Any, *arguments: Any) -> str:
    """``read`` or the kind of the refusal; anything else that is raised fails the test."""
    try:
        read(*arguments)
    except MambaportError as error:
        return error.kind
    return "read"


def compressed(folder: Path, method: int) -> bytes:
    record = json.dumps({"cuda": FACTS}).encode()
    path = write_wheel(folder, {f"{INFO}/provenance.json": record, "demo/__init__.py": b"x = 1\n" * 40})
    with zipfile.ZipFile(path) as archive:
        content = [(item.filename, archive.read(item)) for item in archive.infolist()]
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content:
            archive.writestr(name, data)
    return path.read_bytes()


METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@pytest.mark.parametrize("method", METHODS)
def test_a_damaged_wheel_is_refused_before_it_is_installed(tmp_path: Path, method: int) -> None:
    whole = compressed(tmp_path, method)
    path = tmp_path / "demo-1.0+cpu.1-py3-none-linux_aarch64.whl"

    def install() -> None:
        wheel = find(tmp_path, "demo", "1.0+cpu.1")
        check_fit([wheel], JETSON, [ORIN])
        unpack_wheel(path, tmp_path / "out" / str(random.getrandbits(64)))

    seen = set()
    for damaged in damages(whole, method):
        path.write_bytes(damaged)
        seen.add(outcome(install))
    assert {"fetch", "install"} <= seen


RECORDS: list[Any] = [
    [],
    {"cuda": []},
    {"cuda": {}},
    {"cuda": {**FACTS, "sm": None}},
    {"cuda": {**FACTS, "sm": ["orin"]}},
    {"cuda": {**FACTS, "sm": [{"a": 1}]}},
    {"cuda": {**FACTS, "ptx": 7}},
    {"cuda": {**FACTS, "torch_minor": None}},
    {"cuda": {**FACTS, "version": {}, "torch_cuda": None}},
]


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_a_provenance_that_is_not_one_is_refused_or_passed_over(tmp_path: Path, record: Any) -> None:
    path = write_wheel(tmp_path, {f"{INFO}/provenance.json": json.dumps(record).encode()})
    wheel = find(tmp_path, "demo", "1.0+cpu.1")
    assert isinstance(wheel, Wheel)
    assert outcome(check_fit, [wheel], JETSON, [ORIN]) in ("read", "install")
    assert outcome(audit_wheel, wheel, None) == "read"
    path.unlink()


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[" * 100_000, b'{"cuda": NaN}', b""])
def test_a_provenance_that_is_no_json_is_refused(tmp_path: Path, text: bytes) -> None:
    write_wheel(tmp_path, {f"{INFO}/provenance.json": text})
    wheel = find(tmp_path, "demo", "1.0+cpu.1")
    assert outcome(check_fit, [wheel], JETSON, [ORIN]) in ("read", "install")


def test_a_damaged_sdist_is_refused(tmp_path: Path) -> None:
    members = [member(f"demo-1.0/{name}", b"text\n" * 60) for name in ("a.py", "b.c", "n" * 120)]
    plain = tmp_path / "plain.tar"
    with tarfile.open(plain, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "é" * 60}) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    packed = write_sdist(tmp_path / "demo-1.0.tar.gz", members).read_bytes()
    seen = set()
    inner = map(gzip.compress, damages(plain.read_bytes(), 2))
    for number, damaged in enumerate([*damages(packed, 1), *inner]):
        path = tmp_path / "damaged.tar.gz"
        path.write_bytes(damaged)
        seen.add(outcome(unpack_sdist, path, tmp_path / "out" / str(number)))
    assert seen == {"read", "fetch"}


@pytest.mark.parametrize(
    "text",
    [
        b"a = " + b"[" * 50_000,
        b"a = " + b"9" * 10_000,
        b"a = \xff",
        b"\x00",
        b"a." * 4_000 + b"b = 1",
        b"a = 1979-13-41T99:99:99",
    ],
    ids=lambda text: str(text[:12]),
)
def test_toml_that_is_none_is_a_usage_error(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "board.toml"
    path.write_bytes(text)
    assert outcome(read_toml, path) in ("usage", "read")
    assert outcome(read_toml, tmp_path) == "usage"


def test_compressions_that_end_early_are_named() -> None:
    """bz2 and lzma raise errors of their own kinds; both are used above."""
    with pytest.raises(OSError, match="Invalid data") as caught:
        bz2.decompress(b"BZh9" + b"\0" * 20)
    assert caught.value.errno is None
    assert not issubclass(lzma.LZMAError, OSError)
