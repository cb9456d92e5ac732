"""The plan: profile, machine and options, fully resolved. Every stage after it is a function of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mambaport import __version__
from mambaport import pins as pinned
from mambaport.digests import data_sha256, file_sha256
from mambaport.host import Host
from mambaport.patchset import PatchSet, Source, read_source, stack
from mambaport.pins import Pin
from mambaport.profile import PackageChoice, Profile
from mambaport.toolchains import Goal, Toolchain, choose

# Goes up when building the same inputs gives other bytes.
BUILD_FORMAT = 1
_TRUE = frozenset({"TRUE", "1", "YES", "ON"})


@dataclass(frozen=True)
class PackagePlan:
    """One package: its source, its patch sets, and the key of the wheel they make."""

    source: Source
    sets: tuple[PatchSet, ...]
    local_version: str
    environment: tuple[tuple[str, str], ...]
    """Variables of the build, the compiler's aside."""
    fallback: bool
    """Whether the kernels are left out."""
    key: str
    """Digest of everything that decides the wheel's bytes."""

    @property
    def name(self) -> str:
        return self.source.package

    @property
    def version(self) -> str:
        """With the local label."""
        return f"{self.source.version}+{self.local_version}"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "sources": [
                {"filename": archive.filename, "sha256": archive.sha256} for archive in self.source.archive
            ],
            "patch_sets": [set_json(item) for item in self.sets],
            "environment": dict(self.environment),
            "key": self.key,
        }


@dataclass(frozen=True)
class Plan:
    """What will be built, from what, with what."""

    profile: Profile
    variant: str | None
    host: Host
    goal: Goal
    toolchain: Toolchain
    jobs: int
    packages: tuple[PackagePlan, ...]
    build_requirements: tuple[Pin, ...] = field(default_factory=lambda: pinned.build_requirements().pin)

    @property
    def native(self) -> bool:
        """Whether this machine is of the target's architecture."""
        return self.host.arch == self.goal.arch

    def to_json(self) -> dict[str, Any]:
        return {
            "profile": self.profile.name,
            "variant": self.variant,
            "target": {"arch": self.goal.arch, "glibc": self.goal.glibc, "cpu": self.goal.cpu},
            "toolchain": self.toolchain.identity(self.host),
            "jobs": self.jobs,
            "build_requirements": [pin.filename for pin in self.build_requirements],
            "packages": [package.to_json() for package in self.packages],
        }


def set_json(item: PatchSet) -> dict[str, Any]:
    """A patch set as plain data, with its reasons."""
    return {
        "name": item.name,
        "revision": item.meta.revision,
        "summary": item.meta.summary,
        "sha256": item.digest(),
        "patches": [
            {
                "file": patch.file,
                "sha256": file_sha256(item.folder / patch.file),
                **patch.model_dump(exclude={"file"}, exclude_defaults=True),
            }
            for patch in item.patches
        ],
        "overlay": sorted(item.overlay_files()),
    }


def resolve_goal(profile: Profile, host: Host) -> Goal:
    """The profile's target with ``host`` replaced by this machine."""
    if profile.target.arch != "host":
        return Goal(profile.target.arch, profile.target.glibc, profile.target.cpu)
    return Goal(host.arch, host.glibc, profile.target.cpu)


def make_plan(
    profile: Profile,
    host: Host,
    *,
    variant: str | None = None,
    toolchain: str | None = None,
    jobs: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> Plan:
    """Resolves a profile for this machine.

    Args:
        environ: where the packages' FORCE_FALLBACK variables are read from, once; this process's by default.

    Raises:
        UsageError: an unknown variant, package or version.
        PatchError: patch sets that are not valid or not in order.
        HostError: no toolchain.
    """
    variant = variant or profile.default_variant
    profile = profile.with_variant(variant)
    goal = resolve_goal(profile, host)
    tool = choose(profile, host, goal, toolchain)
    goal = replace(goal, glibc=tool.glibc(host, goal))
    asked = os.environ if environ is None else environ
    packages = [_plan_package(choice, profile, goal, tool, host, asked) for choice in profile.package]
    return Plan(
        profile=profile,
        variant=variant,
        host=host,
        goal=goal,
        toolchain=tool,
        jobs=host.jobs(profile.build.memory_per_job_mib, jobs),
        packages=tuple(packages),
    )


def _plan_package(
    choice: PackageChoice,
    profile: Profile,
    goal: Goal,
    tool: Toolchain,
    host: Host,
    environ: Mapping[str, str],
) -> PackagePlan:
    source = read_source(choice.name, choice.version)
    sets = tuple(stack(choice.name, choice.version, choice.patches))
    asked = profile.build.environment
    fallback = any(_is_true(where.get(source.fallback_variable, "")) for where in (environ, asked))
    environment = {**asked, **({source.fallback_variable: "TRUE"} if fallback else {})}
    label = _label(profile, sets, fallback=fallback)
    requirements = pinned.build_requirements().pin
    inputs = {
        "format": BUILD_FORMAT,
        "mambaport": __version__,
        "source": source.model_dump(),
        "sets": [item.digest() for item in sets],
        "profile": profile.name,
        "goal": [goal.arch, goal.glibc, goal.cpu],
        "local_version": label,
        "environment": environment,
        "toolchain": tool.identity(host),
        "requirements": [pin.sha256 for pin in requirements],
        "python": host.python if tool.name == "native" else host.python.rsplit(".", 1)[0],
    }
    key = data_sha256(inputs)[:40]
    return PackagePlan(source, sets, label, tuple(sorted(environment.items())), fallback, key)


def _is_true(text: str) -> bool:
    return text.strip().upper() in _TRUE


def _label(profile: Profile, sets: tuple[PatchSet, ...], *, fallback: bool) -> str:
    """The local version: profile, each patch set's revision in order, and whether kernels were left out.

    PEP 440 compares the numbers one by one, so a higher revision of any set is a newer wheel.
    """
    parts = [*profile.name.split("-"), *(str(item.meta.revision) for item in sets)]
    return ".".join([*parts, "fallback"] if fallback else parts)
