"""The CUDA side of a plan: toolkit, host compiler and torch, chosen before a build begins."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mambaport.boards import find_gpu
from mambaport.cuda.toolkit import ChosenToolkit, choose_toolkit
from mambaport.cuda.torch import TargetTorch, environment_torch, pinned_torch, wheel_torch
from mambaport.digests import data_sha256
from mambaport.errors import HostError, MambaportError, UsageError
from mambaport.goal import CudaGoal, Goal
from mambaport.host import Host, Program
from mambaport.interpreter import Interpreter, read_interpreter
from mambaport.profile import CudaTarget, Profile
from mambaport.settings import Settings
from mambaport.toolchains import CudaCompiler

# Libraries of the target that an extension links to. The linker gets empty libraries in their place.
# For builds by hand, kernels/mambaport_build/config.py has the same list; a test compares the two.
STUBS = ("c10", "torch_cpu", "c10_cuda", "cudart")
# The CUDA of a machine without a toolkit, until the torch to compile for says which CUDA it needs.
UNKNOWN = "0.0"


@dataclass(frozen=True)
class CudaOptions:
    """The command line's CUDA options. None: the option was not given."""

    python: Path | None = None
    """The interpreter of an environment, whose torch the extensions are compiled for."""
    torch: str | None = None
    """A minor version of torch: ``2.6``."""
    torch_wheel: Path | None = None
    cuda_home: Path | None = None

    def given(self) -> list[str]:
        """The names of the options that were given."""
        return [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value is not None]


@dataclass(frozen=True)
class CudaTools:
    """The tools that compile extensions: nvcc and the host compiler."""

    toolkit: ChosenToolkit
    cxx: Program

    def identity(self) -> dict[str, str]:
        """The facts about the tools that decide the compiled bytes."""
        return {"nvcc": self.toolkit.identity, "host-compiler": self.cxx.identity}

    def to_json(self) -> dict[str, Any]:
        return {
            "version": self.toolkit.version,
            "nvcc": self.toolkit.release,
            "toolkit": _kind(self.toolkit.origin),
        }


@dataclass(frozen=True)
class CudaPlan:
    """The target, torch and tools of CUDA extensions."""

    goal: CudaGoal
    arch: str
    torch: TargetTorch
    found: CudaTools | HostError
    """The tools, or the error that names the missing tool; installing needs no tools."""

    @property
    def tools(self) -> CudaTools:
        """The tools.

        Raises:
            HostError: this machine lacks a tool.
        """
        if isinstance(self.found, HostError):
            raise self.found
        return self.found

    @property
    def libraries(self) -> tuple[str, ...]:
        """The SONAME of each library that the extensions will need."""
        return tuple(f"lib{name}.so" + (f".{self.goal.major}" if name == "cudart" else "") for name in STUBS)

    @property
    def label(self) -> str:
        """The end of the local version, with the fields of upstream's own wheels."""
        abi = "true" if self.torch.cxx11_abi else "false"
        return f"cu{self.goal.major}torch{self.goal.torch}cxx11abi{abi}"

    @property
    def object_key(self) -> str:
        """The part of each object's key that does not follow from sources and flags."""
        return data_sha256([self.tools.identity(), self.torch.version, self.torch.sha256])

    def key(self) -> Mapping[str, Any]:
        """All CUDA facts that decide the wheel's bytes."""
        return {**(self.found.identity() if isinstance(self.found, CudaTools) else {}), **self.to_json()}

    def to_json(self) -> dict[str, Any]:
        """The plan as data, for ``--json`` and the provenance."""
        return {
            **(self.found.to_json() if isinstance(self.found, CudaTools) else {}),
            "sm": list(self.goal.sm),
            "ptx": list(self.goal.ptx),
            "flavour": self.goal.flavour,
            "torch": self.torch.version,
            "torch_minor": self.goal.torch,
            "torch_cuda": self.torch.cuda,
            "torch_sha256": self.torch.sha256,
            "headers": _kind(self.torch.origin),
            "note": self.torch.note,
            "cxx11_abi": self.torch.cxx11_abi,
            "stubs": list(self.libraries),
        }


def _kind(origin: str) -> str:
    """An origin without the folder in it: a published wheel names no folder of the machine that built it."""
    return re.sub(r":? /.*", "", origin)


def goal_of(cuda: CudaTarget, host: Host, settings: Settings) -> CudaGoal:
    """The profile's CUDA target, with each ``host`` replaced by this machine's facts where they are known.

    Raises:
        UsageError: the profile's GPUs are this machine's, and TORCH_CUDA_ARCH_LIST has a word that is no
            architecture.
    """
    sm, ptx = cuda.sm, cuda.ptx
    if sm == ("host",):
        named, more = architectures(settings.cuda_architectures)
        sm = named or tuple(dict.fromkeys(gpu.sm for gpu in host.cuda.gpus))
        ptx = tuple(dict.fromkeys((*ptx, *more)))
    toolkit = host.cuda.toolkits[0].version if host.cuda.toolkits else UNKNOWN
    return CudaGoal(
        version=toolkit if cuda.version == "host" else cuda.version,
        sm=sm,
        ptx=ptx,
        flavour=_flavour(host) if cuda.flavour == "host" else cuda.flavour,
        torch="" if cuda.torch == "host" else cuda.torch,
    )


def architectures(words: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The SM names in words of TORCH_CUDA_ARCH_LIST (``8.7``, ``9.0+PTX``), and those with ``+PTX``.

    ``9.0a`` and ``10.0f``, which images for such GPUs set, count as 9.0 and 10.0: the letter allows
    instructions of that GPU or family alone, and these kernels have none.

    Raises:
        UsageError: a word is no architecture, such as torch's names of families.
    """
    sm, ptx = [], []
    for word in words:
        number, plus, _ = word.partition("+PTX")
        if not re.fullmatch(r"([0-9]{1,2}\.[0-9]|[0-9]{2,3})[af]?", number) or word != number + plus:
            raise UsageError(
                "TORCH_CUDA_ARCH_LIST has a word that is no GPU architecture",
                found=word,
                expected="numbers such as 8.7, with +PTX where the PTX is wanted too, divided by ; or spaces",
                hint="give the number of the GPU: `nvidia-smi --query-gpu=name,compute_cap --format=csv` "
                "prints the number; or unset the variable to build for this machine's GPUs",
            )
        sm.append(number.rstrip("af").replace(".", ""))
        ptx += sm[-1:] if plus else []
    return tuple(dict.fromkeys(sm)), tuple(dict.fromkeys(ptx))


def resolve_cuda(
    profile: Profile, goal: Goal, host: Host, compiler: CudaCompiler, options: CudaOptions
) -> CudaPlan:
    """Chooses torch, toolkit and host compiler, and checks each against the target.

    Raises:
        UsageError: an option names something that does not fit.
        HostError: there is no GPU, or no torch, to build for.
    """
    assert goal.cuda is not None
    native = compiler.native
    cuda, arch = goal.cuda, goal.arch
    if not cuda.sm:
        raise HostError(
            "No GPU was found to build for",
            found="no nvidia-smi that names one",
            expected="an NVIDIA GPU with its driver",
            hint="run this on the machine with the GPU, or name its architecture: TORCH_CUDA_ARCH_LIST=8.7",
        )
    if options.python is not None and not native:
        raise UsageError(
            "--python names an environment of this machine, and the wheels are for another machine",
            found=f"wheels for {arch}, built on {host.arch}",
            expected="--torch with a minor, or --torch-wheel with the wheel of the target's torch",
            hint="drop --python: the wheels are for every Python",
        )
    torch = _torch(profile, goal, host, options, native=native)
    if options.torch is not None and options.torch != torch.minor:
        raise UsageError(
            "--torch and the torch to compile for differ",
            found=f"torch {torch.version} ({torch.origin})",
            expected=f"torch {options.torch}",
            hint="drop --torch: the wheels are built for that torch",
        )
    version = torch.cuda if cuda.version == UNKNOWN else cuda.version
    cuda = replace(cuda, torch=torch.minor, version=version)
    _check_gpus(cuda)
    try:
        toolkit = choose_toolkit(cuda, host, options.cuda_home, native=native)
        return CudaPlan(cuda, arch, torch, CudaTools(toolkit, _host_compiler(compiler, host, toolkit)))
    except HostError as fault:
        return CudaPlan(cuda, arch, torch, fault)


def _torch(profile: Profile, goal: Goal, host: Host, options: CudaOptions, *, native: bool) -> TargetTorch:
    """The torch to compile for: that of a wheel file, that of an environment, or a pinned release.

    ``--torch`` selects a pinned release even where the profile takes this machine's torch: wheels for another
    machine. On a Jetson the device's torch is used, and ``--torch`` only states which torch is expected.
    """
    cuda = goal.cuda
    assert cuda is not None
    if options.torch_wheel is not None:
        return wheel_torch(options.torch_wheel, goal.arch, cuda)
    from_host = profile.cuda is not None and profile.cuda.torch == "host" and options.torch is None
    if native and (from_host or options.python is not None or host.cuda.jetson is not None):
        return environment_torch(_interpreter(options, host), cuda)
    return pinned_torch(goal.arch, replace(cuda, torch=options.torch or cuda.torch))


def _check_gpus(cuda: CudaGoal) -> None:
    """Refuses a GPU architecture that the CUDA version does not compile for."""
    for sm in cuda.sm:
        try:
            gpu = find_gpu(sm)
        except LookupError as fault:
            raise UsageError(
                f"There is no GPU with SM {sm}",
                found=str(fault),
                expected="architectures as torch writes them, such as 8.7 or 9.0",
                hint="correct TORCH_CUDA_ARCH_LIST",
            ) from None
        if not gpu.compiled_by(cuda.version):
            raise UsageError(
                f"CUDA {cuda.version} does not compile for sm_{sm} ({gpu.name})",
                found=f"CUDA {cuda.version}",
                expected=f"CUDA {gpu.since} or newer" + (f", {gpu.until} at most" if gpu.until else ""),
                hint="choose another torch with --torch, or another GPU with TORCH_CUDA_ARCH_LIST",
            )


def _host_compiler(compiler: CudaCompiler, host: Host, toolkit: ChosenToolkit) -> Program:
    newest = toolkit.newest_gcc
    fitting = compiler.cxx(host, newest)
    if fitting is not None:
        return fitting
    present = compiler.cxx(host)
    raise HostError(
        f"nvcc {toolkit.version} does not work with this g++",
        found=present.version if present else "none",
        expected=f"gcc {newest} or older",
        hint=compiler.install(newest),
    )


def _interpreter(options: CudaOptions, host: Host) -> Interpreter:
    """The environment with the torch to compile for: the one named, else the first with torch."""
    if options.python is not None:
        return read_interpreter(options.python.absolute(), [])
    without_torch = []
    for python in _pythons(host):
        try:
            found = read_interpreter(python, [])
        except (MambaportError, OSError):
            continue
        if found.torch is not None:
            return found
        without_torch.append(f"{python} (Python {found.version})")
    raise HostError(
        "There is no torch to compile for",
        found=f"none in {', '.join(without_torch) or 'any Python of this machine'}",
        expected="an interpreter with the torch of this machine",
        hint="name the interpreter with --python PATH, or install the torch that fits this machine first; or "
        "name a pinned torch with --torch, for example --torch 2.11",
    )


def _pythons(host: Host) -> Iterator[Path]:
    if host.virtual_env is not None:
        yield host.virtual_env / "bin" / "python"
    yield Path(sys.executable)
    yield Path(host.python_path)
    for name in ("python3", "python3.12", "python3.10"):
        path = Path("/usr/bin") / name
        if path.exists():
            yield path


def _flavour(host: Host) -> str:
    if host.cuda.jetson is not None:
        return "l4t"
    return "sbsa" if host.arch == "aarch64" else "desktop"
