"""The symbols that a torch exports: those of its libraries, kept as text in place of the libraries."""

from __future__ import annotations

import errno
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

LIBRARIES = ("libc10.so", "libc10_cuda.so", "libtorch_cpu.so", "libtorch_cuda.so")
_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym
# What pyelftools and struct raise for damaged files.
_NO_LIBRARY = (ELFError, ValueError, struct.error, OverflowError, MemoryError, AttributeError, TypeError)
_CXX11 = "NSt7__cxx1112basic_string"
# A function of libc10 with a std::string in its signature, in every torch from 1.8 on.
_STRING_FUNCTION = "torchCheckFail"


@dataclass(frozen=True)
class Exports:
    """The symbols that each library of a torch defines for others."""

    cxx11_abi: bool
    """Whether the symbols use the C++11 ABI's std::string."""
    libraries: Mapping[str, frozenset[str]]

    @property
    def symbols(self) -> frozenset[str]:
        return frozenset().union(*self.libraries.values())


def exports_of(folder: Path) -> Exports:
    """The exports of the libraries in torch's ``lib`` folder.

    Raises:
        LookupError: there is no libc10.so, or a file is not an ELF library.
    """
    tables = {
        name: frozenset(defined_symbols(folder / name)) for name in LIBRARIES if (folder / name).is_file()
    }
    if "libc10.so" not in tables:
        raise LookupError(f"no libc10.so in {folder}")
    return Exports(has_cxx11_abi(tables["libc10.so"]), tables)


def has_cxx11_abi(symbols: frozenset[str]) -> bool:
    """Whether the symbols of libc10 show that its functions take the C++11 ABI's std::string."""
    return any(_STRING_FUNCTION in name and _CXX11 in name for name in symbols)


def write_exports(exports: Exports, path: Path) -> None:
    """Writes the exports as JSON."""
    data = {
        "cxx11_abi": exports.cxx11_abi,
        "libraries": {name: sorted(symbols) for name, symbols in sorted(exports.libraries.items())},
    }
    path.write_text(json.dumps(data, indent=0), encoding="utf-8")


def read_exports(path: Path) -> Exports:
    """Reads a file that :func:`write_exports` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    tables = {name: frozenset(symbols) for name, symbols in data["libraries"].items()}
    return Exports(bool(data["cxx11_abi"]), tables)


def defined_symbols(library: Path) -> list[str]:
    """The dynamic symbols that a 64-bit little-endian library defines.

    Raises:
        LookupError: the file is not such a library.
    """
    try:
        with library.open("rb") as stream:
            elf = ELFFile(stream)
            table = elf.get_section_by_name(".dynsym")
            if table is None or elf.elfclass != 64 or not elf.little_endian:
                raise LookupError(f"{library} has no dynamic symbols")
            strings = elf.get_section(table["sh_link"]).data()
            # Not pyelftools, which makes an object of each symbol: libtorch_cpu.so has 150 000.
            entries = list(_SYMBOL.iter_unpack(table.data()))
        return [
            strings[name : strings.index(b"\0", name)].decode("ascii", "replace")
            for name, info, _other, section, _value, _size in entries
            if section != 0 and name != 0 and info >> 4 in (1, 2, 10)  # defined; global, weak or unique
        ]
    except _NO_LIBRARY as fault:
        raise LookupError(f"{library} is no ELF library: {fault}") from None
    except OSError as fault:
        if fault.errno != errno.EINVAL:  # a place before the file's begin
            raise
        raise LookupError(f"{library} is no ELF library: a header leads outside the file") from None
