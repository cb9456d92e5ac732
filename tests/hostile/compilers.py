"""Compilers for aarch64 that this machine has."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

LINK = ("-shared", "-nostdlib", "-Wl,-z,noexecstack", "-Wl,--build-id=none")
SEPARATE = ("-Wl,-z,separate-code",)  # zig does so by itself, and does not know the option


@cache
def compilers() -> dict[str, tuple[str, ...]]:
    """Names and the words that begin their command lines. zig is the one that builds fetch."""
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(
        {*Path("/usr/bin").glob("aarch64-linux-gnu-gcc-[0-9]*"), *Path("/usr/bin").glob("clang-[0-9]*")}
    ):
        if path.name.rsplit("-", 1)[1].isdigit():
            found[path.name] = (str(path), *(("--target=aarch64-linux-gnu",) if "clang" in path.name else ()))
    for zig in (Path.home() / ".cache/mambaport/toolchains").glob("ziglang-*/ziglang/zig"):
        found["zig"] = (str(zig), "cc", "-target", "aarch64-linux-gnu.2.28")
    return found


def compile_library(
    compiler: Sequence[str], march: str, source: str, flags: Sequence[str], folder: Path
) -> bytes | str:
    """The shared library, or what the compiler said when it does not know the CPU or the instruction."""
    (folder / "case.c").write_text(source, encoding="utf-8")
    zig = "cc" in compiler
    cpu = f"-mcpu={_zig_cpu(march)}" if zig else f"-march={march}"
    command = [
        *compiler,
        cpu,
        "-O2",
        "-fPIC",
        *LINK,
        *(() if zig else SEPARATE),
        *flags,
        "case.c",
        "-o",
        "case.so",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return (folder / "case.so").read_bytes() if done.returncode == 0 else done.stderr


def _zig_cpu(march: str) -> str:
    """gcc's name of an architecture as zig's: ``generic+v8_2a+dotprod``."""
    names = {"fp16": "fullfp16", "crypto": "aes+sha2", "memtag": "mte"}
    level, *features = march.removeprefix("arm").removesuffix("-a").split("+")
    base = f"generic+{level.removesuffix('-a').replace('.', '_').replace('-', '')}a"
    return "+".join([base, *(names.get(item, item) for item in features)])
