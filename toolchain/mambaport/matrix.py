"""The matrix: every pair of wheels that a farm has to build, as data."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mambaport import pins as pinned
from mambaport.boards import minor_key
from mambaport.cuda.resolve import CudaOptions, CudaTools
from mambaport.digests import data_sha256
from mambaport.host import Host
from mambaport.pins.cuda import CudaRelease, TorchRelease, torch_releases
from mambaport.plan import Plan, make_plan, wheel_folder
from mambaport.profile import Profile
from mambaport.release_lines import ReleaseChoice, read_lines


@dataclass(frozen=True)
class Job:
    """One build: a profile's wheels of one release line, and with CUDA extensions for one torch."""

    plan: Plan
    option: str
    """What names the profile after ``--profile``: its name, or the path of a user's own."""
    line: str
    default_line: bool
    torch: str
    """The torch minor that ``--torch`` names; empty for the profile's default, and without extensions."""

    @property
    def folder(self) -> str:
        """The folder of the wheels, also where this machine lacks what the build needs."""
        if self.plan.cuda is not None or not self.torch:
            return self.plan.folder
        return wheel_folder(self.plan.profile, self.plan.variant, self.torch, fallback=False)

    @property
    def name(self) -> str:
        return self.folder + ("" if self.default_line else f"-line-{self.line}")

    @property
    def versions(self) -> dict[str, str]:
        """Package -> version; empty where this machine cannot resolve the build."""
        if self.plan.profile.cuda is not None and self.plan.cuda is None:
            return {}
        return {package.name: package.version for package in self.plan.packages}

    def to_json(self) -> dict[str, Any]:
        """The job as a row of a build matrix: text, numbers and lists of text."""
        plan, profile = self.plan, self.plan.profile
        goal = plan.cuda.goal if plan.cuda else None
        options = self._options()
        line = [] if self.default_line else ["--line", self.line]
        torch = ["--torch", self.torch] if self.torch else []
        inputs = self._inputs()
        return {
            "name": self.name,
            "profile": profile.name,
            "variant": plan.variant or "",
            "line": self.line,
            "folder": self.folder,
            "arch": plan.goal.arch,
            "pythons": list(profile.python.tested),
            "torch": goal.torch if goal else profile.install.torch,
            "cuda": goal.version if goal else "",
            "sm": list(goal.sm) if goal else [],
            "versions": self.versions,
            "build": " ".join(["mambaport", "build", *options, *line, *torch]),
            "verify": " ".join(
                [
                    "mambaport",
                    "verify",
                    *options,
                    *line,
                    "--emulate",
                    "--wheelhouse",
                    f"wheelhouse/{self.folder}",
                ]
            )
            if profile.emulate
            else "",
            "key": data_sha256([package.key for package in plan.packages])[:40]
            if self.versions and not plan.lacks
            else "",
            "cache": data_sha256(inputs)[:40],
            "inputs": inputs,
            "memory_mib": profile.build.memory_per_job_mib,
            "lacks": plan.lacks.what if plan.lacks else _lacks(plan),
        }

    def _options(self) -> list[str]:
        variant = self.plan.variant
        return ["-p", shlex.quote(self.option), *(["--variant", variant] if variant else [])]

    def _inputs(self) -> list[dict[str, str]]:
        """Every pinned file that the build fetches, each once."""
        plan = self.plan
        files = [(item.filename, item.sha256) for package in plan.packages for item in package.source.archive]
        pins = [*plan.build_requirements, *pinned.build_tools().for_host(plan.host.arch)]
        files += [(pin.filename, pin.sha256) for pin in (*pins, *plan.toolchain.pins(plan.host))]
        if plan.cuda is not None:
            if isinstance(source := plan.cuda.torch.source, TorchRelease):
                files += [(part.filename, part.content_sha256) for part in source.parts]
            found = plan.cuda.found
            release = found.toolkit.source if isinstance(found, CudaTools) else None
            if isinstance(release, CudaRelease):
                tools = release.tools[plan.host.arch]
                files += [(pin.filename, pin.sha256) for pin in tools.pin]
                files += [(tools.debian.filename, tools.debian.sha256)] if tools.debian else []
                files += [(part.filename, part.content_sha256) for part in release.headers]
        return [{"file": name, "sha256": digest} for name, digest in dict.fromkeys(files)]


def _lacks(plan: Plan) -> str:
    """What this machine lacks to compile extensions; empty where it lacks nothing."""
    found = plan.cuda.found if plan.cuda else None
    return "" if found is None or isinstance(found, CudaTools) else found.what


def jobs(
    profiles: Mapping[str, Profile], host: Host, variant: str | None, lines: Sequence[str]
) -> Iterator[Job]:
    """Every job of the profiles: variant by variant, torch by torch, line by line.

    Args:
        profiles: by the word that names each after ``--profile``: a name, or a path.
        variant: the only variant wanted; None for all.
        lines: the release lines wanted; empty for all.

    Raises:
        UsageError: an unknown variant or line.
    """
    known = read_lines()
    names = [*lines] or [line.name for line in known.line] if known else [*lines]
    for option, profile in profiles.items():
        every: list[str | None] = [*profile.variant] or [None]
        for chosen in [variant] if variant else every:
            whole = profile.with_variant(chosen)
            default = whole.line or (known.default if known else "")
            for torch in _torches(whole):
                for line in names:
                    plan = make_plan(
                        profile,
                        host,
                        variant=chosen,
                        cuda=CudaOptions(torch=torch or None),
                        releases=ReleaseChoice(line),
                        buildable=False,
                    )
                    yield Job(plan, option, line, line == default, torch)


def _torches(profile: Profile) -> list[str]:
    """The torch minors to build for: each that is pinned for the target; the default one is empty."""
    cuda = profile.cuda
    if cuda is None or "host" in (cuda.torch, cuda.version):
        return [""]
    major = minor_key(cuda.version)[0]
    pinned_minors = [
        item.minor
        for item in torch_releases()
        if item.arch == profile.target.arch and minor_key(item.cuda)[0] == major
    ]
    return [minor if minor != cuda.torch else "" for minor in dict.fromkeys(pinned_minors)] or [""]


def github(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The value of ``strategy.matrix`` of GitHub Actions."""
    return {"include": list(rows)}


def gitlab(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A child pipeline of GitLab: a job for each row, after the template ``.mambaport-wheels``.

    A pipeline without jobs is an error in GitLab, so an empty matrix has one job that does nothing.
    """
    found: dict[str, Any] = {"include": [{"local": "deploy/gitlab/wheels.yml"}]}
    for row in rows:
        found[str(row["name"])] = {
            "extends": ".mambaport-wheels",
            "variables": {
                "MAMBAPORT_NAME": row["name"],
                "MAMBAPORT_FOLDER": row["folder"],
                "MAMBAPORT_BUILD": row["build"],
                "MAMBAPORT_VERIFY": row["verify"],
                "MAMBAPORT_KEY": row["cache"],
            },
        }
    if not rows:
        found["nothing-to-build"] = {"stage": "build", "script": ["echo 'the index has all wheels'"]}
    return found
