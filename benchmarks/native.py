"""Candidates that are C programs, built when wanted: the arithmetic limit, and llama.cpp's own scan."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
KERNEL_HEADERS = HERE.parent / "patches" / "shared" / "kernel-build" / "csrc" / "cpu"
# llama.cpp's source travels in this package; nothing of it is kept here.
GGML_SDIST = "llama-cpp-python==0.3.36"


def roofline(folder: Path) -> Callable[[int, int, int], float]:
    """Milliseconds that a scan's exponentials, multiply-adds and loads take with nothing between them."""
    program = _compile(folder, "roofline", "-march=native", f"-I{KERNEL_HEADERS}", "-pthread", "-lm")
    return lambda dim, seqlen, threads: _run(program, dim, seqlen, threads)


def ggml_scan(folder: Path) -> Callable[[int, int, int], float]:
    """Milliseconds of ggml_ssm_scan, whose inputs are ready and whose gate and D are left out."""
    build = folder / "ggml"
    if not (build / "src" / "libggml-cpu.so").exists():
        _build_ggml(folder, build)
    (include,) = folder.glob("llama_cpp_python-*/vendor/llama.cpp/ggml/include")
    libraries = [f"-L{build / 'src'}", f"-Wl,-rpath,{build / 'src'}", "-lggml-cpu", "-lggml-base", "-lm"]
    program = _compile(folder, "ggml_scan", f"-I{include}", *libraries)
    return lambda dim, seqlen, threads: _run(program, dim, seqlen, threads)


def _build_ggml(folder: Path, build: Path) -> None:
    for tool in ("cmake", "ninja"):
        if not shutil.which(tool):
            raise RuntimeError(f"{tool} is not installed")
    name = GGML_SDIST.partition("=")[0]
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", name]
    _quietly([*pip, "-d", str(folder), GGML_SDIST])
    (archive,) = folder.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    source = archive.with_suffix("").with_suffix("") / "vendor" / "llama.cpp" / "ggml"
    (source / "ggml.pc.in").touch()  # the sdist leaves it out, and CMake asks for it
    options = ("CMAKE_BUILD_TYPE=Release", "GGML_OPENMP=OFF", "GGML_STANDALONE=ON", "BUILD_SHARED_LIBS=ON")
    options += ("GGML_BUILD_TESTS=OFF", "GGML_BUILD_EXAMPLES=OFF", "GGML_NATIVE=ON")
    _quietly(
        ["cmake", "-S", str(source), "-B", str(build), "-G", "Ninja", *(f"-D{option}" for option in options)]
    )
    _quietly(["cmake", "--build", str(build)])


def _compile(folder: Path, name: str, *flags: str) -> Path:
    program = folder / name
    _quietly(["cc", "-O3", "-std=gnu11", str(HERE / f"{name}.c"), "-o", str(program), *flags])
    return program


def _run(program: Path, *arguments: int) -> float:
    command = [str(program), *map(str, arguments)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _quietly(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-400:]}")
