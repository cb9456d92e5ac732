"""Stand-ins for the CUDA libraries of a torch that is emulated, where there is no GPU to run them on.

A CUDA torch loads 2 GB of libraries that do nothing without a GPU. In place of each stands a library of its
name that defines every symbol torch asks of it and stops the program when one is called. libcudart is the
real one: torch asks it how many GPUs there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import SymbolTableSection

from mambaport import process
from mambaport.cuda.exports import defined_symbols
from mambaport.errors import HostError

REAL = "nvidia/cu13/lib"
SYSTEM = ("lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu")


def add_stand_ins(site: Path, root: Path, compiler: str, scratch: Path) -> list[str]:
    """Puts a stand-in beside torch's libraries for each library that they need and that is nowhere.

    Args:
        site: where torch is unpacked.
        root: the system it will run in.
        compiler: a gcc for aarch64.
        scratch: an empty folder.

    Raises:
        HostError: the compiler cannot make a library.
    """
    lib = site / "torch" / "lib"
    # libcaffe2_nvrtc is loaded with the first kernel only; a stand-in for the driver would be taken for one.
    own = [path for path in sorted(lib.glob("*.so*")) if "nvrtc" not in path.name]
    real = list((site / REAL).glob("*.so*"))
    system = [path for part in SYSTEM for path in (root / part).glob("*.so*")]
    there = {path.name for path in (*own, *real, *system)}
    asked: dict[str, dict[str, set[str]]] = {}
    loose: set[str] = set()
    for path in own:
        needed, symbols = _wants(path)
        for name in needed:
            if name not in there:
                asked.setdefault(name, defaultdict(set))
        for symbol, library, version in symbols:
            if library in asked:
                asked[library][version].add(symbol)
            elif library is None:
                loose.add(symbol)
    known = {symbol for path in (*own, *real, *filter(_is_used, system)) for symbol in _defined(path)}
    for name, versions in sorted(asked.items()):
        if not versions:  # a library without versions: its symbols are among the loose ones
            versions[""] |= loose - known
        _make(lib / name, name, versions, compiler, scratch)
    return sorted(asked)


def _is_used(path: Path) -> bool:
    return path.name.startswith(
        ("libc.so", "libm.so", "libstdc++", "libgcc_s", "libdl", "libpthread", "librt")
    )


def _defined(path: Path) -> list[str]:
    try:
        return defined_symbols(path)
    except (LookupError, OSError):
        return []


def _wants(path: Path) -> tuple[list[str], list[tuple[str, str | None, str]]]:
    """The libraries that one needs, and the symbols, each with the library and version that it names."""
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        dynamic = elf.get_section_by_name(".dynamic")
        if not isinstance(dynamic, DynamicSection):
            return [], []
        needed = [str(tag.needed) for tag in dynamic.iter_tags("DT_NEEDED")]  # type: ignore[attr-defined]
        return needed, list(_undefined(elf))


def _undefined(elf: ELFFile) -> Iterator[tuple[str, str | None, str]]:
    table = elf.get_section_by_name(".dynsym")
    numbers = elf.get_section_by_name(".gnu.version")
    wanted = elf.get_section_by_name(".gnu.version_r")
    versions: dict[int, tuple[str | None, str]] = {}
    if isinstance(wanted, GNUVerNeedSection):
        for need, auxiliaries in wanted.iter_versions():
            for auxiliary in auxiliaries:
                versions[auxiliary["vna_other"]] = (need.name, auxiliary.name)
    if not isinstance(table, SymbolTableSection):
        return
    for position, symbol in enumerate(table.iter_symbols()):
        if symbol["st_shndx"] != "SHN_UNDEF" or not symbol.name or symbol["st_info"]["bind"] == "STB_WEAK":
            continue
        number = numbers.get_symbol(position)["ndx"] if isinstance(numbers, GNUVerSymSection) else 1
        library, version = versions.get(number, (None, "")) if isinstance(number, int) else (None, "")
        yield symbol.name, library, version


def _make(
    path: Path, soname: str, versions: Mapping[str, Iterable[str]], compiler: str, scratch: Path
) -> None:
    source, script = scratch / "stand-in.s", scratch / "stand-in.map"
    lines = [".text"]
    for name in sorted(symbol for symbols in versions.values() for symbol in symbols):
        lines += [f".globl {name}", f".type {name}, %function", f"{name}:"]
    source.write_text("\n".join([*lines, "udf #0", ""]), encoding="utf-8")
    parts = [
        f"{version} {{ global: {' '.join(f'{name};' for name in sorted(symbols))} }};"
        for version, symbols in sorted(versions.items())
        if version
    ]
    script.write_text("\n".join(parts), encoding="utf-8")
    words = [compiler, "-shared", "-nostdlib", f"-Wl,-soname,{soname}"]
    words += [f"-Wl,--version-script={script}"] if parts else []
    finished = process.run([*words, source, "-o", path])
    if not finished.ok:
        raise HostError(
            f"{compiler} cannot make {soname}",
            detail=finished.tail,
            hint="install its C library: sudo apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
        )
