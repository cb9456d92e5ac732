"""Stand-ins: libraries that define what an emulated torch asks of CUDA, and nothing that is there already."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection

from mambaport.cuda.exports import defined_symbols
from mambaport.verifying.stand_ins import add_stand_ins

GCC = shutil.which("aarch64-linux-gnu-gcc")
pytestmark = pytest.mark.skipif(GCC is None, reason="no aarch64-linux-gnu-gcc")


def library(path: Path, source: str, *flags: str | Path) -> Path:
    """A real aarch64 library."""
    assert GCC is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    words: list[str | Path] = [
        GCC,
        "-shared",
        "-fPIC",
        "-nostdlib",
        f"-Wl,-soname,{path.name}",
        "-o",
        path,
        "-x",
        "c",
        "-",
        "-x",
        "none",
    ]
    subprocess.run([*words, *flags], input=source, text=True, check=True)
    return path


def versions(path: Path) -> set[str]:
    with path.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(".gnu.version_d")
        if not isinstance(section, GNUVerDefSection):
            return set()
        return {next(iter(names)).name for _number, names in section.iter_versions()}


def test_each_missing_library_gets_the_symbols_and_versions_asked_of_it(tmp_path: Path) -> None:
    real = tmp_path / "real"
    script = tmp_path / "blas.map"
    script.write_text("libblas.so.13 { global: multiply; };")
    blas = library(real / "libblas.so.13", "void multiply(void) {}\n", f"-Wl,--version-script={script}")
    plain = library(real / "libplain.so.2", "void reduce(void) {}\n")
    site, root = tmp_path / "site", tmp_path / "root"
    own = library(site / "torch/lib/libown.so", "void helper(void) {}\n")
    library(site / "nvidia/cu13/lib/libcudart.so.13", "void launch(void) {}\n")
    source = "".join(f"void {name}(void);\n" for name in ("multiply", "reduce", "helper", "launch"))
    source += "__attribute__((weak)) void maybe(void);\n"
    source += "void torch(void) { multiply(); reduce(); helper(); launch(); if (maybe) maybe(); }\n"
    cudart = site / "nvidia/cu13/lib/libcudart.so.13"
    library(site / "torch/lib/libtorch.so", source, "-Wl,--no-as-needed", blas, plain, own, cudart)
    (tmp_path / "scratch").mkdir()
    assert add_stand_ins(site, root, str(GCC), tmp_path / "scratch") == ["libblas.so.13", "libplain.so.2"]
    made = site / "torch/lib"
    assert defined_symbols(made / "libplain.so.2") == ["reduce"]
    assert "multiply" in defined_symbols(made / "libblas.so.13")
    assert "libblas.so.13" in versions(made / "libblas.so.13")
    assert not versions(made / "libplain.so.2")


def test_a_torch_that_misses_nothing_gets_nothing(tmp_path: Path) -> None:
    library(tmp_path / "site/torch/lib/libtorch.so", "void torch(void) {}\n")
    assert add_stand_ins(tmp_path / "site", tmp_path / "root", str(GCC), tmp_path) == []
