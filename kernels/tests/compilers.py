"""Compiles and tests the kernels with every C compiler of this machine, or under sanitizers.

Usage, with a Python that has torch, pytest and hypothesis, and ninja's Python (``--builder``) for the compilation:

    python compilers.py               # every compiler: -Werror, and the same bits on every instruction set
    python compilers.py --test        # and all tests, on every instruction set
    python compilers.py --sanitize    # the newest gcc with AddressSanitizer and UndefinedBehaviorSanitizer
    python compilers.py gcc-11 clang  # these alone

On another machine than aarch64, the cross gcc, clang with --target and zig with -target compile for aarch64 too. With
--test, where the builder's mambaport can emulate aarch64, their results are compared as well: a minute for each. What
was not found is named at the end. The exit status is 1 after a failure, where two compilers' results differ, or where
no compiler was found.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

KERNELS = Path(__file__).parents[1]
sys.path.append(str(KERNELS))
from mambaport_build.libraries import INSTRUCTION_SETS  # noqa: E402

NAME = re.compile(r"(aarch64-linux-gnu-gcc|gcc|clang)-\d+")
# Debian's, old and new: what is not on this machine is named.
WANTED = [*(f"gcc-{n}" for n in range(10, 16)), *(f"clang-{n}" for n in range(14, 23)), "zig"]
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1"
AARCH64 = "aarch64-linux-gnu"
LIBC = Path("/usr", AARCH64, "include", "stdio.h")  # of Debian's libc6-dev-arm64-cross, which clang compiles with
UNABLE = 3  # emulated.py's exit status where the machine cannot emulate


def found_compilers() -> list[str]:
    """The commands on PATH that are compilers with a version in their names, and zig; then those for aarch64."""
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep) if Path(folder).is_dir()]
    names = {path.name for folder in folders for path in folder.iterdir() if NAME.fullmatch(path.name)}
    order = sorted(names, key=lambda name: (name.rpartition("-")[0], int(name.rpartition("-")[2])))
    zig = ["zig cc"] if shutil.which("zig") else []
    if os.uname().machine == "aarch64":
        return [*(name for name in order if not name.startswith(AARCH64)), *zig]
    clang = [f"{name} --target={AARCH64}" for name in order if name.startswith("clang") and LIBC.is_file()]
    native = [name for name in order if not name.startswith(AARCH64)]
    cross = [name for name in order if name.startswith(AARCH64)]
    return [*native, *zig, *cross, *clang, *(f"{name} -target {AARCH64}.2.28" for name in zig)]


def ends(compilers: Sequence[str]) -> list[str]:
    """The oldest and the newest of each kind of compiler, from a list in order of versions."""
    kinds: dict[str, list[str]] = {}
    for name in compilers:
        kinds.setdefault(re.sub(r"-[0-9]+", "", name), []).append(name)
    chosen = {name for names in kinds.values() for name in (names[0], names[-1])}
    return [name for name in compilers if name in chosen]


def build(compiler: str, flags: str, folder: Path, builder: str) -> str | None:
    """Compiles both libraries in a copy of the kernels; returns the end of what was printed if that fails."""
    shutil.copytree(KERNELS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("build", "*.so", "__pycache__"))
    # The program that loads a sanitized library brings the sanitizers' functions.
    link = f"{flags} -Wl,-z,undefs" if "sanitize" in flags else ""
    env = {**os.environ, "CC": compiler, "CFLAGS": flags, "LDFLAGS": link}
    done = subprocess.run(
        [builder, "-m", "mambaport_build"], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    return (done.stdout + done.stderr)[-2000:] if done.returncode else None


def run(words: Sequence[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program of Python against the libraries in `folder`."""
    env = {**os.environ, "PYTHONPATH": str(folder), **environment}
    return subprocess.run(
        [sys.executable, *words], cwd=KERNELS / "tests", env=env, capture_output=True, text=True, check=False
    )


def emulated(folder: Path, builder: str) -> subprocess.CompletedProcess[str]:
    """digests.py against libraries for aarch64, with the emulated system of `builder`'s mambaport."""
    words = [builder, KERNELS / "tests" / "emulated.py", folder]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def tests(folder: Path, isa: str, options: Sequence[str], **environment: str) -> str:
    """The last line of the kernels' tests; begins with FAILED, and ends with all that was printed, if one failed."""
    words = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *options, "."]
    done = run(words, folder, MAMBAPORT_KERNEL_ISA=isa, **environment)
    lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
    return lines[-1] if done.returncode == 0 else "\n".join(["FAILED", *lines[-60:]])


def check(compiler: str, folder: Path, builder: str, with_tests: bool, digests: dict[str, str]) -> bool:
    """Compiles with one compiler and compares its results with those of the compilers before."""
    fault = build(compiler, "-Werror", folder, builder)
    if fault:
        print(f"FAILED {compiler}: does not compile\n{fault}", flush=True)
        return False
    foreign = AARCH64 in compiler and os.uname().machine != "aarch64"
    if foreign and not with_tests:
        print(f"ok     {compiler}: compiled", flush=True)
        return True
    done = emulated(folder, builder) if foreign else run(["digests.py"], folder)
    if foreign and done.returncode == UNABLE:
        print(f"ok     {compiler}: compiled, not run: {done.stdout.strip()}", flush=True)
        return True
    if done.returncode:
        print(done.stdout[-2000:])
        print(f"FAILED {compiler}: {done.stderr[-2000:]}", flush=True)
        return False
    good, words = True, []
    for isa, digest in (line.split() for line in done.stdout.splitlines()):
        same = digests.setdefault(isa, digest) == digest
        good &= same
        words.append(f"{isa} {digest}" + ("" if same else f" is not {digests[isa]}"))
        if with_tests and not foreign:
            outcome = tests(folder, isa, [])
            good &= not outcome.startswith("FAILED")
            words.append(outcome)
    print(f"{'ok    ' if good else 'FAILED'} {compiler}: {', '.join(words)}", flush=True)
    return good


def sanitize(compiler: str, folder: Path, builder: str, with_tests: bool) -> bool:
    """Runs every kernel, or all tests, under both sanitizers, on each instruction set that this processor has."""
    flags = SANITIZERS + (" -shared-libsan" if "clang" in compiler else "")
    fault = build(compiler, flags, folder, builder)
    if fault:
        print(f"FAILED {compiler}: does not compile\n{fault}", flush=True)
        return False
    name = f"libclang_rt.asan-{os.uname().machine}.so" if "clang" in compiler else "libasan.so"
    print_file = [*compiler.split(), f"-print-file-name={name}"]
    runtime = subprocess.run(print_file, capture_output=True, text=True, check=True).stdout.strip()
    environment = {
        # Python is not compiled for AddressSanitizer, so its runtime must come first. torch keeps memory at exit.
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    asked = run(["-c", "import causal_conv1d_cpu as c; print(*c._lib.library.available)"], folder, **environment)
    if asked.returncode:
        print(f"FAILED {compiler}: {asked.stderr[-2000:]}", flush=True)
        return False
    available = asked.stdout.split()
    good = True
    if not with_tests:
        done = run(["digests.py"], folder, **environment)
        good = done.returncode == 0
        print(f"{'ok    ' if good else 'FAILED'} {compiler}, {', '.join(available)}: {done.stderr[-2000:]}", flush=True)
    for isa in available if with_tests else ():
        # A sanitizer needs memory of its own, so the test of how much the kernels use cannot hold.
        outcome = tests(folder, isa, ["--deselect", "test_process.py::test_memory"], **environment)
        good &= not outcome.startswith("FAILED")
        print(f"{compiler}, {isa}: {outcome}", flush=True)
    missing = [isa for isa in INSTRUCTION_SETS[os.uname().machine] if isa not in available]
    if missing:
        print(f"not run, since this processor does not have them: {', '.join(missing)}", flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("compilers", nargs="*", help="commands; all that are found when none is named")
    parser.add_argument("--builder", default=sys.executable, help="a Python that has ninja")
    parser.add_argument("--test", action="store_true", help="run all tests, not the comparison of results alone")
    parser.add_argument("--ends", action="store_true", help="the oldest and the newest of each kind alone")
    parser.add_argument("--sanitize", action="store_true", help="compile with sanitizers")
    options = parser.parse_args()
    options.builder = str(Path(options.builder).absolute())  # starts in another folder; a link of a venv stays a link
    compilers = options.compilers or found_compilers()
    if options.ends:
        compilers = ends(compilers)
    if options.sanitize and not options.compilers:
        compilers = [name for name in compilers if name.startswith("gcc")][-1:] or ["cc"]
    digests: dict[str, str] = {}
    good = bool(compilers)
    if not compilers:
        print("FAILED no compiler on PATH has a name such as gcc-12 or clang-19: install one, or name one", flush=True)
    for compiler in compilers:
        with tempfile.TemporaryDirectory(prefix="kernels-") as folder:
            if options.sanitize:
                good &= sanitize(compiler, Path(folder), options.builder, options.test)
            else:
                good &= check(compiler, Path(folder), options.builder, options.test, digests)
    if not options.compilers and not options.sanitize:
        absent = [name for name in WANTED if not shutil.which(name)]
        print(f"not on this machine: {', '.join(absent) or 'none'}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
