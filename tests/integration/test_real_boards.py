"""The data of CPUs held against the compilers and the emulator of this machine; a board that is new."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mambaport.boards import Cpu, cpus

ARM = [cpu for cpu in cpus() if cpu.arch == "aarch64"]
GCC = shutil.which("aarch64-linux-gnu-gcc")
QEMU = shutil.which("qemu-aarch64-static")
# zig's table counts these as part of a core, although some devices with that core lack them.
OPTIONAL = {"aes", "sha2"}
# zig's table leaves these out; Grace and Graviton 4 have them.
ADDED = {"neoverse-v2": {"aes", "sha2", "sha3"}}


@pytest.mark.skipif(GCC is None, reason="no aarch64-linux-gnu-gcc here")
@pytest.mark.parametrize("cpu", ARM, ids=lambda cpu: cpu.name)
def test_gcc_takes_the_option_that_the_data_gives_it(cpu: Cpu) -> None:
    assert GCC is not None
    version = subprocess.run([GCC, "-dumpversion"], capture_output=True, text=True, check=True).stdout
    for option in (cpu.option("gcc", int(version.split(".")[0])), f"-march={cpu.march}"):
        command = [GCC, option, "-x", "c", "-E", "-"]
        finished = subprocess.run(command, input="", capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr


@pytest.mark.skipif(QEMU is None, reason="no qemu-aarch64-static here")
@pytest.mark.parametrize("cpu", ARM, ids=lambda cpu: cpu.name)
def test_qemu_emulates_the_cpu_that_the_data_names(cpu: Cpu) -> None:
    assert QEMU is not None
    finished = subprocess.run([QEMU, "-cpu", "help"], capture_output=True, text=True, check=False)
    assert cpu.qemu in finished.stdout.split()


@pytest.mark.usefixtures("rpi")
def test_zig_gives_each_cpu_the_features_of_the_data(shared: Path) -> None:
    (table,) = shared.glob("toolchains/ziglang-*/ziglang/lib/std/Target/aarch64.zig")
    models = _zig_cpus(table.read_text())
    vocabulary: frozenset[str] = frozenset().union(*(cpu.features for cpu in ARM))
    for cpu in ARM:
        if cpu.name == "generic":
            continue
        known = models[cpu.zig] & vocabulary
        assert cpu.features - ADDED.get(cpu.name, set()) <= known, cpu.name
        assert known - cpu.features <= OPTIONAL, cpu.name


def test_the_page_on_profiles_builds_wheels_for_its_board(shared: Path, tmp_path: Path) -> None:
    """Every line of the page's first board, as a user pastes it."""
    page = Path(__file__).parents[2] / "docs/how-to/add-a-profile.md"
    block = re.search(r"^```console\n(.*?)^```", page.read_text(), re.M | re.S)
    assert block is not None
    tool = tmp_path / "bin/mambaport"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mambaport "$@"\n')
    tool.chmod(0o755)
    path = f"{tool.parent}:{os.environ['PATH']}"
    finished = subprocess.run(
        ["sh", "-e", "-c", block[1]],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "MAMBAPORT_CACHE": str(shared)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "none above cortex-a55" in finished.stdout
    names = sorted(path.name for path in tmp_path.glob("wheelhouse/orange-pi-5/*.whl"))
    assert [name.split("-")[0] for name in names] == ["causal_conv1d", "mamba_ssm"]
    assert all("+orange.pi.5." in name for name in names)


def _zig_cpus(text: str) -> dict[str, frozenset[str]]:
    """Zig's name of each CPU -> its features and all features that these imply, by LLVM's names."""
    block = re.compile(
        r"result\[@intFromEnum\(Feature\.(\w+)\)\] = \.\{\s*"
        r"\.llvm_name = (?:\"([^\"]*)\"|null),(.*?)\n    \};",
        re.S,
    )
    features = {
        name: (llvm, re.findall(r"^\s+\.(\w+),$", rest, re.M)) for name, llvm, rest in block.findall(text)
    }
    model = re.compile(
        r"pub const (\w+): CpuModel = \.\{.*?\.features = featureSet\(&\[_\]Feature\{(.*?)\}\)", re.S
    )
    found = {}
    for name, listed in model.findall(text):
        waiting, reached = re.findall(r"\.(\w+)", listed), set()
        while waiting:
            feature = waiting.pop()
            if feature not in reached:
                reached.add(feature)
                waiting += features[feature][1]
        found[name] = frozenset(features[feature][0] for feature in reached)
    return found
