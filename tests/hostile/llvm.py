"""LLVM's disassembler as a judge of AArch64 instruction words.

``llvm_words.c`` is compiled on first use and linked with the newest libLLVM of this machine (Debian packages
libllvm16 and newer).
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path

SOURCE = Path(__file__).with_name("llvm_words.c")
OLDEST = 16


@functools.cache
def library() -> tuple[int, Path] | None:
    """The newest libLLVM here, with its major version; None where there is none of version 16 or newer."""
    found = []
    for path in Path("/usr/lib").glob("*/libLLVM*.so*"):
        match = re.fullmatch(r"libLLVM(?:-(\d+)\.so\.1|\.so\.(\d+)\.\d+)", path.name)
        if match:
            found.append((int(match[1] or match[2]), path))
    return max((item for item in found if item[0] >= OLDEST), default=None)


@functools.cache
def _program() -> str:
    newest, compiler = library(), shutil.which("cc")
    assert newest is not None, "no libLLVM"
    assert compiler is not None, "no C compiler"
    folder = Path(tempfile.mkdtemp(prefix="llvm-words-"))
    program = str(folder / "llvm_words")
    subprocess.run([compiler, "-O2", "-Wall", str(SOURCE), "-o", program, str(newest[1])], check=True)
    return program


class Llvm:
    """One CPU, as LLVM knows it.

    Args:
        cpu: the name that ``-mcpu`` takes.
        features: names that ``-mattr`` takes, switched on.
    """

    def __init__(self, cpu: str = "generic", features: Sequence[str] = ()) -> None:
        self.cpu = cpu
        self.features = ",".join(f"+{name}" for name in sorted(features))

    def known(self, words: Sequence[int]) -> bytes:
        """One byte for each word: 1 where LLVM disassembles the word for this CPU."""
        return self._ask("words", words)

    def text(self, words: Sequence[int]) -> list[str]:
        """The assembly of each word; empty where LLVM knows none."""
        lines = self._ask("text", words).decode().split("\n")[:-1]
        return [" ".join(line.split()) for line in lines]

    def low_parts(self, prefixes: Sequence[int]) -> bytes:
        """For each 22-bit prefix 128 bytes: a bit for each of the 1024 words that begin with the prefix."""
        return self._ask("low", prefixes)

    def sweep(self, low: Sequence[int]) -> bytes:
        """For each of the 2^22 prefixes one byte, with a bit for each of the (up to 8) 10-bit low parts."""
        return self._ask("sweep", low)

    def _ask(self, what: str, words: Sequence[int]) -> bytes:
        command = [_program(), self.cpu, self.features, what]
        return subprocess.run(
            command, input=array("I", words).tobytes(), capture_output=True, check=True
        ).stdout
