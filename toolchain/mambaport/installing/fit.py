"""Whether a wheel with CUDA extensions fits an environment: its torch, its CUDA, its GPU."""

from __future__ import annotations

from collections.abc import Sequence

from packaging.version import Version
from pydantic import BaseModel

from mambaport.boards import Sm, runs_on
from mambaport.cuda.machine import Gpu
from mambaport.errors import InstallError
from mambaport.interpreter import Interpreter
from mambaport.models import validate
from mambaport.wheels import Wheel


class _Facts(BaseModel):
    """The facts about a wheel's CUDA extensions in its provenance."""

    version: str
    sm: tuple[Sm, ...]
    ptx: tuple[Sm, ...] = ()
    torch_minor: str
    torch_cuda: str | None = None


def check_fit(wheels: Sequence[Wheel], target: Interpreter, gpus: Sequence[Gpu]) -> None:
    """Compares what the wheels were built for with the environment and this machine's GPUs.

    Raises:
        InstallError: a wheel cannot work in the environment; the error has every reason.
    """
    reasons = [f"{wheel.path.name}: {reason}" for wheel in wheels for reason in misfits(wheel, target, gpus)]
    if reasons:
        raise unfit(reasons, target)


def unfit(reasons: Sequence[str], target: Interpreter) -> InstallError:
    """The error for wheels that are for another environment."""
    torch = f"torch {target.torch.version}" if target.torch else "no torch"
    return InstallError(
        "The wheels do not fit this environment",
        found="\n".join(reasons),
        expected=f"wheels for {torch}: {target.prefix}",
        hint="build wheels for this torch: `mambaport build` on the device uses the device's torch; "
        "elsewhere, name the torch with --torch or --torch-wheel",
    )


def misfits(wheel: Wheel, target: Interpreter, gpus: Sequence[Gpu]) -> list[str]:
    """Why a wheel would not work in an environment; empty where the wheel fits or has no CUDA extension."""
    record = wheel.provenance().get("cuda")
    if record is None:
        return []
    facts = validate(_Facts, record, wheel.path, InstallError)
    reasons = _torch_misfits(facts, target)
    foreign = [gpu for gpu in gpus if not runs_on(gpu.sm, facts.sm, facts.ptx)]
    names = " ".join(f"sm_{sm}" for sm in facts.sm)
    reasons += [f"built for {names}, {gpu.name} is sm_{gpu.sm} (no kernel image)" for gpu in foreign]
    return reasons


def _torch_misfits(facts: _Facts, target: Interpreter) -> list[str]:
    if target.torch is None:
        return []  # check_target refuses an environment without torch
    version = Version(target.torch.version)
    minor = f"{version.major}.{version.minor}"
    if facts.torch_minor != minor:
        return [f"built for torch {facts.torch_minor}, this is {minor} (undefined symbols)"]
    if target.torch.cuda is None:
        return ["built for a torch with CUDA, this torch has no CUDA"]
    major = (facts.torch_cuda or facts.version).split(".", maxsplit=1)[0]
    found = target.torch.cuda.split(".", maxsplit=1)[0]
    return [f"built for CUDA {major}, this torch has CUDA {found}"] if major != found else []
