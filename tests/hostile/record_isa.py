"""Writes what the unit tests of the instruction audit read, so that they need neither LLVM nor a compiler.

    python tests/hostile/record_isa.py

tests/unit/data/llvm-words.txt           words, and for which CPUs LLVM knows each
tests/unit/data/above-cortex-a72.words   a word of every mnemonic above a Cortex-A72
tests/unit/data/newer-cpus.txt           the code of newer_cpus.py, as the compilers here make it
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from compilers import compile_library, compilers
from llvm import Llvm
from newer_cpus import CASES, HEAD
from words import attack

from mambaport.auditing.elf import Library
from mambaport.auditing.isa import code_words
from mambaport.boards import find_cpu

DATA = Path(__file__).parents[1] / "unit" / "data"
CPUS = ("generic", "cortex-a72", "cortex-a78ae", "neoverse-v1", "neoverse-v3ae")
SEED = 7


def judged() -> str:
    words = attack(SEED, 6000)
    answers = [Llvm("generic", sorted(find_cpu(cpu, "aarch64").features)).known(words) for cpu in CPUS]
    lines = [f"{word:08x} {''.join(map(str, known))}" for word, *known in zip(words, *answers, strict=True)]
    return f"# word, then 1 for each CPU that has it: {' '.join(CPUS)}\n" + "\n".join(lines) + "\n"


def above() -> str:
    low = [9 << 5 | 5]
    everything = Llvm("generic", ["all"])
    old = Llvm("generic", sorted(find_cpu("cortex-a72", "aarch64").features)).sweep(low)
    new = everything.sweep(low)
    words = [prefix << 10 | low[0] for prefix in range(1 << 22) if new[prefix] and not old[prefix]]
    first: dict[str, tuple[int, str]] = {}
    for word, text in zip(words, everything.text(words), strict=True):
        first.setdefault(text.split()[0], (word, text))
    return "".join(f"{word:08x}  {text}\n" for word, text in sorted(first.values()))


def newer() -> str:
    lines = ["# Programs for newer CPUs: [name, compiler, -march], then the words of the code."]
    old = Llvm("generic", sorted(find_cpu("cortex-a72", "aarch64").features))
    for name, compiler in compilers().items():
        if name not in ("aarch64-linux-gnu-gcc-12", "zig"):
            continue
        for case in CASES:
            with tempfile.TemporaryDirectory() as folder:
                source = case.source if case.name == "sme" else HEAD + case.source
                made = compile_library(compiler, case.march, source, case.flags, Path(folder))
            if isinstance(made, str):
                print(f"{name}: {case.name}: {made.splitlines()[0]}")
                continue
            words = [word for _, part in code_words(Library("case.so", made)) for word in part if word]
            if all(old.known(words)):  # this compiler needs nothing newer for the case
                print(f"{name}: {case.name}: nothing above a Cortex-A72")
                continue
            lines += [f"[{case.name}, {name}, {case.march}]", " ".join(f"{word:08x}" for word in words)]
    return "\n".join(lines) + "\n"


def main() -> None:
    for name, text in (
        ("llvm-words.txt", judged()),
        ("above-cortex-a72.words", above()),
        ("newer-cpus.txt", newer()),
    ):
        (DATA / name).write_text(text, encoding="ascii")
        print(f"{name}: {len(text.splitlines())} lines")


if __name__ == "__main__":
    main()
