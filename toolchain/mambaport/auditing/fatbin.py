"""GPU code in a compiled file: which architectures its fat binaries hold, and whether as cubin or as PTX.

nvcc embeds all device code in ELF sections of fat binaries. Each begins with a header and holds entries, one
per architecture and kind; their headers are plain even where their content is compressed. The layout is not
documented by NVIDIA; it was read off what nvcc 12.4 and 13.0 make, and what does not follow it is an error
here, never a pass.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from mambaport.auditing.elf import Library

SECTIONS = (".nv_fatbin", "__nv_relfatbin")
_MAGIC = 0xBA55ED50
_HEADER = struct.Struct("<IHHQ")  # magic, version, size of this header, size of the entries
_ENTRY = struct.Struct("<HHIQIIHHI")  # kind, -, size of this header, size of the content, -, -, ISA, ISA, SM
_KINDS = {1: "ptx", 2: "cubin"}


@dataclass(frozen=True)
class DeviceCode:
    """One entry of a fat binary."""

    kind: str
    """``cubin``, which runs on this architecture and the later minors of its major; or ``ptx``."""
    sm: str
    """``87``"""
    size: int
    """Bytes of its content, compressed or not."""


def device_code(library: Library) -> list[DeviceCode]:
    """Everything that the fat binaries of a compiled file hold; empty where it has none.

    Raises:
        ValueError: a fat binary does not have the layout that is known.
    """
    found: list[DeviceCode] = []
    for name in SECTIONS:
        content = library.section(name)
        if content is not None:
            found += _entries(content, f"{library.name}, {name}")
    return found


def _entries(data: bytes, where: str) -> list[DeviceCode]:
    found = []
    at = 0
    try:
        while at < len(data):
            if data[at : at + 8] == bytes(8):  # padding between fat binaries
                at += 8
                continue
            magic, _version, header, size = _HEADER.unpack_from(data, at)
            if magic != _MAGIC or header < _HEADER.size:
                raise ValueError(f"{where}: no fat binary at {at:#x}")
            at += header
            end = at + size
            if end > len(data):
                raise ValueError(f"{where}: cut off, the entries should end at {end:#x}")
            while at < end:
                kind, _, header, content, _, _, _, _, sm = _ENTRY.unpack_from(data, at)
                if kind not in _KINDS or header < _ENTRY.size or not 10 <= sm < 1000:
                    raise ValueError(f"{where}: an entry at {at:#x} of kind {kind} for sm_{sm}")
                found.append(DeviceCode(_KINDS[kind], str(sm), content))
                at += header + content
            if at != end:
                raise ValueError(f"{where}: the entries end at {at:#x}, not {end:#x}")
            at = (at + 7) // 8 * 8
    except struct.error:
        raise ValueError(f"{where}: cut off at {at:#x}") from None
    return found
