"""The promise `py3-none` of a CPU wheel, on every CPython that this machine has: `make test-pythons` runs it.

Usage: ``python tests/pythons.py [PYTHON...]``, names on PATH or paths. Without arguments: each ``python3.N``
and ``python3.Nt`` from 3.10 on that is on PATH or in pyenv, and, for root with mmdebstrap, those of Debian's
suites. On each:

- the wheels' tags are among the interpreter's tags, by the library with which pip and uv choose wheels;
- every module of the wheels compiles;
- the kernels are loaded by ctypes, and give the same bits on every instruction set of the processor.

No torch is needed. Where an interpreter can import torch, `mambaport install` proves every component too.

Exit codes: 2 for an argument that is no CPython from 3.10 on, 12 where none is found, 14 for a wheel that an
interpreter does not take, 16 for kernels that do not run or give other bits.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import packaging
from packaging.utils import parse_wheel_filename

from mambaport.sources import unpack_wheel

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build/pythons"
PROFILE = {"x86_64": "x86-64-cpu", "aarch64": "aarch64-cpu"}[platform.machine()]
MINORS = range(10, 20)
SUITES = ("bookworm", "trixie", "sid")
CHECK = """
import compileall, json, subprocess, sys, sysconfig
from packaging.tags import sys_tags
work, wanted = sys.argv[1:]
tags = {str(tag) for tag in sys_tags()}
calls = subprocess.run([sys.executable, work + "/kernel_calls.py", work + "/site"], stdout=subprocess.PIPE)
print(json.dumps({
    "python": sys.version.split()[0],
    "implementation": sys.implementation.name,
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "tags": [tag for tag in json.loads(wanted) if tag in tags],
    "compiled": bool(compileall.compile_dir(work + "/site", quiet=1, force=True)),
    "kernels": json.loads(calls.stdout) if calls.returncode == 0 else None,
}))
"""


def refuse(code: int, text: str) -> NoReturn:
    """Ends the program with a message."""
    print(f"error    {text}", file=sys.stderr, flush=True)
    raise SystemExit(code)


def named(words: list[str]) -> list[Path]:
    """The interpreters that arguments name.

    Raises:
        SystemExit: a name is of no program, or of a program that is no CPython from 3.10 on.
    """
    found = []
    for word in words:
        program = shutil.which(word)
        if program is None:
            refuse(2, f"{word} is no program: name interpreters on PATH, or their paths")
        path = Path(program).absolute()
        question = "import sys; print(sys.implementation.name, *sys.version_info[:2])"
        try:
            done = subprocess.run([path, "-c", question], check=False, capture_output=True, text=True)
            answer = done.stdout.strip()[:200] if done.returncode == 0 else ""
        except (OSError, UnicodeDecodeError):  # not a program of this processor; bytes that are no text
            answer = ""
        version = re.fullmatch(r"cpython (\d+) (\d+)", answer)
        if version is None or (int(version[1]), int(version[2])) < (3, MINORS[0]):
            refuse(2, f"{word} is no CPython from 3.{MINORS[0]} on: {answer or 'no answer of a Python'}")
        found.append(path)
    return found


def local() -> Iterator[Path]:
    """The interpreters on PATH and in pyenv."""
    folders = [*os.get_exec_path(), *map(str, sorted(Path.home().glob(".pyenv/versions/*/bin")))]
    for minor in MINORS:
        for end in ("", "t"):
            for folder in folders:
                path = Path(folder, f"python3.{minor}{end}")
                if path.is_file() and ".pyenv/shims" not in str(path):
                    yield path.resolve()


def of_debian(suite: str) -> tuple[Path, list[str | Path]] | None:
    """The Python of a Debian suite in a folder of its own: the folder, and the words that start it."""
    root = WORK / suite
    options = ["--variant=extract", "--include=python3"]
    if suite == "sid":  # a mirror may be older than this suite's list says; the list's signature is checked
        options.append('--aptopt=Acquire::Check-Valid-Until "false"')
    done = subprocess.run(["mmdebstrap", *options, suite, root], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("E:")), "no reason given")
        print(f"skipped  Debian {suite}: {reason}", flush=True)
        return None
    for name in ("lib", "lib64", "bin"):  # since Debian 13 a script makes the links, and extracting runs none
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    return root, ["chroot", root, "/usr/bin/python3"]


def prepare(folder: Path) -> tuple[list[str], list[Path]]:
    """Writes what an interpreter needs into a folder. Returns the wheels' tags, and the wheels."""
    wheels = sorted((WORK / "wheelhouse").glob("*.whl"))
    (folder / "site").mkdir(parents=True)
    for wheel in wheels:
        unpack_wheel(wheel, folder / "site")
    shutil.copy(ROOT / "tests/target/kernel_calls.py", folder)
    shutil.copytree(Path(packaging.__file__).parent, folder / "library/packaging")
    return [str(next(iter(parse_wheel_filename(wheel.name)[3]))) for wheel in wheels], wheels


def checked(words: list[str | Path], folder: str, tags: list[str]) -> dict[str, Any]:
    """What one interpreter says.

    Raises:
        SystemExit: the interpreter does not take the wheels, or the kernels do not run.
    """
    name = " ".join(map(str, words))
    library = {"PYTHONPATH": f"{folder}/library", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*words, "-c", CHECK, folder, json.dumps(tags)],
        env={"PATH": os.environ["PATH"], **library},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        refuse(16, f"{name} ends with {done.returncode}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["tags"] != tags:
        refuse(14, f"{name} takes the tags {found['tags']}, and the wheels have {tags}")
    if not found["compiled"]:
        refuse(14, f"{name} does not compile every module of the wheels: {done.stdout}")
    if not found["kernels"]:
        refuse(16, f"{name} does not run the kernels: {done.stderr}")
    return found


def proven(python: Path) -> str:
    """Installs and proves the wheels, where the interpreter has torch."""
    if subprocess.run([python, "-c", "import torch"], check=False, capture_output=True).returncode != 0:
        return "no torch here"
    words = [Path(sys.executable).with_name("mambaport"), "install", "-p", PROFILE, "--python", python]
    words += ["--wheelhouse", WORK / "wheelhouse", "--json", "--quiet"]
    done = subprocess.run(words, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        refuse(done.returncode, f"{python}: the wheels are not installed and proven; the reason is above")
    answer = json.loads(done.stdout)
    proof = answer["verification"]
    return f"{len(proof['components'])} components proven, torch {proof['torch']}"


def main() -> None:
    """Checks every interpreter; ends at the first failure."""
    given = named(sys.argv[1:])
    shutil.rmtree(WORK, ignore_errors=True)
    tool = Path(sys.executable).with_name("mambaport")
    words = [tool, "build", "-p", PROFILE, "-o", WORK / "wheelhouse", "--quiet"]
    if (code := subprocess.run(words, check=False).returncode) != 0:
        raise SystemExit(code)
    tags, _ = prepare(WORK / "files")
    rows = [
        (str(path), checked([path], str(WORK / "files"), tags), proven(path))
        for path in dict.fromkeys(given or local())
    ]
    if not given and os.geteuid() == 0 and shutil.which("mmdebstrap"):
        for suite in SUITES:
            if (made := of_debian(suite)) is not None:
                root, words = made
                prepare(root / "files")
                rows.append((f"Debian {suite}", checked(words, "/files", tags), "no torch here"))
    if not rows:
        refuse(12, "no CPython from 3.10 on was found: name some, such as PYTHONS=/opt/python/bin/python3")
    for place, found, proof in rows:
        threads = ", free-threaded" if found["free_threaded"] else ""
        print(f"python   {found['python']}{threads}  {place}: tag, modules, kernels; {proof}", flush=True)
    first = rows[0][1]["kernels"]
    for place, found, _ in rows:
        if found["kernels"] != first:
            refuse(16, f"the kernels' bits on {place} are not those on {rows[0][0]}")
    had = {".".join(found["python"].split(".")[:2]) + "t" * found["free_threaded"] for _, found, _ in rows}
    missing = [name for name in ("3.10", "3.11", "3.12", "3.13", "3.14", "3.14t") if name not in had]
    print(f"✓ {', '.join(tags[:1])} on {len(rows)} interpreters; not here: {', '.join(missing) or 'none'}")


if __name__ == "__main__":
    main()
