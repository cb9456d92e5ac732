"""A shared library as glibc's loader sees it.

Program headers and the dynamic table decide, section headers do not. Everything is read with bounds. What the
loader would refuse, and what no linker of a wheel makes, is a ValueError or a fault of
:func:`image_faults`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

MACHINES = {183: "aarch64", 62: "x86_64", 40: "armv7l", 3: "i686"}
PAGE = 4096
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_ET_DYN, _WEAK = 3, 2
_MOST_HEADERS = 64

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_GNU_STACK = 1, 2, 3, 0x6474E551
# NULL, LOAD, DYNAMIC, NOTE, PHDR, TLS, GNU_EH_FRAME, GNU_STACK, GNU_RELRO, GNU_PROPERTY
_SEGMENTS = frozenset({0, 1, 2, 4, 6, 7, 0x6474E550, 0x6474E551, 0x6474E552, 0x6474E553})
EXECUTE, WRITE = 1, 2

DT_NEEDED, DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_STRSZ = 1, 2, 5, 6, 7, 8, 10
DT_INIT, DT_FINI, DT_JMPREL = 12, 13, 23
DT_RPATH, DT_TEXTREL, DT_INIT_ARRAYSZ, DT_FINI_ARRAYSZ = 15, 22, 27, 28
DT_RUNPATH, DT_FLAGS, DT_GNU_HASH, DT_VERSYM = 29, 30, 0x6FFFFEF5, 0x6FFFFFF0
DT_FLAGS_1, DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFFFB, 0x6FFFFFFE, 0x6FFFFFFF
# What linkers write for a library. Without AUXILIARY, FILTER, AUDIT and others that change the search.
_DYNAMIC = frozenset(
    {
        *range(21),
        DT_TEXTREL,
        *range(23, 31),
        35,
        36,
        37,
        DT_GNU_HASH,
        DT_VERSYM,
        0x6FFFFFF9,
        0x6FFFFFFA,
        DT_FLAGS_1,
    }
    | {0x6FFFFFFC, 0x6FFFFFFD, DT_VERNEED, DT_VERNEEDNUM, 0x70000001, 0x70000003, 0x70000005}
)
_DF_TEXTREL, _DF_1_KNOWN = 4, 0x1 | 0x8 | 0x80  # NOW, NODELETE, ORIGIN
_SHF_ALLOC, _SHF_EXECUTE, _SHT_NOBITS = 2, 4, 8


@dataclass(frozen=True)
class Segment:
    """One program header."""

    kind: int
    flags: int
    offset: int
    address: int
    size: int
    """Bytes in the file."""
    memory: int
    """Bytes in memory."""

    @property
    def executable(self) -> bool:
        return bool(self.flags & EXECUTE)


@dataclass(frozen=True)
class Section:
    """One section header: a name for people and debuggers; the loader reads none."""

    name: str
    kind: int
    flags: int
    address: int
    offset: int
    size: int


@dataclass(frozen=True)
class Image:
    """One ELF file.

    Raises:
        ValueError: on first use of a part that is cut off or has another layout.
    """

    content: bytes

    @cached_property
    def _header(self) -> tuple[int, ...]:
        if len(self.content) < _HEADER.size:
            raise ValueError("the ELF header is cut off")
        ident, *rest = _HEADER.unpack_from(self.content)
        if ident[4] != 2:
            raise ValueError("not a 64-bit ELF file")
        if ident[5] != 1:
            raise ValueError("not little-endian")
        if ident[6] != 1 or ident[7] not in (0, 3):
            raise ValueError(f"ELF version {ident[6]} for system {ident[7]}, not version 1 for Linux")
        return tuple(rest)

    @property
    def arch(self) -> str:
        machine = self._header[1]
        return MACHINES.get(machine, f"machine {machine}")

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        offset, size, count = self._header[4], self._header[8], self._header[9]
        if size != _PROGRAM.size or not 0 < count <= _MOST_HEADERS:
            raise ValueError(f"{count} program headers of {size} bytes")
        found = []
        for number in range(count):
            kind, flags, start, address, _, filed, memory, _ = self._unpack(_PROGRAM, offset + number * size)
            found.append(Segment(kind, flags, start, address, filed, memory))
        return tuple(found)

    @property
    def loaded(self) -> list[Segment]:
        return [part for part in self.segments if part.kind == PT_LOAD]

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The section headers; empty where there are none."""
        offset, size, count, names = self._header[5], self._header[10], self._header[11], self._header[12]
        if not offset or not count:
            return ()
        if size != _SECTION.size or names >= count:
            raise ValueError(f"{count} section headers of {size} bytes, names in number {names}")
        headers = [self._unpack(_SECTION, offset + number * size) for number in range(count)]
        texts = self._bytes(headers[names][4], headers[names][5])
        return tuple(
            Section(_text(texts, name), kind, flags, address, start, length)
            for name, kind, flags, address, start, length, *_ in headers
        )

    def section(self, name: str) -> bytes | None:
        """A section's bytes in the file; None where there is no such section."""
        found = next((part for part in self.sections if part.name == name and part.kind != _SHT_NOBITS), None)
        return None if found is None else self._bytes(found.offset, found.size)

    @cached_property
    def dynamic(self) -> tuple[tuple[int, int], ...]:
        """Tags and values of the dynamic table, up to its end mark."""
        parts = [part for part in self.segments if part.kind == PT_DYNAMIC]
        if len(parts) != 1:
            raise ValueError(f"{len(parts)} dynamic segments")
        data = self.read(parts[0].address, parts[0].size)
        found: list[tuple[int, int]] = []
        for tag, value in struct.iter_unpack("<QQ", data[: len(data) // 16 * 16]):
            if tag == 0:
                return tuple(found)
            found.append((tag, value))
        raise ValueError("the dynamic table has no end")

    def value(self, tag: int) -> int | None:
        """A dynamic tag's value; the last one counts, as for glibc."""
        return dict(self.dynamic).get(tag)

    def strings(self, tag: int) -> list[str]:
        """The strings that all entries of a dynamic tag name."""
        return [self.string(value) for kind, value in self.dynamic if kind == tag]

    @cached_property
    def _strings(self) -> bytes:
        start, size = self.value(DT_STRTAB), self.value(DT_STRSZ)
        return b"" if start is None or size is None else self.read(start, size)

    def string(self, offset: int) -> str:
        return _text(self._strings, offset)

    def read(self, address: int, size: int) -> bytes:
        """Bytes at an address, as they are in memory before relocation."""
        for part in self.loaded:
            start = address - part.address
            if start >= 0 and start + size <= part.size:
                return self._bytes(part.offset + start, size)
        raise ValueError(f"no loaded bytes at {address:#x}")

    @cached_property
    def code(self) -> tuple[tuple[int, bytes], ...]:
        """Address and bytes of everything that is executable in memory."""
        return tuple(
            (part.address, self._bytes(part.offset, part.size)) for part in self.loaded if part.executable
        )

    @cached_property
    def versions(self) -> dict[int, str]:
        """The symbol versions that it needs of other libraries, by their index: ``{2: "GLIBC_2.17"}``."""
        at, count = self.value(DT_VERNEED), self.value(DT_VERNEEDNUM) or 0
        found: dict[int, str] = {}
        for _ in range(min(count, _MOST_HEADERS) if at is not None else 0):
            assert at is not None
            _, entries, _, first, step = struct.unpack("<HHIII", self.read(at, 16))
            item = at + first
            for _ in range(entries):
                _, _, index, name, following = struct.unpack("<IHHII", self.read(item, 16))
                found[index] = self.string(name)
                item += following
            at += step
        return found

    @cached_property
    def undefined(self) -> frozenset[str]:
        """The symbols that a library without symbol versions must give; optional ones are left out.

        They are those that a relocation names: the loader looks for no others.
        """
        table, versions = self.value(DT_SYMTAB), self.value(DT_VERSYM)
        if table is None:
            return frozenset()
        found = set()
        for number in self._relocated():
            name, info, _, section, _, _ = _SYMBOL.unpack(self.read(table + number * 24, 24))
            if section == 0 and info >> 4 != _WEAK and name:
                plain = versions is None or struct.unpack("<H", self.read(versions + number * 2, 2))[0] < 2
                found |= {self.string(name)} if plain else set()
        return frozenset(found)

    def _relocated(self) -> set[int]:
        """The numbers of the symbols that relocations name."""
        found = set()
        for start, size in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
            at, length = self.value(start), self.value(size)
            if at is not None and length:
                data = self.read(at, length // 24 * 24)
                found |= {info >> 32 for _, info, _ in struct.iter_unpack("<QQq", data)}
        return found - {0}

    def _unpack(self, form: struct.Struct, offset: int) -> tuple[int, ...]:
        return form.unpack(self._bytes(offset, form.size))

    def _bytes(self, offset: int, size: int) -> bytes:
        if offset + size > len(self.content):
            raise ValueError(f"cut off: {size} bytes at {offset:#x}, the file has {len(self.content)}")
        return self.content[offset : offset + size]


def image_faults(image: Image, constructors: int | None) -> list[str]:
    """What a library of a wheel must not have, from the loader's point of view.

    Args:
        constructors: the most entries that its arrays of functions to run at load and unload may have; None
            for any number.

    Raises:
        ValueError: a part is cut off or has another layout.
    """
    return [
        *([] if image._header[0] == _ET_DYN else ["is no shared library"]),
        *_segment_faults(image),
        *_dynamic_faults(image, constructors),
        *_section_faults(image),
    ]


def _segment_faults(image: Image) -> list[str]:
    faults = []
    end = 0
    for part in image.loaded:
        if part.address < end:
            faults.append("has loaded segments that overlap or are not in order")
        end = part.address + part.memory
        if part.size > part.memory or (part.address - part.offset) % PAGE:
            faults.append(f"has a segment at {part.address:#x} that cannot be loaded")
        if part.executable and part.flags & WRITE:
            faults.append(f"has a segment at {part.address:#x} that is writable and executable")
        if part.executable and part.size != part.memory:
            faults.append(f"has an executable segment at {part.address:#x} that is not all in the file")
    kinds = [part.kind for part in image.segments]
    stacks = [part for part in image.segments if part.kind == PT_GNU_STACK]
    if len(stacks) != 1 or stacks[0].executable:
        faults.append("asks for an executable stack")
    if PT_INTERP in kinds:
        faults.append("names a program interpreter")
    faults += [f"has a program header of kind {kind:#x}" for kind in set(kinds) - _SEGMENTS - {PT_INTERP}]
    return faults


def _dynamic_faults(image: Image, constructors: int | None) -> list[str]:
    tags = [tag for tag, _ in image.dynamic]
    faults = [f"has dynamic tag {tag:#x}" for tag in sorted(set(tags) - _DYNAMIC)]
    faults += [
        f"has dynamic tag {tag:#x} twice"
        for tag in sorted(set(tags))
        if tag != DT_NEEDED and tags.count(tag) > 1
    ]
    if DT_TEXTREL in tags or (image.value(DT_FLAGS) or 0) & _DF_TEXTREL:
        faults.append("changes its code at load (text relocations)")
    if unknown := (image.value(DT_FLAGS_1) or 0) & ~_DF_1_KNOWN:
        faults.append(f"has unknown loader flags {unknown:#x}")
    for tag, what in ((DT_INIT, "initialiser"), (DT_FINI, "finaliser")):
        at = image.value(tag)
        if at is not None and not any(start <= at < start + len(code) for start, code in image.code):
            faults.append(f"has an {what} outside its code")
    for tag, what in ((DT_INIT_ARRAYSZ, "load"), (DT_FINI_ARRAYSZ, "unload")):
        count = (image.value(tag) or 0) // 8
        if constructors is not None and count > constructors:
            faults.append(
                f"runs {count} functions at {what}; a C kernel has at most {constructors}, the compiler's"
            )
    return faults


def _section_faults(image: Image) -> list[str]:
    """Section headers that contradict the segments: they decide nothing, but debuggers believe them."""
    if not image.sections:
        return ["has no section table to audit"]
    moved, data, code = [], [], []
    for part in _in_memory(image):
        home = next(
            (item for item in image.loaded if item.address <= part.address < item.address + item.memory), None
        )
        if home is None or not _placed(part, home):
            moved.append(part.name)
        elif home.executable and not part.flags & _SHF_EXECUTE:
            data.append(part.name)
        elif part.flags & _SHF_EXECUTE and not home.executable:
            code.append(part.name)
    faults = [f"has sections that are not where their headers say: {', '.join(moved)}"] if moved else []
    faults += [f"has code in a data segment: {', '.join(code)}"] if code else []
    if data:
        faults.append(
            f"has data in an executable segment: {', '.join(data)} (link with -Wl,-z,separate-code)"
        )
    return faults


def _placed(part: Section, home: Segment) -> bool:
    """Whether a section's bytes in the file are those that the segment puts at the section's address."""
    if part.kind == _SHT_NOBITS:
        return part.address + part.size <= home.address + home.memory
    inside = part.address + part.size <= home.address + home.size
    return inside and part.offset - home.offset == part.address - home.address


def _in_memory(image: Image) -> Iterator[Section]:
    for part in image.sections:
        thread_zero = part.kind == _SHT_NOBITS and part.flags & 0x400  # .tbss takes no memory of its own
        if part.flags & _SHF_ALLOC and part.size and not thread_zero:
            yield part


def _text(table: bytes, offset: int) -> str:
    end = table.find(b"\0", offset)
    if offset >= len(table) or end < 0:
        raise ValueError(f"a string at {offset:#x} is cut off")
    return table[offset:end].decode("utf-8", "replace")
