"""The examination: facts of this machine, compared with a profile's needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from packaging.version import Version

from mambaport.boards import find_platform
from mambaport.building.cuda_root import debian_lacks
from mambaport.cuda.resolve import CudaOptions
from mambaport.doctoring.checks import Check
from mambaport.doctoring.cuda import cuda_checks, cuda_facts, gpu_checks
from mambaport.doctoring.fitting import fitting_profiles
from mambaport.errors import MambaportError
from mambaport.host import Host
from mambaport.installing import check_target
from mambaport.installing.target import ARM_32, SYSTEM_64
from mambaport.interpreter import read_interpreter
from mambaport.pins.cuda import CudaRelease
from mambaport.plan import make_plan, resolve_goal
from mambaport.profile import Profile
from mambaport.release_lines import ReleaseChoice
from mambaport.report import counted
from mambaport.store import Store
from mambaport.toolchains import TOOLCHAINS, choose

BUILD_BYTES = 1 << 30


def facts(host: Host, store: Store) -> dict[str, str]:
    """This machine, for people."""
    free = _free(store.root)
    return {
        "machine": host.device or host.system,
        "system": f"{host.system}, glibc {host.glibc}",
        "architecture": host.arch,
        "cores and memory": f"{host.cores} cores, {host.memory_mib / 1024:.1f} GiB "
        f"({host.available_mib / 1024:.1f} GiB available, {host.swap_mib / 1024:.1f} GiB swap)",
        "Python": f"{host.python} ({host.python_path})",
        **cuda_facts(host),
        "C compiler": host.cc.version if host.cc else "none",
        "cross compiler": host.gcc_aarch64.version
        if host.gcc_aarch64
        else "none (zig is fetched when needed)",
        "emulator": host.qemu_aarch64.version if host.qemu_aarch64 else "none",
        "network isolation": "builds run without network"
        if host.network_isolation
        else "not allowed by the kernel",
        "profiles": ", ".join(fitting_profiles(host)) or "none",
        "store": f"{store.root} ({free / 1e9:.0f} GB free)",
    }


def examine(
    profile: Profile,
    host: Host,
    store: Store,
    python: Path,
    *,
    variant: str | None = None,
    named: bool = False,
    releases: ReleaseChoice | None = None,
) -> list[Check]:
    """What a profile needs on this machine: to build, to install into ``python``, to prove the wheels.

    Where no check says *missing*, a build's own :meth:`~mambaport.plan.Plan.require` passes.

    Args:
        profile: the profile without a variant applied.
        variant: the variant that was chosen.
        named: whether the user named ``python``. Such an interpreter must run, even on a machine that only
            builds.
        releases: the packages' releases to build; by default the profile's.
    """
    whole, profile = profile, profile.with_variant(variant)
    try:
        goal = resolve_goal(profile, host)
    except MambaportError as fault:
        target = Check("target", "missing", fault.found or fault.what, fault.hint or fault.expected or "")
        return [_system(host), _python(host), target]
    checks = [_system(host), _python(host), _toolchain(profile, host), _disk(store), _isolation(host)]
    native = host.arch == goal.arch
    # A pinned torch is fetched for the build: a machine without a GPU builds for others, and runs nothing.
    builds_alone = not native or (_torch_is_pinned(profile) and not named and not host.cuda.gpus)
    if named and not native:
        checks.append(_interpreter(python))
    if goal.cuda is not None:
        checks += cuda_checks(profile, goal.cuda, host, native=native)
    if not builds_alone:
        checks.append(_environment(profile, host, python))
        checks += _editable(profile, python)
        if goal.cuda is not None:
            checks += gpu_checks(goal.cuda, host, python)
    if not native and profile.emulate:
        checks.append(_emulation(host))
    if not any(check.state == "missing" for check in checks):
        options = CudaOptions(python=python if goal.cuda and not builds_alone else None)
        checks.append(_build(whole, variant, host, store, options, releases))
    return checks


def _torch_is_pinned(profile: Profile) -> bool:
    """Whether the profile names the torch to build for, and it is not the device's own."""
    if profile.cuda is None or profile.cuda.torch == "host":
        return False
    return not (profile.platform and find_platform(profile.platform).l4t)


def _build(
    profile: Profile,
    variant: str | None,
    host: Host,
    store: Store,
    cuda: CudaOptions,
    releases: ReleaseChoice | None,
) -> Check:
    """What a build checks before it begins."""
    try:
        plan = make_plan(profile, host, variant=variant, cuda=cuda, releases=releases)
        plan.require(building=True)
        source = plan.cuda.tools.toolkit.source if plan.cuda is not None and plan.compiles else None
        if isinstance(source, CudaRelease) and (lack := debian_lacks(store, source, host.arch)) is not None:
            raise lack
    except MambaportError as fault:
        return Check("build", "missing", f"{fault.what}: {fault.found or fault.expected}", fault.hint or "")
    return Check("build", "good", f"{plan.toolchain.name}, {counted(plan.jobs, 'job')}")


def _system(host: Host) -> Check:
    if host.arch in ARM_32 or host.bits != 64:
        return Check("system", "missing", f"{host.bits}-bit Python on {host.arch}", SYSTEM_64)
    return Check("system", "good", f"{host.system}, {host.arch}")


def _interpreter(python: Path) -> Check:
    try:
        found = read_interpreter(python, [])
    except MambaportError as fault:
        return Check("interpreter", "missing", f"{fault.what}: {fault.found}", fault.hint or "")
    return Check("interpreter", "good", f"Python {found.version} in {found.prefix}")


def _python(host: Host) -> Check:
    good = Version(host.python) >= Version("3.10")
    hint = "" if good else "install Python 3.10 or newer and run mambaport with it"
    return Check("Python for mambaport", "good" if good else "missing", host.python, hint)


def _toolchain(profile: Profile, host: Host) -> Check:
    goal = resolve_goal(profile, host)
    try:
        tool = choose(profile, host, goal)
    except MambaportError as fault:
        return Check("toolchain", "missing", fault.found or "none", fault.hint or "")
    others = [name for name in profile.build.toolchains if TOOLCHAINS[name].lacks(host, goal) is None]
    found = f"{tool.name} for {goal.arch}"
    also = [name for name in others if name != tool.name]
    return Check("toolchain", "good", found + (f" (also: {', '.join(also)})" if also else ""))


def _disk(store: Store) -> Check:
    free = _free(store.root)
    if free >= BUILD_BYTES:
        return Check("disk", "good", f"{free / 1e9:.0f} GB free at {store.root}")
    hint = "free space, `mambaport cache clean`, or point MAMBAPORT_CACHE at another disk"
    return Check("disk", "missing", f"{free / 1e9:.1f} GB free at {store.root}, 1 GB is needed", hint)


def _isolation(host: Host) -> Check:
    if host.network_isolation:
        return Check("network isolation", "good", "builds run without network")
    hint = "sudo sysctl kernel.unprivileged_userns_clone=1 (Debian), or run as root in CI"
    return Check("network isolation", "optional", "the kernel does not let users drop the network", hint)


def _environment(profile: Profile, host: Host, python: Path) -> Check:
    try:
        target = read_interpreter(python, [])
        check_target(target, profile, resolve_goal(profile, host))
    except MambaportError as fault:
        return Check("environment", "missing", f"{fault.what}: {fault.found}", fault.hint or "")
    assert target.torch is not None
    return Check(
        "environment", "good", f"Python {target.version}, torch {target.torch.version} in {target.place}"
    )


def _editable(profile: Profile, python: Path) -> list[Check]:
    """Packages in editable installs: they hide the files of the wheels."""
    try:
        target = read_interpreter(python, [item.name for item in profile.package])
    except MambaportError:
        return []  # the check "environment" reports this
    checks = []
    for name, package in target.packages.items():
        record = Path(package.path) / "direct_url.json"
        try:
            origin = json.loads(record.read_text(encoding="utf-8"))
            editable, url = origin.get("dir_info", {}).get("editable"), origin.get("url", "a folder")
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        if editable:
            found = f"editable install of {url}"
            checks.append(Check(name, "optional", found, f"{python} -m pip uninstall {name}, then install"))
    return checks


def _emulation(host: Host) -> Check:
    missing = [
        name
        for name, program in (("qemu-user-static", host.qemu_aarch64), ("mmdebstrap", host.mmdebstrap))
        if program is None
    ]
    if not missing:
        return Check("emulation", "good", "qemu-user and mmdebstrap: `mambaport verify --emulate` works here")
    return Check(
        "emulation", "optional", f"no {' and no '.join(missing)}", f"sudo apt-get install {' '.join(missing)}"
    )


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
