"""The folders of an index with their facts, taken from the profiles and from the wheels' provenance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from packaging.version import Version

from mambaport.boards import boards, find_platform, runs_on
from mambaport.indexing.provenance import Provenance
from mambaport.indexing.record import WheelRecord, profile_of
from mambaport.profile import Profile
from mambaport.release_lines import read_lines


@dataclass(frozen=True)
class Shelf:
    """One folder of an index: all wheels for one kind of device."""

    folder: str
    records: tuple[WheelRecord, ...]
    profile: Profile | None
    """The profile with the variant's keys in place; None for a profile that this mambaport does not know."""

    @property
    def facts(self) -> Provenance:
        return self.records[0].provenance

    @property
    def option(self) -> str:
        """The options that choose this folder's profile: ``-p jetson --variant jetpack7``."""
        names = self.profile.aliases if self.profile else ()
        variant = self.facts.variant
        return f"-p {names[0] if names else self.facts.profile}" + (
            f" --variant {variant}" if variant else ""
        )

    @property
    def summary(self) -> str:
        return self.profile.summary if self.profile else f"Profile {self.facts.profile}"

    @property
    def devices(self) -> str:
        return self.profile.target.description if self.profile else ""

    @property
    def cuda(self) -> dict[str, Any] | None:
        """SMs of the cubins and of all GPUs that run them, torch's minor, CUDA's version; or None."""
        found = self.facts.cuda
        if found is None:
            return None
        known = {gpu.sm: gpu.name for gpu in boards().gpu}
        name = self.profile.platform if self.profile else None
        possible = find_platform(name).sm if name else known
        served = sorted({*found.sm, *(sm for sm in possible if runs_on(sm, found.sm, found.ptx))}, key=int)
        return {
            "sm": list(found.sm),
            "served": served,
            "gpus": [f"{known.get(sm, 'GPU')} (sm_{sm})" for sm in served],
            "torch": found.torch_minor,
            "version": found.version or found.torch_cuda or "",
        }

    @property
    def l4t(self) -> list[int]:
        """The majors of Jetson Linux that the wheels are for."""
        name = self.profile.platform if self.profile else None
        return list(find_platform(name).l4t) if name else []

    @property
    def torch(self) -> str:
        """The torch that the wheels need, as a version specifier."""
        cuda = self.cuda
        if cuda:
            return f"=={cuda['torch']}.*"
        return self.profile.install.torch if self.profile else ">=2.4"

    @property
    def torch_reason(self) -> str:
        if self.cuda:
            return (
                "the device needs the torch of its own system, such as NVIDIA's for JetPack, and the wheels "
                "work with one torch minor only."
            )
        return "each device keeps the torch that it has; the wheels work with every one from 2.4 on."

    @property
    def requires(self) -> list[str]:
        return list(self.profile.install.requires) if self.profile else []

    @cached_property
    def projects(self) -> dict[str, list[WheelRecord]]:
        """Project -> its wheels, the oldest version first."""
        found: dict[str, list[WheelRecord]] = {}
        for item in sorted(self.records, key=lambda item: (item.name, Version(item.version), item.filename)):
            found.setdefault(item.name, []).append(item)
        return found

    @property
    def default_line(self) -> str:
        lines = read_lines()
        return (self.profile.line if self.profile else None) or (lines.default if lines else "")

    @cached_property
    def lines(self) -> dict[str, dict[str, list[WheelRecord]]]:
        """Release line -> project -> wheels of the newest revision. Lines without all packages are left out.

        Where no line is whole, one without a name has the newest wheels of each project.
        """
        found = {}
        lines = read_lines()
        for line in lines.line if lines else ():
            wheels = {
                name: _newest([item for item in items if item.release == line.releases.get(name)])
                for name, items in self.projects.items()
            }
            names = [package.name for package in self.profile.package] if self.profile else list(wheels)
            if all(wheels.get(name) for name in names):
                found[line.name] = {name: wheels[name] for name in names}
        return found or {"": {name: _newest(items) for name, items in self.projects.items()}}


def _newest(items: list[WheelRecord]) -> list[WheelRecord]:
    newest = max((Version(item.version) for item in items), default=None)
    return [item for item in items if Version(item.version) == newest]


def shelves(records: Iterable[WheelRecord]) -> list[Shelf]:
    """The folders of an index, by name."""
    by_folder: dict[str, list[WheelRecord]] = {}
    for item in records:
        by_folder.setdefault(item.folder, []).append(item)
    return [
        Shelf(folder, tuple(items), profile_of(items[0].provenance))
        for folder, items in sorted(by_folder.items())
    ]
