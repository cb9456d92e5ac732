"""Compiled files in a wheel: architecture, the glibc they need, the libraries they name."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import dataclass
from functools import cached_property

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import Symbol, SymbolTableSection

from mambaport.auditing.findings import Finding, judge
from mambaport.goal import Goal
from mambaport.wheels import Wheel

MACHINES = {"EM_AARCH64": "aarch64", "EM_X86_64": "x86_64", "EM_ARM": "armv7l", "EM_386": "i686"}
# What every glibc system has. Anything else would have to be in the wheel, or is not on the device.
SYSTEM_LIBRARIES = re.compile(
    r"(libc|libm|libdl|librt|libpthread)\.so\.[0-9]+|libgcc_s\.so\.1|ld-linux-(aarch64\.so\.1|x86-64\.so\.2)"
)
# What an extension of torch takes from torch and from CUDA, which are on the device already.
GPU_LIBRARIES = re.compile(
    r"lib(c10|c10_cuda|torch|torch_cpu|torch_cuda)\.so|libcudart\.so\.[0-9]+|libstdc\+\+\.so\.6"
)
_GLIBC = re.compile(r"GLIBC_(\d+)\.(\d+)")
_NO_VERSION = ("VER_NDX_LOCAL", "VER_NDX_GLOBAL")
_PACKED_RELOCATIONS = (2, 36)  # the first glibc that loads them


@dataclass(frozen=True)
class Library:
    """One ELF file of a wheel."""

    name: str
    content: bytes

    @cached_property
    def elf(self) -> ELFFile:
        return ELFFile(io.BytesIO(self.content))

    @property
    def arch(self) -> str:
        machine = str(self.elf["e_machine"])
        return MACHINES.get(machine, machine)

    @cached_property
    def needed(self) -> list[str]:
        return [tag.needed for tag in self._tags("DT_NEEDED")]

    @cached_property
    def run_paths(self) -> list[str]:
        return [tag.rpath for tag in self._tags("DT_RPATH")] + [
            tag.runpath for tag in self._tags("DT_RUNPATH")
        ]

    @cached_property
    def has_gpu_code(self) -> bool:
        return self.elf.get_section_by_name(".nv_fatbin") is not None

    @property
    def has_rpath(self) -> bool:
        return bool(self._tags("DT_RPATH"))

    @cached_property
    def versions(self) -> list[str]:
        """The symbol versions that it needs of other libraries: ``GLIBC_2.17``, ``GLIBCXX_3.4.21``."""
        sections = [part for part in self.elf.iter_sections() if isinstance(part, GNUVerNeedSection)]
        return [
            str(version.name)
            for section in sections
            for _library, versions in section.iter_versions()
            for version in versions
        ]

    @cached_property
    def glibc(self) -> tuple[int, int]:
        """The newest glibc that it needs a symbol of."""
        newest = (0, 0)
        for name in self.versions:
            if name == "GLIBC_ABI_DT_RELR":
                newest = max(newest, _PACKED_RELOCATIONS)
            elif match := _GLIBC.fullmatch(name):
                newest = max(newest, (int(match[1]), int(match[2])))
        return newest

    @cached_property
    def undefined(self) -> frozenset[str]:
        """The symbols that it must be given by a library without symbol versions; optional ones left out."""
        table = self.elf.get_section_by_name(".dynsym")
        if not isinstance(table, SymbolTableSection):
            return frozenset()
        section = self.elf.get_section_by_name(".gnu.version")
        versions = section if isinstance(section, GNUVerSymSection) else None

        def wanted(number: int, symbol: Symbol) -> bool:
            plain = versions is None or versions.get_symbol(number)["ndx"] in _NO_VERSION
            undefined = symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_WEAK"
            return bool(symbol.name) and undefined and plain

        names = (str(item.name) for number, item in enumerate(table.iter_symbols()) if wanted(number, item))
        return frozenset(names)

    @property
    def executable_stack(self) -> bool:
        stacks = [part for part in self.elf.iter_segments() if part["p_type"] == "PT_GNU_STACK"]
        return any(part["p_flags"] & 1 for part in stacks)

    def _tags(self, kind: str) -> list:  # type: ignore[type-arg]
        sections = [part for part in self.elf.iter_sections() if isinstance(part, DynamicSection)]
        return [tag for section in sections for tag in section.iter_tags(kind)]


def read_libraries(archive: zipfile.ZipFile) -> list[Library]:
    """Every ELF file in a wheel, whatever it is called."""
    libraries = []
    for item in archive.infolist():
        if item.is_dir():
            continue
        with archive.open(item) as stream:
            if stream.read(4) != b"\x7fELF":
                continue
        libraries.append(Library(item.filename, archive.read(item)))
    return libraries


def elf_findings(wheel: Wheel, libraries: list[Library], goal: Goal | None) -> list[Finding]:
    """Findings on architecture, glibc and needed libraries.

    Raises:
        ELFError: a compiled file cannot be read.
    """
    platform = wheel.tag.rsplit("-", 1)[1]
    return [
        _architecture(libraries, platform, goal),
        _glibc(libraries, goal),
        _needed(libraries),
    ]


def _architecture(libraries: list[Library], platform: str, goal: Goal | None) -> Finding:
    tagged = (
        "any" if platform == "any" else next((a for a in MACHINES.values() if platform.endswith(a)), platform)
    )
    expected = f"compiled files for {tagged}, as the tag {platform} says"
    faults = [f"{item.name} is for {item.arch}" for item in libraries if item.arch != tagged]
    # The platform part of a name such as x.cpython-310-x86_64-linux-gnu.so is what Python looks for.
    faults += [
        f"{item.name} is named for {arch}"
        for item in libraries
        for arch in ("x86_64", "aarch64")
        if f"-{arch}-linux-gnu" in item.name and arch != tagged
    ]
    # Everything below reads sections; the loader does not need them.
    faults += [
        f"{item.name} has no section table to audit" for item in libraries if not item.elf.num_sections()
    ]
    if tagged != "any" and not libraries:
        faults.append(f"nothing compiled is inside, although the tag is {platform}")
    if goal is not None and tagged not in ("any", goal.arch):
        faults.append(f"the wheel is for {tagged}, the profile for {goal.arch}")
        expected = f"a wheel for {goal.arch}"
    names = ", ".join(item.name.rsplit("/", 1)[-1] for item in libraries)
    return judge(
        "arch", faults, f"{tagged}: {names}" if names else "nothing compiled, runs anywhere", expected
    )


def _glibc(libraries: list[Library], goal: Goal | None) -> Finding:
    newest = max((item.glibc for item in libraries), default=(0, 0))
    needs = f"needs glibc {newest[0]}.{newest[1]}" if newest > (0, 0) else "needs no particular glibc"
    if goal is None:
        return Finding("glibc", "pass", needs)
    floor = tuple(int(part) for part in goal.glibc.split("."))
    faults = [
        f"{item.name} needs glibc {item.glibc[0]}.{item.glibc[1]}" for item in libraries if item.glibc > floor
    ]
    return judge(
        "glibc", faults, f"{needs}, target has {goal.glibc}", f"nothing newer than glibc {goal.glibc}"
    )


def _needed(libraries: list[Library]) -> Finding:
    def allowed(item: Library, name: str) -> bool:
        return bool(SYSTEM_LIBRARIES.fullmatch(name) or (item.has_gpu_code and GPU_LIBRARIES.fullmatch(name)))

    inside = {item.name.rsplit("/", 1)[-1] for item in libraries}
    faults = [
        f"{item.name} needs {name}"
        for item in libraries
        for name in item.needed
        if name not in inside and not allowed(item, name)
    ]
    faults += [
        f"{item.name} looks for libraries in {path}"
        for item in libraries
        for paths in item.run_paths
        for path in paths.split(":")
        if not path.startswith("$ORIGIN")
    ]
    faults += [f"{item.name} asks for an executable stack" for item in libraries if item.executable_stack]
    needed = sorted({name for item in libraries for name in item.needed})
    expected = "libraries that every glibc system has, and for CUDA extensions torch's and CUDA's"
    return judge("needed", faults, ", ".join(needed) or "nothing", expected)
