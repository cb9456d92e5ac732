"""Whether an environment fits a profile's wheels."""

from __future__ import annotations

from collections.abc import Sequence

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from mambaport.errors import InstallError, VerifyError
from mambaport.goal import Goal
from mambaport.interpreter import Interpreter, Package
from mambaport.profile import Profile

ARM_32 = frozenset({"armv6l", "armv7l", "armv8l"})
"""What `uname -m` says on 32-bit ARM systems."""
EQUIVALENT = {"onnxruntime": ("onnxruntime-gpu",)}
"""Distributions that bring the same module as another; both in one environment break it."""
SYSTEM_64 = (
    "install a 64-bit system on the device (Raspberry Pi Imager: Raspberry Pi OS (64-bit)); no newer Python "
    "helps, since torch has no wheels for 32-bit ARM"
)


def check_target(target: Interpreter, profile: Profile, goal: Goal, with_torch: bool = True) -> None:
    """Checks that the environment, with its torch, fits the profile's wheels.

    Args:
        with_torch: whether the environment needs torch; ONNX Runtime needs none.

    Raises:
        InstallError: the environment does not fit.
    """
    if goal.arch == "aarch64" and (target.arch in ARM_32 or (target.arch == goal.arch and target.bits != 64)):
        raise InstallError(
            f"{profile.name} needs a 64-bit system",
            found=f"{target.implementation} {target.version}, {target.bits} bits, on {target.arch} "
            f"({target.executable})",
            expected="a 64-bit system: `uname -m` says aarch64, and its Python has 64 bits",
            hint=SYSTEM_64,
        )
    if target.arch != goal.arch:
        raise InstallError(
            f"This machine is not what {profile.name} is for",
            found=f"{target.arch} ({target.executable})",
            expected=goal.arch,
            hint="copy the wheelhouse to the device and run `mambaport install` there"
            + (_emulate(profile, "; or prove the wheels here with ") if goal.arch == "aarch64" else ""),
        )
    python = Version(target.version)
    if target.implementation != "CPython" or target.bits != 64 or python < Version(profile.python.minimum):
        raise InstallError(
            f"{profile.name} does not work with this Python",
            found=f"{target.implementation} {target.version}, {target.bits} bits ({target.executable})",
            expected=f"64-bit CPython {profile.python.minimum} or newer",
            hint="make an environment with a newer Python and give it with --python"
            if target.bits == 64
            else "use a 64-bit Python: a 64-bit system has one",
        )
    if target.externally_managed and not target.virtual:
        raise InstallError(
            "This Python belongs to the system's package manager",
            found=target.executable,
            expected="a virtual environment",
            hint="python3 -m venv --system-site-packages ~/mamba && "
            "mambaport install --python ~/mamba/bin/python ...",
        )
    if with_torch:
        _check_torch(target, profile)


def _check_torch(target: Interpreter, profile: Profile) -> None:
    if target.torch is None:
        raise InstallError(
            "There is no torch in this environment",
            found=f"none in {target.prefix}",
            expected=f"torch{profile.install.torch}, which mambaport never installs by itself",
            hint="install the torch that fits the device first, then run this again: "
            f"{target.executable} -m pip install '{profile.install.torch_suggested}'"
            + _advice(target, profile),
        )
    if not SpecifierSet(profile.install.torch).contains(Version(target.torch.version), prereleases=True):
        raise InstallError(
            f"The torch of this environment does not fit {profile.name}",
            found=f"torch {target.torch.version}",
            expected=f"torch{profile.install.torch}",
            hint="use an environment with such a torch; mambaport does not replace the installed torch",
        )


def _advice(target: Interpreter, profile: Profile) -> str:
    if profile.cuda is not None:
        return " (the build with CUDA for this device)"
    if target.arch != "x86_64":
        return ""
    return " (from PyTorch's CPU index: the plain package pulls gigabytes of CUDA)"


def _emulate(profile: Profile, before: str) -> str:
    """The command that proves a profile's wheels under emulation; empty where no emulated system fits."""
    named = [name for name, item in profile.variant.items() if item.emulate]
    if not profile.emulate and not named:
        return ""
    variant = "" if profile.emulate else f" --variant {named[0]}"
    return f"{before}`mambaport verify -p {profile.name}{variant} --emulate`"


def check_installed(
    target: Interpreter, profile: Profile, goal: Goal, packages: list[str], option: str = ""
) -> None:
    """Checks that an environment has what a proof needs: the target's architecture, and the packages.

    Args:
        option: what the command that installs the packages needs besides profile and interpreter.

    Raises:
        VerifyError: something is missing; the error says how to get it.
    """
    if target.arch != goal.arch:
        raise VerifyError(
            f"This machine is not what {profile.name} is for",
            found=f"{target.arch} ({target.executable})",
            expected=goal.arch,
            hint=_emulate(profile, "prove the wheels here with ") or "run the proof on the device",
        )
    missing = [name for name in packages if _installed(target, name) is None]
    if missing:
        raise VerifyError(
            f"{' and '.join(missing)} not installed in this environment",
            found=f"without {', '.join(missing)}: {target.prefix}",
            expected="an environment that the wheels were installed into",
            hint=f"`mambaport install -p {profile.name}{option} --python {target.executable}` installs and "
            "proves them; --python names another environment",
        )


def queried_names(requires: Sequence[str]) -> list[str]:
    """The distributions that decide whether an environment has requirements."""
    names = [Requirement(text).name for text in requires]
    return names + [other for name in names for other in EQUIVALENT.get(name, ())]


def _installed(target: Interpreter, name: str) -> Package | None:
    """The distribution of that name, or another one that brings the same module."""
    names = (name, *EQUIVALENT.get(name, ()))
    return next((found for item in names if (found := target.packages.get(item))), None)


def missing_requirements(target: Interpreter, requires: Sequence[str]) -> list[str]:
    """The light dependencies that the environment lacks, or has in a version that does not fit."""
    missing = []
    for text in requires:
        requirement = Requirement(text)
        installed = _installed(target, requirement.name)
        if installed is None or not requirement.specifier.contains(installed.version, prereleases=True):
            missing.append(text)
    return missing
