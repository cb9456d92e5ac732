"""Wheels with CUDA extensions: their GPU architectures, CUDA's major, and what they need of torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mambaport.auditing.elf import Library
from mambaport.auditing.fatbin import DeviceCode, device_code
from mambaport.auditing.findings import Finding, judge
from mambaport.boards import newest_libstdcxx
from mambaport.cuda.exports import Exports
from mambaport.goal import CudaGoal, Goal
from mambaport.wheels import Wheel

_GLIBCXX = re.compile(r"GLIBCXX_3\.4\.(\d+)")
_CUDART = re.compile(r"libcudart\.so\.(\d+)")
_PYTHON = re.compile(r"_?Py[A-Z_]")
# What an extension takes from CUDA's runtime, which is not torch's to give.
_RUNTIME = re.compile(r"(__)?cuda[A-Z]")
_CXX11_STRING = "NSt7__cxx1112basic_string"
_OLD_STRING = "RKSs"
_SHOWN = 8


@dataclass(frozen=True)
class TargetSymbols:
    """What the target's torch exports, and what others that are at hand do."""

    torch: str
    """Version."""
    exports: Exports
    others: Mapping[str, Exports] = field(default_factory=dict)
    """Version -> exports; asked who would have a symbol that is missing."""


def cuda_findings(
    wheel: Wheel, libraries: list[Library], goal: Goal | None, symbols: TargetSymbols | None
) -> list[Finding]:
    """Findings on the CUDA extensions of a wheel; none where neither wheel nor goal has any.

    Raises:
        ValueError: a fat binary cannot be read.
    """
    code = {item.name: found for item in libraries if (found := device_code(item))}
    extensions = [item for item in libraries if item.name in code]
    target = goal.cuda if goal is not None else None
    if not extensions:
        if target is None or wheel.tag.endswith("-any"):
            return []
        return [Finding("cuda", "fail", "no CUDA extension inside", f"one for CUDA {target.major}")]
    facts = wheel.provenance().get("cuda", {})
    findings = [
        _architectures(code, target),
        _cuda_major(extensions, target),
        _flavour(facts, target),
        _python(extensions, wheel),
        _libstdcxx(extensions, goal),
    ]
    if symbols is None:
        findings.append(Finding("torch", "skip", "no torch was given to hold the symbols against (--torch)"))
    else:
        findings += [_abi(extensions, symbols), _symbols(extensions, symbols)]
    return findings


def _architectures(code: Mapping[str, list[DeviceCode]], target: CudaGoal | None) -> Finding:
    wanted = {("cubin", sm) for sm in target.sm} | {("ptx", sm) for sm in target.ptx} if target else None
    faults = []
    for name, entries in code.items():
        there = {(item.kind, item.sm) for item in entries}
        if wanted is not None:
            faults += [f"{name} has no {_entry(item)}" for item in sorted(wanted - there)]
            faults += [f"{name} has a {_entry(item)}" for item in sorted(there - wanted)]
    every = [item for entries in code.values() for item in entries]
    kinds = sorted({(item.kind, item.sm) for item in every})
    cubins = sum(item.kind == "cubin" for item in every)
    found = f"{cubins} cubins: {', '.join(_entry(item) for item in kinds)}"
    if not any(kind == "ptx" for kind, _ in kinds):
        found += ", no PTX"
    expected = "exactly " + ", ".join(_entry(item) for item in sorted(wanted)) if wanted else ""
    return judge("sm", faults, found, expected)


def _entry(item: tuple[str, str]) -> str:
    kind, sm = item
    return f"sm_{sm} cubin" if kind == "cubin" else f"compute_{sm} PTX"


def _cuda_major(extensions: list[Library], target: CudaGoal | None) -> Finding:
    needed = {
        item.name: {match[1] for name in item.needed if (match := _CUDART.fullmatch(name))}
        for item in extensions
    }
    majors = sorted(set().union(*needed.values()))
    expected = f"libcudart.so.{target.major}" if target else "one libcudart.so"
    faults = [f"{name} needs no libcudart.so" for name, found in needed.items() if not found]
    if len(majors) > 1:
        faults.append(f"several majors: {', '.join(majors)}")
    if target is not None:
        faults += [f"needs libcudart.so.{major}" for major in majors if major != str(target.major)]
    return judge("cuda", faults, f"CUDA {', '.join(majors)}", expected)


def _flavour(facts: Mapping[str, object], target: CudaGoal | None) -> Finding:
    """Whose CUDA it is for. The bytes do not tell; whoever built it does."""
    said = facts.get("flavour")
    if said is None:
        return Finding("flavour", "skip", "not said: built elsewhere")
    faults = [f"built for {said}"] if target is not None and said != target.flavour else []
    names = {"l4t": "Jetson (L4T)", "sbsa": "aarch64 server (SBSA)", "desktop": "x86-64"}
    return judge("flavour", faults, names.get(str(said), str(said)), target.flavour if target else "")


def _python(extensions: list[Library], wheel: Wheel) -> Finding:
    """A wheel serves every Python where its extensions take nothing from one."""
    faults = []
    for item in extensions:
        symbols = sorted(name for name in item.undefined if _PYTHON.match(name))
        libraries = [name for name in item.needed if "python" in name]
        if found := [*libraries, *symbols[:_SHOWN]]:
            faults.append(f"{item.name} needs {', '.join(found)}")
    tag = wheel.tag.rpartition("-")[0]
    if tag != "py3-none":
        faults.append(f"the wheel is for {tag}")
    return judge("python", faults, "every Python", "no symbols of Python, and the tag py3-none")


def _libstdcxx(extensions: list[Library], goal: Goal | None) -> Finding:
    newest = {
        item.name: max(
            (int(match[1]) for name in item.versions if (match := _GLIBCXX.fullmatch(name))), default=0
        )
        for item in extensions
    }
    needs = f"needs GLIBCXX_3.4.{max(newest.values())}"
    if goal is None:
        return Finding("libstdc++", "pass", needs)
    ceiling = newest_libstdcxx(goal.glibc)
    faults = [f"{name} needs GLIBCXX_3.4.{number}" for name, number in newest.items() if number > ceiling]
    return judge(
        "libstdc++",
        faults,
        f"{needs}, target has GLIBCXX_3.4.{ceiling}",
        f"nothing newer than GLIBCXX_3.4.{ceiling}, which comes with glibc {goal.glibc}",
    )


def _abi(extensions: list[Library], symbols: TargetSymbols) -> Finding:
    wanted = "C++11" if symbols.exports.cxx11_abi else "pre-C++11"
    foreign = _OLD_STRING if symbols.exports.cxx11_abi else _CXX11_STRING
    faults = []
    for item in extensions:
        count = sum(foreign in name for name in _from_torch(item))
        if count:
            faults.append(f"{item.name} takes {count} symbols of the other ABI")
    expected = f"std::string of the {wanted} ABI, as torch {symbols.torch} has it"
    return judge("c++ abi", faults, f"{wanted}, as torch {symbols.torch}", expected)


def _symbols(extensions: list[Library], symbols: TargetSymbols) -> Finding:
    there = symbols.exports.symbols
    total = 0
    faults: list[str] = []
    missing: set[str] = set()
    for item in extensions:
        wanted = _from_torch(item)
        total += len(wanted)
        lost = sorted(wanted - there)
        missing |= set(lost)
        faults += [f"{item.name} needs {name}" for name in lost[:_SHOWN]]
        if len(lost) > _SHOWN:
            faults.append(f"and {len(lost) - _SHOWN} more")
    if missing:
        having = [version for version, other in symbols.others.items() if missing <= other.symbols]
        faults.append(
            f"torch {', '.join(having)} has them all" if having else "no torch at hand has them all"
        )
    found = f"{total} symbols, all in torch {symbols.torch}"
    return judge("torch", faults, found, f"every symbol exported by torch {symbols.torch}")


def _from_torch(library: Library) -> frozenset[str]:
    """The symbols that only torch can give: undefined, without a system library's version, not optional."""
    return frozenset(name for name in library.undefined if not _RUNTIME.match(name))
