"""Whether wheels fit the environment that they go to."""

from __future__ import annotations

from collections.abc import Sequence

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from mambaport.errors import InstallError, VerifyError
from mambaport.goal import Goal
from mambaport.interpreter import Interpreter
from mambaport.profile import Profile


def check_target(target: Interpreter, profile: Profile, goal: Goal) -> None:
    """Whether the profile's wheels fit the environment, its torch included.

    Raises:
        InstallError: with what is there, what is needed, and what to do.
    """
    if target.arch != goal.arch:
        raise InstallError(
            f"This machine is not what {profile.name} is for",
            found=f"{target.arch} ({target.executable})",
            expected=goal.arch,
            hint="copy the wheelhouse to the device and run `mambaport install` there; "
            f"or prove the wheels here with `mambaport verify -p {profile.name} --emulate`",
        )
    python = Version(target.version)
    if target.implementation != "CPython" or target.bits != 64 or python < Version(profile.python.minimum):
        raise InstallError(
            f"{profile.name} does not work with this Python",
            found=f"{target.implementation} {target.version}, {target.bits} bits ({target.executable})",
            expected=f"64-bit CPython {profile.python.minimum} or newer",
            hint="make an environment with a newer Python and give it with --python",
        )
    if target.externally_managed and not target.virtual:
        raise InstallError(
            "This Python belongs to the system's package manager",
            found=target.executable,
            expected="a virtual environment",
            hint="python3 -m venv --system-site-packages ~/mamba && "
            "mambaport install --python ~/mamba/bin/python ...",
        )
    _check_torch(target, profile)


def _check_torch(target: Interpreter, profile: Profile) -> None:
    if target.torch is None:
        raise InstallError(
            "There is no torch in this environment",
            found=f"none in {target.prefix}",
            expected=f"torch{profile.install.torch}, which mambaport never installs by itself",
            hint="install the torch that fits the device first, then run this again: "
            f"{target.executable} -m pip install '{profile.install.torch_suggested}'" + _cpu_advice(target),
        )
    if not SpecifierSet(profile.install.torch).contains(Version(target.torch.version), prereleases=True):
        raise InstallError(
            f"The torch of this environment does not fit {profile.name}",
            found=f"torch {target.torch.version}",
            expected=f"torch{profile.install.torch}",
            hint="use an environment with such a torch; mambaport does not replace the one that is there",
        )


def _cpu_advice(target: Interpreter) -> str:
    if target.arch != "x86_64":
        return ""
    return " (from PyTorch's CPU index: the plain package pulls gigabytes of CUDA)"


def check_installed(target: Interpreter, profile: Profile, goal: Goal, packages: list[str]) -> None:
    """Whether an environment has what a proof needs: the target's machine, torch and the packages.

    Raises:
        VerifyError: with what is missing, and how to get it.
    """
    if target.arch != goal.arch:
        raise VerifyError(
            f"This machine is not what {profile.name} is for",
            found=f"{target.arch} ({target.executable})",
            expected=goal.arch,
            hint=f"`mambaport verify -p {profile.name} --emulate` proves the wheels here",
        )
    lacking = [name for name in ("torch", *packages) if name not in target.packages]
    if lacking:
        raise VerifyError(
            f"{' and '.join(lacking)} not installed in this environment",
            found=f"without {', '.join(lacking)}: {target.prefix}",
            expected="an environment that the wheels were installed into",
            hint=f"`mambaport install -p {profile.name} --python {target.executable}` installs and proves "
            "them; --python names another environment",
        )


def missing_requirements(target: Interpreter, requires: Sequence[str]) -> list[str]:
    """Which of the light dependencies the environment lacks, or has too old."""
    missing = []
    for text in requires:
        requirement = Requirement(text)
        there = target.packages.get(requirement.name)
        if there is None or not requirement.specifier.contains(there.version, prereleases=True):
            missing.append(text)
    return missing
