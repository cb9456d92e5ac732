"""Candidates that are C programs, built when wanted: the arithmetic limit, and llama.cpp."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import Clocked

HERE = Path(__file__).parent
KERNEL_HEADERS = HERE.parent / "kernels" / "csrc" / "common"
# llama.cpp's source travels in this package; nothing of it is kept here.
LLAMA_SDIST = "llama-cpp-python==0.3.36"
LLAMA_OPTIONS = (
    "CMAKE_BUILD_TYPE=Release", "BUILD_SHARED_LIBS=ON", "GGML_NATIVE=ON",
    *(f"LLAMA_BUILD_{part}=OFF" for part in ("COMMON", "TESTS", "TOOLS", "EXAMPLES", "SERVER", "APP")),
)  # fmt: skip


class Program:
    """A program that answers each line on its input with one run: the milliseconds, and what else it says."""

    def __init__(self, *command: object) -> None:
        words = [str(word) for word in command]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, line: str = "") -> list[float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().split()
        if not answer:
            raise RuntimeError(f"{self._process.args[0]} ended with exit status {self._process.wait()}")
        return [float(word) for word in answer]

    def candidate(self, line: str = "") -> Clocked:
        return Clocked(lambda: self(line)[0])


Scan = Callable[[int, int, int], Program]


def roofline(folder: Path) -> Scan:
    """A scan's exponentials, multiply-adds and loads, and no more, for (dim, seqlen) on one core."""
    program = _compile(folder, "roofline", "-march=native", f"-I{KERNEL_HEADERS}", "-lm")
    return lambda dim, seqlen, _threads: Program(program, dim, seqlen)


def reader(folder: Path) -> Path:
    """A program that reads so many bytes on so many threads, and computes nothing of them."""
    return _compile(folder, "read", "-march=native", "-pthread")


def ggml_scan(folder: Path) -> Scan:
    """ggml_ssm_scan, whose inputs are ready and whose gate and D are left out, for (dim, seqlen, threads)."""
    source, built = _llama(folder, "ggml")
    libraries = (f"-L{built}", f"-Wl,-rpath,{built}", "-lggml-cpu", "-lggml-base", "-lm")
    program = _compile(folder, "ggml_scan", f"-I{source / 'ggml' / 'include'}", *libraries)
    return lambda *sizes: Program(program, *sizes)


def llama(folder: Path) -> tuple[Path, Path]:
    """llama.cpp as a program (see llama.c), and the folder of its gguf package."""
    source, built = _llama(folder, "llama")
    includes = (f"-I{source / 'include'}", f"-I{source / 'ggml' / 'include'}")
    libraries = (f"-L{built}", f"-Wl,-rpath,{built}", "-lllama", "-lggml", "-lggml-base")
    return _compile(folder, "llama", *includes, *libraries), source / "gguf-py"


def _llama(folder: Path, target: str) -> tuple[Path, Path]:
    """Where llama.cpp's source lies, and its libraries once `target` of it is built."""
    for tool in ("cmake", "ninja"):
        if not shutil.which(tool):
            raise RuntimeError(f"{tool} is not installed")
    if not list(folder.glob("llama_cpp_python-*/vendor")):
        name = LLAMA_SDIST.partition("=")[0]
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", name]
        _quietly([*pip, "-d", str(folder), LLAMA_SDIST])
        (archive,) = folder.glob("llama_cpp_python-*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    (source,) = folder.glob("llama_cpp_python-*/vendor/llama.cpp")
    build = folder / "llama.cpp"
    options = (f"-D{option}" for option in LLAMA_OPTIONS)
    _quietly(["cmake", "-S", str(source), "-B", str(build), "-G", "Ninja", *options])
    _quietly(["cmake", "--build", str(build), "--target", target])
    return source, build / "bin"


def _compile(folder: Path, name: str, *flags: str) -> Path:
    program = folder / name
    _quietly(["cc", "-O3", "-std=gnu11", str(HERE / f"{name}.c"), "-o", str(program), *flags])
    return program


def _quietly(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-400:]}")
