"""From a library to the commands that make it: one unit per source, and one link.

Every path in a command is relative to the tree: folders outside it, such as torch's headers, are reached through links
in the build folder. So no path of this machine gets into an object, and a compiler cache finds the same unit again
from any folder and any machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mambaport_build.config import BuildConfig, CudaConfig
from mambaport_build.libraries import INSTRUCTION_SETS, OPERATORS, ZIG_OPTIONS, CudaLibrary, KernelLibrary

KERNEL_FLAGS = (
    "-std=gnu11",
    "-O3",
    "-fPIC",
    "-pthread",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",  # where a multiply-add is fused is written in the source: the same bits from each compiler
    "-Wall",
    "-Wextra",
)
# No build id: two linkers that agree on everything else would give different ones. Symbols are for debuggers only.
KERNEL_LINK_FLAGS = ("-shared", "-pthread", "-Wl,--build-id=none", "-Wl,-z,now", "-Wl,-z,defs", "-s")
# What torch's BuildExtension adds and upstream does not take back.
TORCH_FLAGS = ("-DNDEBUG", "-D__CUDA_NO_HALF2_OPERATORS__")
CUDA_LINK_FLAGS = (
    "-shared",
    "-Wl,--no-as-needed",
    "-Wl,--enable-new-dtags",
    "-Wl,--build-id=none",
    "-Wl,-z,now",
    "-Wl,-z,separate-code",  # the audit reads all that is executable
    "-s",
)
KERNEL_MIB = 256
CXX_MIB = 1536


@dataclass(frozen=True)
class Unit:
    """One source and how it is compiled."""

    source: Path
    object: Path
    command: tuple[str, ...]
    """All words but those that name the source, the object and the file of dependencies."""
    memory_mib: int


@dataclass(frozen=True)
class Link:
    """One shared library and how it is linked."""

    output: Path
    objects: tuple[Path, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    """Words before and after the objects."""


def kernel_units(library: KernelLibrary, output: Path, folder: Path, config: BuildConfig) -> tuple[list[Unit], Link]:
    """The units of a library of CPU kernels. CC, CFLAGS and LDFLAGS of the environment say with what."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    more = shlex.split(os.environ.get("CFLAGS", ""))
    machine = _machine([*compiler, *more])  # --target may stand in CFLAGS
    flags = [*KERNEL_FLAGS, *_target_flags(machine), *more]
    start = (*_cached(compiler, folder, config), *flags)
    sets = dict(INSTRUCTION_SETS.get(machine, {"base": ()}))
    if Path(compiler[0]).name == "zig":
        sets = {name: (*options, *ZIG_OPTIONS.get(name, ())) for name, options in sets.items()}
    chosen = OPERATORS.get(machine, {})
    units = []
    for owner, operators in ((library, library.operators), *library.lenders):
        headers, objects = [f"-I{path.as_posix()}" for path in owner.folders], folder / owner.name
        units += [
            Unit(
                source,
                objects / f"{source.stem}_{name}.o",
                (*_for_set(start, options), *headers, f"-DISA={name}", *options),
                KERNEL_MIB,
            )
            for source in operators
            for name, options in sets.items()
            if source.stem in chosen.get(name, {source.stem})
        ]
    words = (*start, *(f"-I{path.as_posix()}" for path in library.folders))
    units += [Unit(source, folder / library.name / f"{source.stem}.o", words, KERNEL_MIB) for source in library.sources]
    sections = _sections(folder, chosen) if machine == "aarch64" else []  # the audit reads those of aarch64 alone
    after = (*KERNEL_LINK_FLAGS, *sections, *shlex.split(os.environ.get("LDFLAGS", "")), "-lm")
    return units, Link(output, tuple(unit.object for unit in units), (*compiler, *flags), after)


def _for_set(words: Sequence[str], options: Sequence[str]) -> Iterator[str]:
    """A compiler's words without a choice of the CPU that the options of an instruction set replace."""
    choices = ("-mcpu=", "-march=")
    replaced = choices if any(option.startswith(choices) for option in options) else ()
    return (word for word in words if not word.startswith(replaced))


def _sections(folder: Path, sets: Iterable[str]) -> list[str]:
    """Linker options that give the code of each of these sets an ELF section, such as ``mambaport_dotprod``.

    The audit allows a set's instructions in its section alone (``kernels/wheels.toml``). The linker places the code,
    so no function of an operator can be forgotten.
    """
    lines = [f"  mambaport_{name} : {{ *_{name}.o(.text .text.*) }}" for name in sets]
    if not lines:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "sections.ld"
    _write(script, "\n".join(["SECTIONS {", *lines, "}", "INSERT AFTER .text;", ""]))
    return [f"-Wl,-T,{script.as_posix()}"]


def cuda_units(library: CudaLibrary, output: Path, folder: Path, config: BuildConfig) -> tuple[list[Unit], Link]:
    """The units of a library for torch with CUDA, and what they need beside them in `folder`.

    Raises:
        SystemExit: the C++ compiler is not one word.
    """
    cuda = config.cuda
    assert cuda is not None
    objects = folder / library.name
    objects.mkdir(parents=True, exist_ok=True)
    home = _linked(folder, "cuda", cuda.home)
    headers = [_linked(folder, f"torch-{index}", path) for index, path in enumerate(cuda.include_dirs)]
    headers += [path for path in (home / "include", home / "include" / "cccl") if path.is_dir()]
    common = [
        f"-std={cuda.cxx_standard}",
        *TORCH_FLAGS,
        f"-DTORCH_EXTENSION_NAME={library.name}",
        f"-D_GLIBCXX_USE_CXX11_ABI={cuda.cxx11_abi}",
        *(f"-I{path}" for path in library.include_dirs),
    ]
    outside = [word for path in headers for word in ("-isystem", path.as_posix())]
    cxx = shlex.split(cuda.cxx)
    if len(cxx) != 1:  # nvcc's -ccbin takes one program
        raise SystemExit(
            f"CXX={cuda.cxx} has {len(cxx)} words: name one program without options, since nvcc takes no others"
        )
    host = ["-fPIC", "-fno-canonical-system-headers", *_target_flags(_machine(cxx, "CXX", "C++"))]
    units = []
    for source in map(Path, library.sources):
        made = objects / f"{source.stem}.o"
        if source.suffix == ".cu":
            nvcc = [(home / "bin" / "nvcc").as_posix(), "-ccbin", *cxx]
            flags = [*common, "-Xcompiler", ",".join(host), *library.nvcc_flags]
            words = [*nvcc, *flags, *cuda.gencode, *_local_names(source, objects, cuda), *outside]
            units.append(Unit(source, made, _nvcc_command(words, source, made, library, config), library.memory_mib))
        else:
            flags = [*common, *host, *library.cxx_flags]
            units.append(Unit(source, made, (*_cached(cxx, folder, config), *flags, *outside), CXX_MIB))
    after = (
        *CUDA_LINK_FLAGS,
        *(f"-L{path}" for path in cuda.library_dirs),
        *(f"-l{name}" for name in cuda.libraries),
    )
    return units, Link(output, tuple(unit.object for unit in units), tuple(cxx), after)


def _cached(compiler: Sequence[str], folder: Path, config: BuildConfig) -> tuple[str, ...]:
    """The compiler's words behind the compiler cache, where there is one."""
    if not config.launcher or Path(compiler[0]).name != "zig":
        return (*config.launcher, *compiler)
    # sccache takes "zig cc" for no compiler. This script it takes for clang, and keeps objects by the script's text.
    version = subprocess.run([compiler[0], "version"], capture_output=True, text=True, check=True).stdout.strip()
    script = folder / "zig_cc"
    script.write_text(f'#!/bin/sh\n# zig {version}\nexec "$MAMBAPORT_ZIG" cc "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return ("env", f"MAMBAPORT_ZIG={compiler[0]}", *config.launcher, f"./{script}", *compiler[2:])


def _nvcc_command(
    words: Sequence[str], source: Path, made: Path, library: CudaLibrary, config: BuildConfig
) -> tuple[str, ...]:
    """nvcc's command; with a compiler cache, behind ``nvcc_unit``, which shows nvcc to the cache as a C++ compiler."""
    assert config.cuda is not None
    threads = ["--threads", str(config.cuda.nvcc_threads)] if config.cuda.nvcc_threads > 1 else []
    if not config.launcher:
        return (*words, *threads)
    wrapper = made.with_name("nvcc_unit")
    if not wrapper.exists():
        host = Path(config.cuda.cxx).name
        text = Path(__file__).with_name("nvcc_unit.py").read_text(encoding="utf-8")
        wrapper.write_text(text.replace('HOST_COMPILER = "g++"', f'HOST_COMPILER = "{host}"'), encoding="utf-8")
        wrapper.chmod(0o755)
    headers = sorted(
        path
        for folder in library.include_dirs
        for pattern in ("*.h", "*.cuh", "*.hpp")
        for path in Path(folder).rglob(pattern)
    )
    unit = made.with_suffix(".json")
    decides = {
        "words": list(words),
        "identity": config.cuda.identity,
        "files": [path.as_posix() for path in (source, *headers)],
    }
    unit.write_text(json.dumps({**decides, "threads": threads}, indent=1), encoding="utf-8")
    return ("env", f"MAMBAPORT_NVCC_UNIT={unit}", *config.launcher, f"./{wrapper}", "-x", "c++")


def _local_names(source: Path, folder: Path, cuda: CudaConfig) -> list[str]:
    """Options that make nvcc name what is local to a file by the file, wherever and whenever it is compiled.

    Left alone, nvcc makes such names of the source's absolute path, and, where the file defines no function of its
    own, of a process id and a random number.
    """
    if int(cuda.version.partition(".")[0]) < 12:  # not known to take these options
        return []
    header = folder / f"{source.stem}.name.h"
    function = re.sub(r"\W", "_", source.as_posix())
    _write(header, f'__attribute__((visibility("hidden"))) void cuda_object_{function}() {{}}\n')
    return ["-Xcudafe", f"--orig_src_path_name={source.as_posix()}", "-include", header.as_posix()]


def _write(path: Path, text: str) -> None:
    """Writes a file where its text changes: ninja goes by the time of the last change."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _linked(folder: Path, name: str, target: str) -> Path:
    """A link in the build folder to a folder outside the tree."""
    link = folder / name
    if link.is_symlink():
        link.unlink()
    link.symlink_to(Path(target).absolute())
    return link


def _machine(compiler: Sequence[str], variable: str = "CC", language: str = "C") -> str:
    """The architecture that `compiler` compiles for, such as ``aarch64``; it need not be that of this machine."""
    try:
        answer = subprocess.run([*compiler, "-dumpmachine"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit(
            f"the {language} compiler {compiler[0]!r} was not found: install one, or name one in {variable}"
        ) from None
    except OSError as fault:  # a folder, a file that is no program
        raise SystemExit(
            f"the {language} compiler {compiler[0]!r} does not run: {fault.strerror}; name a program in {variable}"
        ) from None
    return answer.stdout.partition("-")[0]


def _target_flags(machine: str) -> list[str]:
    # gcc would otherwise link in helpers that hold LSE atomics, which a Cortex-A72 does not have.
    return ["-mno-outline-atomics"] if machine == "aarch64" else []
