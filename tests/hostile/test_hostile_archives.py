"""Damaged archives and wheels: read, or refused by name; what an audit passes is the wheel that was made."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import shutil
import stat
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import aarch64_library, member, write_sdist, write_wheel, write_zip
from inputs import Area, Wrong
from mutations import damaged
from test_fit import FACTS, JETSON, ORIN

from mambaport.auditing import audit_wheel
from mambaport.auditing import require as require_audit
from mambaport.goal import Goal
from mambaport.host import read_host
from mambaport.installing import check_fit
from mambaport.plan import resolve_goal
from mambaport.profile import find_profile
from mambaport.sources.archives import unpack_sdist, unpack_wheel
from mambaport.wheels import find, read_wheel

Make = Callable[[str, int], Area]
INFO = "mamba_ssm-2.2.4+cpu.1.dist-info"
MEMBERS = {
    "demo-1.0/setup.py": b"setup()\n" * 40,
    "demo-1.0/csrc/kernel.c": b"int demo;\n" * 90,
    "demo-1.0/" + "n" * 120: b"long\n",
}
NAMES = (b"../evil", b"/evil", b"demo-1.0/../../evil", b"outside", b"..\\evil", b"\0", b"a" * 300)


def no_strangers(folder: Path) -> None:
    """Below ``folder``, only plain files and folders."""
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or mode & (stat.S_ISUID | stat.S_ISGID):
            raise Wrong(f"{path.name} has mode {mode:o}")


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def with_checksums(tar: bytes) -> bytes:
    """A tar whose headers have right checksums again, so that a reader gets to see the damage."""
    data = bytearray(tar)
    for start in range(0, len(data) - 511, 512):
        if data[start + 257 : start + 262] == b"ustar":
            header = data[start : start + 148] + b" " * 8 + data[start + 156 : start + 512]
            data[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    return bytes(data)


@pytest.mark.parametrize("layer", ["compressed", "tar", "tar with checksums"])
def test_damaged_sdists(area: Make, tmp_path: Path, layer: str) -> None:
    attack = area(f"sdists: {layer}", 800)
    members = [member(name, content) for name, content in MEMBERS.items()]
    packed = write_sdist(tmp_path / "demo-1.0.tar.gz", members).read_bytes()
    plain = io.BytesIO()
    head = {"comment": "é"}
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT, pax_headers=head) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    packing: dict[str, Callable[[bytes], bytes]] = {
        "compressed": bytes,
        "tar": lambda data: gzip.compress(data, 1),
        "tar with checksums": lambda data: gzip.compress(with_checksums(data), 1),
    }
    path, content = tmp_path / "damaged.tar.gz", packed if layer == "compressed" else plain.getvalue()
    for number, data in enumerate(damaged(content, attack.seed, attack.count, NAMES)):
        path.write_bytes(packing[layer](data))

        def attempt() -> None:
            folder = emptied(attack.target)
            unpack_sdist(path, folder)
            no_strangers(folder)

        attack.judge(number, attempt)
    attack.finish()


def files() -> dict[str, bytes]:
    return {
        "mamba_ssm/__init__.py": b"x = 1\n" * 40,
        "mamba_ssm/deep/kernel.py": b"y = 2\n" * 40,
        f"{INFO}/provenance.json": json.dumps({"cuda": FACTS}).encode(),
        f"{INFO}/sboms/mamba-ssm.cdx.json": b"{}",
    }


def whole_wheel(folder: Path) -> Path:
    return write_wheel(folder, files(), name="mamba_ssm", version="2.2.4+cpu.1", tag="py3-none-any")


def attempt_install(attack: Area, house: Path, wanted: dict[str, bytes] | None) -> None:
    """What ``install`` does before pip, and the unpacking.

    Args:
        wanted: files that the wheel must have; None leaves the audit out too.
    """
    wheel = find(house, "mamba-ssm", "2.2.4+cpu.1")
    if wanted is not None:
        require_audit(audit_wheel(wheel, None))
    check_fit([wheel], JETSON, [ORIN])
    folder = emptied(attack.target)
    unpack_wheel(wheel.path, folder)
    no_strangers(folder)
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    strangers = [name for name in found if name.split("/")[0] not in ("mamba_ssm", INFO)]
    if strangers and wanted is not None:
        raise Wrong(f"installs {strangers}")
    if wanted is not None and {k: v for k, v in found.items() if k in wanted} != wanted:
        raise Wrong("passed, with other files than were packed")


METHODS = {
    "stored": zipfile.ZIP_STORED,
    "deflated": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


@pytest.mark.parametrize("method", METHODS)
def test_damaged_wheels(area: Make, tmp_path: Path, method: str) -> None:
    attack = area(f"wheels at install: {method}", 700)
    house = tmp_path / "house"
    path = whole_wheel(house)
    with zipfile.ZipFile(path) as archive:
        content = {item.filename: archive.read(item) for item in archive.infolist()}
    with zipfile.ZipFile(path, "w", METHODS[method]) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    words = (*NAMES, b"PK\5\6", b"PK\1\2")
    for number, data in enumerate(damaged(path.read_bytes(), attack.seed, attack.count, words)):
        path.write_bytes(data)
        # The audit refuses bzip2 and lzma; without it, the readers behind it get to see the damage.
        wanted = files() if method in ("stored", "deflated") else None
        attack.judge(number, lambda wanted=wanted: attempt_install(attack, house, wanted))  # type: ignore[misc]
    attack.finish()


PARTS = ["METADATA", "WHEEL", "RECORD", "provenance.json", "sboms/mamba-ssm.cdx.json"]
PART_WORDS = (
    *(b"Name: torch\n", b"Version: 1\n", b"Tag: py3-none-any\n", b"Wheel-Version: 9.0\n", b"sha256="),
    *(b"../evil,,\n", b'"', b'"' * 3, b"x" * 200_000, b"torch/__init__.py,,\n", b",,\n"),
    *(b'{"cuda": 7}', b"[]", b"null"),
)


@pytest.mark.parametrize("part", PARTS)
def test_wheels_with_a_damaged_part_and_right_digests(area: Make, tmp_path: Path, part: str) -> None:
    attack = area(f"wheels at install: {part}", 500)
    house = tmp_path / "house"
    path = whole_wheel(house)
    with zipfile.ZipFile(path) as archive:
        content = {item.filename: archive.read(item) for item in archive.infolist()}
    name = f"{INFO}/{part}"
    for number, data in enumerate(damaged(content[name], attack.seed, attack.count, PART_WORDS)):
        changed = {**content, name: data}
        if part != "RECORD":
            rows = "".join(
                f"{key},sha256={base64.urlsafe_b64encode(hashlib.sha256(value).digest()).rstrip(b'=').decode()},\n"
                for key, value in changed.items()
                if not key.endswith("RECORD")
            )
            changed[f"{INFO}/RECORD"] = (rows + f"{INFO}/RECORD,,\n").encode()
        write_zip(path, list(changed.items()))
        code = {key: value for key, value in files().items() if key.startswith("mamba_ssm/")}
        attack.judge(number, lambda code=code: attempt_install(attack, house, code))  # type: ignore[misc]
    attack.finish()


def test_wheels_with_names_that_lead_elsewhere(area: Make, tmp_path: Path) -> None:
    """Whole archives whose members' names are damaged."""
    attack = area("wheels at install: names", 600)
    house = tmp_path / "house"
    path = whole_wheel(house)
    with zipfile.ZipFile(path) as archive:
        content = {item.filename: archive.read(item) for item in archive.infolist()}
    whole = "mamba_ssm/__init__.py"
    for number, data in enumerate(damaged(whole.encode(), attack.seed, attack.count, NAMES)):
        name = data.decode("utf-8", "replace")[:60_000] or "/"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a name twice
            named = {member_of(name if key == whole else key): value for key, value in content.items()}
            write_zip(path, list(named.items()))

        def attempt() -> None:
            folder = emptied(attack.target)
            unpack_wheel(path, folder)
            no_strangers(folder)
            require_audit(audit_wheel(read_wheel(path), None))

        attack.judge(number, attempt)
    attack.finish()


def member_of(name: str) -> zipfile.ZipInfo:
    """A member with any name: ZipInfo alone would cut the name at a NUL."""
    info = zipfile.ZipInfo("x")
    info.filename = name
    return info


@pytest.fixture(scope="module")
def goal() -> Goal:
    return resolve_goal(find_profile("rpi"), read_host())


def test_damaged_libraries(area: Make, tmp_path: Path, goal: Goal) -> None:
    """A library in a wheel with right digests: a finding, or a pass; never an error of another kind."""
    attack = area("compiled files in wheels", 1200)
    tag, info = "py3-none-linux_aarch64", INFO
    path = None
    words = (b"\x7fELF", b"\xff" * 8)
    for number, data in enumerate(damaged(aarch64_library(), attack.seed, attack.count, words)):
        path = write_wheel(
            tmp_path / "house",
            {"selective_scan_cpu/libdemo.so": data, f"{info}/licenses/LICENSE": b"x"},
            name="mamba_ssm",
            version="2.2.4+cpu.1",
            tag=tag,
        )
        attack.judge(number, lambda path=path: require_audit(audit_wheel(read_wheel(path), goal)))  # type: ignore[misc]
    attack.finish()
