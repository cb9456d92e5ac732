"""The plan: profile, machine and options, fully resolved. Every stage after it is a function of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mambaport import pins as pinned
from mambaport.boards import boards, find_cpu, find_platform
from mambaport.cuda.resolve import CudaOptions, CudaPlan, goal_of, resolve_cuda
from mambaport.digests import data_sha256, file_sha256
from mambaport.errors import HostError, UsageError
from mambaport.goal import Goal
from mambaport.host import Host
from mambaport.patchset import PatchSet
from mambaport.pins import Pin
from mambaport.profile import PackageChoice, Profile
from mambaport.release_lines import ReleaseChoice, choose_releases
from mambaport.releases import Source, choose_sets, read_package, read_source
from mambaport.settings import Settings, is_true, read_settings
from mambaport.toolchains import TOOLCHAINS, Toolchain, choose

ONNX_LIBRARY = "mambaport_onnx"
"""The kernels' library for ONNX Runtime."""
Runtime = Literal["torch", "onnx"]
"""What computes in an environment: torch, or ONNX Runtime without torch."""

# Raised when a change of mambaport itself changes the bytes that the same inputs give.
BUILD_FORMAT = 3


@dataclass(frozen=True)
class PackagePlan:
    """One package: its source, its patch sets, and the key of the wheel they make."""

    source: Source
    sets: tuple[PatchSet, ...]
    revision: int
    """The package's revision of patches, overlays and kernels."""
    local_version: str
    environment: tuple[tuple[str, str], ...]
    """Environment variables of the build, without the compiler's."""
    fallback: bool
    """Whether the wheel is built without kernels."""
    key: str
    """Digest of everything that decides the wheel's bytes."""
    sets_digest: str
    """Digest of the patch sets, their overlays and kernels, as the key has them."""

    @property
    def name(self) -> str:
        return self.source.package

    @property
    def version(self) -> str:
        """The release, with the local label."""
        return f"{self.source.version}+{self.local_version}"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "sources": [
                {"filename": archive.filename, "sha256": archive.sha256} for archive in self.source.archive
            ],
            "revision": self.revision,
            "patch_sets": [set_json(item) for item in self.sets],
            "environment": dict(self.environment),
            "key": self.key,
        }


@dataclass(frozen=True)
class Plan:
    """What is built: the target, the toolchain and the packages."""

    profile: Profile
    variant: str | None
    host: Host
    goal: Goal
    toolchain: Toolchain
    jobs: int
    packages: tuple[PackagePlan, ...]
    build_requirements: tuple[Pin, ...] = field(default_factory=lambda: pinned.build_requirements().pin)
    cuda: CudaPlan | None = None
    """Target, toolkit and torch of the CUDA extensions; None for a plan without them."""
    compiler_cache: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Variables of the compiler cache's storage. They decide no byte of a wheel."""
    runtime: Runtime = "torch"
    """The runtime of the environment to install into."""
    lacks: HostError | None = None
    """What this machine lacks to build or install the packages. Patching their sources needs none of that."""

    @property
    def compiles(self) -> bool:
        """Whether any package has its kernels built."""
        return not all(package.fallback for package in self.packages)

    def for_onnx(self) -> Plan:
        """This plan for an environment with ONNX Runtime, without torch: the package with the library alone.

        Raises:
            UsageError: no package of the plan has the library, or the profile is for a GPU.
        """
        holders = tuple(
            package
            for package in self.packages
            if not package.fallback and any(ONNX_LIBRARY in item.meta.kernels for item in package.sets)
        )
        if not holders or self.profile.cuda is not None:
            raise UsageError(
                f"Profile {self.profile.name} makes no wheel for ONNX Runtime without torch",
                found="CUDA extensions, which need torch" if self.profile.cuda else f"no {ONNX_LIBRARY}",
                expected="a profile whose mamba-ssm has the patch set cpu, for the CPU alone",
                hint="-p rpi for a Raspberry Pi, -p cpu for this machine's CPU",
            )
        install = self.profile.install.model_copy(update={"requires": self.profile.install.onnx})
        profile = self.profile.model_copy(update={"install": install})
        return replace(self, profile=profile, packages=holders, cuda=None, runtime="onnx")

    def require(self, *, building: bool) -> None:
        """Checks that this machine can do the plan's work, before the work begins.

        Raises:
            HostError: the machine lacks something; the error names what.
        """
        if not self.compiles:
            return
        # Wheels built elsewhere need no compiler, but their version names the CUDA and torch they are for.
        unknown = self.profile.cuda is not None and self.cuda is None
        if self.lacks is not None and (building or unknown):
            raise self.lacks
        if building and self.cuda is not None:
            _ = self.cuda.tools

    @property
    def folder(self) -> str:
        """The folder of this plan's wheels in a wheelhouse: profile, variant, and torch where it is not the
        profile's default. All wheels of a folder are for one kind of device, so pip cannot mix them."""
        return wheel_folder(
            self.profile,
            self.variant,
            self.cuda.goal.torch if self.cuda else None,
            fallback=any(package.fallback for package in self.packages),
        )

    @property
    def native(self) -> bool:
        """Whether this machine has the target's architecture."""
        return self.host.arch == self.goal.arch

    def to_json(self) -> dict[str, Any]:
        return {
            "profile": self.profile.name,
            "variant": self.variant,
            "target": {"arch": self.goal.arch, "glibc": self.goal.glibc, "cpu": self.goal.cpu},
            "toolchain": self.toolchain.identity(self.host),
            **({"cuda": self.cuda.to_json()} if self.cuda else {}),
            "jobs": self.jobs,
            "build_requirements": [pin.filename for pin in self.build_requirements],
            "packages": [package.to_json() for package in self.packages],
        }


def wheel_folder(profile: Profile, variant: str | None, torch: str | None, *, fallback: bool) -> str:
    """The folder of a profile's wheels, in a wheelhouse and in an index.

    Args:
        profile: the profile with its variant's keys in place.
        torch: the minor of torch that the CUDA extensions are for; None without extensions.
    """
    parts = [profile.aliases[0] if profile.aliases else profile.name]
    parts += [variant] if variant else []
    if torch is not None and profile.cuda is not None and torch != profile.cuda.torch:
        parts.append(f"torch{torch}")
    if fallback:
        parts.append("fallback")  # pip takes 1.fallback for newer than 1
    return "-".join(parts)


def set_json(item: PatchSet) -> dict[str, Any]:
    """A patch set as plain data, with its reasons."""
    return {
        "name": item.name,
        "summary": item.meta.summary,
        "sha256": item.digest(),
        "patches": [
            {
                "file": item.path(patch).name,
                "sha256": file_sha256(item.path(patch)),
                **patch.model_dump(exclude={"file", "siblings"}, exclude_defaults=True),
            }
            for patch in item.patches
        ],
        "replaced": [entry.model_dump(exclude_defaults=True) for entry in item.meta.replace],
        "overlay": sorted(item.overlay_files()),
    }


def sets_inputs(sets: Sequence[PatchSet]) -> list[Any]:
    """What a wheel's key says of its patch sets, read from the disk: the provenance holds the reasons too.

    Raises:
        OSError: a file of a set cannot be read.
        PatchError: an overlay is not valid.
    """
    return [[item.digest(), set_json(item)] for item in sets]


def resolve_goal(profile: Profile, host: Host, settings: Settings | None = None) -> Goal:
    """The profile's target with ``host`` replaced by this machine.

    Raises:
        UsageError: the profile's CPU is not one of this machine's architecture.
    """
    target, for_host = profile.target, profile.target.arch == "host"
    arch = host.arch if for_host else target.arch
    try:
        find_cpu(target.cpu, arch)
    except LookupError as fault:
        raise UsageError(
            f"Profile {profile.name} cannot be built for this machine",
            found=str(fault),
            hint="correct target.cpu",
        ) from None
    return Goal(
        arch,
        host.glibc if for_host else target.glibc,
        target.cpu,
        goal_of(profile.cuda, host, settings or read_settings()) if profile.cuda else None,
    )


def choose_variant(profile: Profile, host: Host, requested: str | None) -> str | None:
    """The variant requested, else the profile's default; on a Jetson, the variant for its JetPack.

    Raises:
        HostError: no variant, or not the one requested, is for the Jetson's JetPack.
    """
    whole = profile.variant or {"": profile}
    l4t = {name: find_platform(item.platform).l4t for name, item in whole.items() if item.platform}
    jetson = host.cuda.jetson if any(l4t.values()) else None
    if jetson is None:
        return requested or profile.default_variant
    fitting = [name for name, majors in l4t.items() if jetson.l4t_major in majors]
    if fitting and (requested in (None, *fitting) or not profile.variant):
        return requested or fitting[0] or None
    oldest = next(item for item in boards().platform if item.jetpack and item.supported)
    raise HostError(
        f"This Jetson is {fitting[0]}, not {requested}"
        if fitting
        else f"This Jetson's JetPack is not one that {profile.name} is for",
        found=f"JetPack {jetson.jetpack}, L4T {jetson.l4t}",
        expected=", ".join(
            f"{whole[name].platform} (L4T {' or '.join(map(str, majors))})" for name, majors in l4t.items()
        ),
        hint="drop --variant here; wheels for another JetPack are built on an x86-64 machine"
        if fitting
        else f"update the device to JetPack {oldest.jetpack}: the packages need CUDA {boards().least_cuda}, "
        "Python 3.10 and torch 2.4 at least",
    )


def make_plan(
    profile: Profile,
    host: Host,
    *,
    variant: str | None = None,
    toolchain: str | None = None,
    jobs: int | None = None,
    environ: Mapping[str, str] | None = None,
    cuda: CudaOptions | None = None,
    releases: ReleaseChoice | None = None,
    buildable: bool = True,
) -> Plan:
    """Resolves a profile for this machine.

    Args:
        environ: the variables that settings are read from; this process's by default.
        cuda: the command line's options for CUDA, torch and Python.
        releases: the command line's options for release lines and versions.
        buildable: whether a machine without a toolchain is an error; else :attr:`Plan.lacks` names it.

    Raises:
        UsageError: an unknown variant, package, release or release line.
        PatchError: a patch set is not valid, or the sets are not in order.
        HostError: no toolchain works here. What CUDA extensions lack is no error: see :attr:`Plan.lacks`.
    """
    variant = choose_variant(profile, host, variant)
    profile = profile.with_variant(variant)
    settings = read_settings(environ)
    goal = resolve_goal(profile, host, settings)
    tool, lacks = _choose(profile, host, goal, toolchain, buildable)
    cuda_plan = None
    if lacks is None:
        cuda_plan, lacks = _plan_cuda(profile, goal, host, tool, cuda or CudaOptions())
    goal = replace(goal, glibc=tool.glibc(host, goal), cuda=cuda_plan.goal if cuda_plan else goal.cuda)
    versions = choose_releases(profile, releases)
    packages = [
        _plan_package(choice, versions[choice.name], profile, variant, goal, tool, host, settings, cuda_plan)
        for choice in profile.package
    ]
    return Plan(
        profile=profile,
        variant=variant,
        host=host,
        goal=goal,
        toolchain=tool,
        jobs=max(1, jobs or host.cores),
        packages=tuple(packages),
        cuda=cuda_plan,
        compiler_cache=settings.compiler_cache,
        lacks=lacks,
    )


def _choose(
    profile: Profile, host: Host, goal: Goal, requested: str | None, buildable: bool
) -> tuple[Toolchain, HostError | None]:
    try:
        return choose(profile, host, goal, requested), None
    except HostError as fault:
        if (profile.cuda is None and buildable) or requested:
            raise
        return TOOLCHAINS[profile.build.toolchains[0 if host.arch == goal.arch else -1]], fault


def _plan_cuda(
    profile: Profile, goal: Goal, host: Host, tool: Toolchain, options: CudaOptions
) -> tuple[CudaPlan | None, HostError | None]:
    if tool.cuda is not None:
        try:
            return resolve_cuda(profile, goal, host, tool.cuda, options), None
        except HostError as fault:
            return None, fault
    if given := options.given():
        raise UsageError(
            f"{profile.name} has no CUDA extension",
            found=", ".join(given),
            expected="these options only with a profile that has a GPU",
            hint="drop them, or choose such a profile: `mambaport profiles` lists them",
        )
    return None, None


def _plan_package(
    choice: PackageChoice,
    version: str,
    profile: Profile,
    variant: str | None,
    goal: Goal,
    tool: Toolchain,
    host: Host,
    settings: Settings,
    cuda: CudaPlan | None,
) -> PackagePlan:
    source = read_source(choice.name, version)
    sets = tuple(choose_sets(choice.name, version, choice.patches))
    revision = read_package(choice.name).revision
    variables = profile.build.environment
    variable = source.fallback_variable
    fallback = variable in settings.fallbacks or is_true(variables.get(variable, ""))
    environment = {**variables, **({variable: "TRUE"} if fallback else {})}
    label = _label(profile, revision, fallback=fallback, cuda=cuda)
    requirements = pinned.build_requirements().pin
    described = sets_inputs(sets)
    inputs = {
        "format": BUILD_FORMAT,
        "source": source.model_dump(),
        "sets": described,
        "profile": profile.name,
        "variant": variant,  # the wheel's provenance holds the name
        "goal": [goal.arch, goal.glibc, goal.cpu],
        "cpu": find_cpu(goal.cpu, goal.arch).model_dump(exclude={"features"}),  # for the audit, and a set
        "local_version": label,
        "environment": environment,
        "toolchain": tool.identity(host),
        "requirements": [pin.sha256 for pin in requirements],
        "python": host.python.rsplit(".", 1)[0],
        **({"cuda": cuda.key()} if cuda else {}),
    }
    key = data_sha256(inputs)[:40]
    return PackagePlan(
        source=source,
        sets=sets,
        revision=revision,
        local_version=label,
        environment=tuple(sorted(environment.items())),
        fallback=fallback,
        key=key,
        sets_digest=data_sha256(described),
    )


def _label(profile: Profile, revision: int, *, fallback: bool, cuda: CudaPlan | None) -> str:
    """The local version: the profile, the package's revision, then the torch and CUDA that the extensions
    need, or ``fallback`` for a wheel without kernels.

    PEP 440 compares numbers as numbers, so a higher revision is a newer wheel.
    """
    parts = [*profile.name.split("-"), str(revision)]
    if fallback:
        return ".".join([*parts, "fallback"])
    return ".".join([*parts, cuda.label] if cuda else parts)
