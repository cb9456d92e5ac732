"""Unpacking refuses everything but plain files inside the folder, before a byte is written."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from helpers import member, write_sdist, write_zip
from hypothesis import given
from hypothesis import strategies as st

from mambaport.errors import FetchError
from mambaport.sources import archives, unpack_sdist, unpack_wheel


def test_an_sdist_is_unpacked_with_its_contents_and_executable_bits(tmp_path: Path) -> None:
    archive = write_sdist(
        tmp_path / "a.tar.gz",
        [
            member("demo-1.0", type=tarfile.DIRTYPE),
            member("demo-1.0/setup.py", b"print()\n"),
            member("demo-1.0/run.sh", b"#!/bin/sh\n", mode=0o775),
        ],
    )
    unpack_sdist(archive, tmp_path / "out")
    assert (tmp_path / "out/demo-1.0/setup.py").read_bytes() == b"print()\n"
    assert stat.S_IMODE((tmp_path / "out/demo-1.0/setup.py").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "out/demo-1.0/run.sh").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("hostile", "found"),
    [
        (member("../x", b"x"), "'../x'"),
        (member("demo/../../x", b"x"), "'demo/../../x'"),
        (member("/etc/x", b"x"), "'/etc/x'"),
        (member("demo\\..\\x", b"x"), "'demo"),
        (member("demo/" + "n" * 300, b"x"), "nnn"),
        (member("demo/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "a symbolic link to /etc/passwd"),
        (member("demo/link", type=tarfile.SYMTYPE, linkname="setup.py"), "a symbolic link to setup.py"),
        (member("demo/link", type=tarfile.LNKTYPE, linkname="../x"), "a hard link to ../x"),
        (member("demo/null", type=tarfile.CHRTYPE), "a character device"),
        (member("demo/disk", type=tarfile.BLKTYPE), "a block device"),
        (member("demo/pipe", type=tarfile.FIFOTYPE), "a pipe"),
        (member("demo/odd", type=b"Z"), "a member of type b'Z'"),
        (member("demo/first", b"again"), "demo/first twice"),
        (member("demo/./first", b"again"), "demo/./first twice"),
        (member("demo/first/inside", b"x"), "demo/first as a file and as a folder"),
        (member("demo", b"x"), "demo as a file and as a folder"),
    ],
)
def test_a_hostile_member_is_refused_by_name_and_nothing_is_written(
    tmp_path: Path, hostile: tuple[tarfile.TarInfo, bytes], found: str
) -> None:
    archive = write_sdist(tmp_path / "a.tar.gz", [member("demo/first", b"good"), hostile])
    with pytest.raises(FetchError) as caught:
        unpack_sdist(archive, tmp_path / "out")
    assert "a.tar.gz is refused" in caught.value.what
    assert found in str(caught.value.found)
    assert caught.value.exit_code == 10
    assert not (tmp_path / "out").exists()


def test_an_sdist_that_unpacks_to_too_many_bytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_SDIST_BYTES", 1 << 20)
    archive = write_sdist(tmp_path / "a.tar.gz", [member(f"demo/{n}", b"\0" * (600 << 10)) for n in range(2)])
    assert archive.stat().st_size < 10_000
    with pytest.raises(FetchError, match=r"a\.tar\.gz is refused") as caught:
        unpack_sdist(archive, tmp_path / "out")
    assert "more than 1 MiB" in str(caught.value.found)
    assert not (tmp_path / "out").exists()


def test_an_sdist_of_too_many_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 10)
    archive = write_sdist(tmp_path / "a.tar.gz", [member(f"demo/{n}") for n in range(11)])
    with pytest.raises(FetchError, match="is refused"):
        unpack_sdist(archive, tmp_path / "out")


@pytest.mark.parametrize("kept", [0, 1, 20, 400, 900])
def test_an_sdist_cut_off_anywhere_is_damaged(tmp_path: Path, kept: int) -> None:
    noise = bytes((n * n * 7 + n // 3) % 251 for n in range(20_000))
    archive = write_sdist(tmp_path / "a.tar.gz", [member("demo/noise", noise)])
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(FetchError, match=r"a\.tar\.gz is damaged"):
        unpack_sdist(archive, tmp_path / "out")


def test_what_is_no_archive_at_all_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_text("<html>sign in first</html>")
    with pytest.raises(FetchError, match="is damaged"):
        unpack_sdist(path, tmp_path / "out")


@given(
    st.lists(
        st.text(st.sampled_from("ab./\\é \x01"), min_size=1, max_size=12), min_size=1, max_size=6, unique=True
    )
)
def test_whatever_members_are_called_nothing_lands_outside(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    around = tmp_path_factory.mktemp("around")
    archive = write_sdist(around / "a.tar.gz", [member(name, b"x") for name in names])
    out = around / "in" / "out"
    try:
        unpack_sdist(archive, out)
    except FetchError:
        assert not out.exists()
    else:
        there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
        assert there == {str(PurePosixPath(name)) for name in names}
    assert {path.name for path in around.iterdir()} <= {"a.tar.gz", "in"}
    assert {path.name for path in (around / "in").glob("*")} <= {"out"}


def test_a_wheel_is_unpacked_with_executable_bits(tmp_path: Path) -> None:
    program = zipfile.ZipInfo("ziglang/zig")
    program.external_attr = (stat.S_IFREG | 0o755) << 16
    wheel = write_zip(
        tmp_path / "w.whl", [(program, b"ELF"), ("ziglang/lib/", b""), ("ziglang/lib/a.h", b"h")]
    )
    unpack_wheel(wheel, tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out/ziglang/zig").stat().st_mode) == 0o755
    assert (tmp_path / "out/ziglang/lib/a.h").read_bytes() == b"h"


def _link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("hostile", "found"),
    [
        ("../x.py", "'../x.py'"),
        ("/etc/x.py", "'/etc/x.py'"),
        ("demo/../../x.py", "'demo/../../x.py'"),
        (_link("demo/link"), "a symbolic link"),
        ("demo/first/inside", "as a file and as a folder"),
        ("demo//first", "twice"),
    ],
)
def test_a_hostile_name_in_a_wheel_is_refused_and_nothing_is_written(
    tmp_path: Path, hostile: str | zipfile.ZipInfo, found: str
) -> None:
    wheel = write_zip(tmp_path / "w.whl", [("demo/first", b"good"), (hostile, b"/etc/passwd")])
    with pytest.raises(FetchError, match=r"w\.whl is refused") as caught:
        unpack_wheel(wheel, tmp_path / "out")
    assert found in str(caught.value.found)
    assert not (tmp_path / "out").exists()


def test_a_wheel_that_unpacks_to_too_many_bytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_WHEEL_BYTES", 1 << 20)
    wheel = write_zip(tmp_path / "w.whl", [("demo/zeros", b"\0" * (2 << 20))])
    with pytest.raises(FetchError, match="is refused"):
        unpack_wheel(wheel, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wheel_that_says_less_than_it_holds_gives_no_more_than_it_says(tmp_path: Path) -> None:
    wheel = write_zip(tmp_path / "w.whl", [("demo/zeros", b"\0" * (2 << 20))])
    content = bytearray(wheel.read_bytes())
    at = content.find(b"PK\x01\x02")
    content[at + 24 : at + 28] = (100).to_bytes(4, "little")  # uncompressed size in the central directory
    wheel.write_bytes(content)
    with pytest.raises(FetchError, match="is damaged"):
        unpack_wheel(wheel, tmp_path / "out")
    assert (tmp_path / "out/demo/zeros").stat().st_size <= 100


@pytest.mark.parametrize(("offset", "value"), [(10, 99), (8, 1)], ids=["unknown compression", "encrypted"])
def test_a_wheel_that_cannot_be_read_is_damaged(tmp_path: Path, offset: int, value: int) -> None:
    wheel = write_zip(tmp_path / "w.whl", [("demo/a", b"a" * 100)])
    content = bytearray(wheel.read_bytes())
    content[content.find(b"PK\x01\x02") + offset] = value
    content[content.find(b"PK\x03\x04") + offset - 2] = value
    wheel.write_bytes(content)
    with pytest.raises(FetchError, match=r"w\.whl is damaged"):
        unpack_wheel(wheel, tmp_path / "out")


def test_a_truncated_wheel_is_damaged(tmp_path: Path) -> None:
    wheel = write_zip(tmp_path / "w.whl", [("demo/a", b"a" * 100)])
    wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(FetchError, match=r"w\.whl is damaged"):
        unpack_wheel(wheel, tmp_path / "out")
