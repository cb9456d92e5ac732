"""What this machine is: read from it, once."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mambaport import host
from mambaport.errors import HostError
from mambaport.host import Program, ThisMachine, program, read_host
from mambaport.settings import read_settings


def test_the_machine_is_as_python_and_the_kernel_say() -> None:
    found = read_host()
    assert found.arch == platform.machine()
    assert found.python == platform.python_version()
    assert found.cores == len(os.sched_getaffinity(0))
    assert 0 < found.available_mib <= found.memory_mib
    assert read_host() is found
    assert json.loads(json.dumps(found.to_json()))["arch"] == found.arch


def test_the_builds_python_is_the_one_behind_a_virtual_environment() -> None:
    code = "import sys; print(sys.prefix == sys.base_prefix, *sys.version_info[:2])"
    answer = subprocess.run([read_host().python_path, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["True", *map(str, sys.version_info[:2])]


def test_a_program_is_found_with_the_first_line_of_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "somecc"
    path.write_text("#!/bin/sh\necho 'somecc 12.3'\necho 'more'\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = program("somecc")
    assert found is not None
    assert (found.path, found.version) == (str(path), "somecc 12.3")


def test_a_program_that_is_not_there_or_cannot_run_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program("no-such-program-anywhere") is None
    path = tmp_path / "broken"
    path.write_bytes(b"\x7fELF not really")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program("broken") is None


def test_network_isolation_really_takes_the_network_away() -> None:
    words = read_host().network_isolation
    if words is None:
        pytest.skip("this kernel does not let us drop the network")
    code = "import socket; print([name for _n, name in socket.if_nameindex()])"
    answer = subprocess.run([*words, sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "['lo']"


def test_the_board_and_the_system_are_read_where_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    (tmp_path / "os-release").write_text('NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    (tmp_path / "meminfo").write_text(
        "MemTotal:   8192000 kB\nMemAvailable: 4096000 kB\nHugePages_Total: 0\n"
    )
    monkeypatch.setattr(host, "DEVICE_MODEL", tmp_path / "model")
    monkeypatch.setattr(host, "OS_RELEASE", tmp_path / "os-release")
    monkeypatch.setattr(host, "MEMINFO", tmp_path / "meminfo")
    found = read_host.__wrapped__()
    assert found.device == "Raspberry Pi 5 Model B Rev 1.0"
    assert found.system == "Debian GNU/Linux 12 (bookworm)"
    assert (found.memory_mib, found.available_mib) == (8000, 4000)


def test_a_machine_that_names_nothing_is_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEVICE_MODEL", "OS_RELEASE", "MEMINFO"):
        monkeypatch.setattr(host, name, tmp_path / "missing")
    found = read_host.__wrapped__()
    assert found.device is None
    assert found.system == platform.system()


def test_names_that_are_not_utf_8_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEVICE_MODEL", "OS_RELEASE", "MEMINFO"):
        (tmp_path / name).write_bytes(b'PRETTY_NAME="Caf\xe9 Linux"\n')
        monkeypatch.setattr(host, name, tmp_path / name)
    assert read_host.__wrapped__().system == "Caf\ufffd Linux"


def test_nothing_is_read_before_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    for name in ("cc", "c++", "mmdebstrap", "qemu-aarch64-static", "nvidia-smi", "aarch64-linux-gnu-gcc"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} >>{log}\necho {name} 1.2\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = ThisMachine()
    assert found.cores > 0
    assert found.arch == platform.machine()
    assert not log.exists()
    assert found.cc == Program(str(tmp_path / "cc"), "cc 1.2")
    assert found.cc is found.cc
    assert log.read_text() == "cc\n"


def test_the_compiler_that_the_user_names_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mycc"
    path.write_text("#!/bin/sh\necho mycc 1.2\n")
    path.chmod(0o755)
    assert ThisMachine(read_settings({"CC": str(path)})).cc == Program(str(path), "mycc 1.2")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ThisMachine(read_settings({"CXX": "mycc"})).cxx == Program(str(path), "mycc 1.2")
    for wrong in ("no-such-cc", "mycc -O3"):
        with pytest.raises(HostError, match="CC names no compiler") as caught:
            _ = ThisMachine(read_settings({"CC": wrong})).cc
        assert caught.value.found == f"CC={wrong}"


def test_facts_of_this_machine_can_be_replaced() -> None:
    other = replace(read_host(), cores=3)
    assert (other.cores, other.arch) == (3, read_host().arch)


@pytest.mark.parametrize(
    ("version", "family", "major"),
    [
        ("gcc (Debian 12.2.0-14) 12.2.0", "gcc", 12),
        ("cc (Debian 10.2.1-6) 10.2.1 20210110", "gcc", 10),
        ("aarch64-linux-gnu-g++ (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0", "gcc", 11),
        ("gcc-14 (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)", "gcc", 14),
        ("Debian clang version 14.0.6", "clang", 14),
        ("clang version 18.1.3 (1ubuntu1)", "clang", 18),
        ("tcc version 0.9.27 (x86_64 Linux)", None, None),
    ],
)
def test_family_and_major_of_a_compiler(version: str, family: str | None, major: int | None) -> None:
    assert (Program("/x", version).family, Program("/x", version).major) == (family, major)
