"""Release lines: releases of the packages that belong together, and the choice of releases for a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field, model_validator

from mambaport.boards import nearest
from mambaport.errors import UsageError
from mambaport.models import Model, Name, VersionText, read_toml, validate
from mambaport.profile import Profile
from mambaport.releases import read_source
from mambaport.resources import patches_dir


class Line(Model):
    """One release line."""

    name: str
    summary: str
    releases: dict[Name, VersionText]
    """Package -> its release in this line."""


class LinesFile(Model):
    """``patches/lines.toml``."""

    default: str
    line: tuple[Line, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _default_is_a_line(self) -> LinesFile:
        names = [line.name for line in self.line]
        if self.default not in names:
            raise ValueError(f"default: there is no line {self.default}; {nearest(self.default, names)}")
        return self


@dataclass(frozen=True)
class ReleaseChoice:
    """The releases that a command requests."""

    line: str | None = None
    """A release line, by its name."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version, for each package that ``--with`` names."""


def read_lines() -> LinesFile | None:
    """The release lines; None without a file ``lines.toml``.

    Raises:
        UsageError: the file is not valid.
    """
    path = patches_dir() / "lines.toml"
    return validate(LinesFile, read_toml(path), path) if path.is_file() else None


def choose_releases(profile: Profile, choice: ReleaseChoice | None = None) -> dict[str, str]:
    """Package -> release, for every package of a profile.

    In order of preference: the version that the command names; the line that the command names, or the one
    line that has the releases named; the profile's versions and line; the default line.

    Raises:
        UsageError: no such line, package or release; or nothing decides the release of a package.
    """
    choice = choice or ReleaseChoice()
    packages = {item.name: item.version for item in profile.package}
    for name, version in choice.versions.items():
        if name not in packages:
            raise UsageError(
                f"Profile {profile.name} has no package {name}",
                found=name,
                expected=nearest(name, packages),
                hint="correct --with; `mambaport show PROFILE` names the packages",
            )
        read_source(name, version)
    lines = read_lines()
    line = _line(lines, profile, choice)
    chosen: dict[str, str] = {}
    named = bool(choice.line or choice.versions)
    for name, profile_version in packages.items():
        requested = choice.versions.get(name) or (None if named else profile_version)
        release = requested or (line.releases.get(name) if line else None) or profile_version
        if release is None:
            raise UsageError(
                f"The release of {name} is not clear",
                found=", ".join(f"{other} {number}" for other, number in choice.versions.items()) or None,
                expected=_expected(lines),
                hint=f"name it: --with {name}==VERSION",
            )
        chosen[name] = release
    return chosen


def _line(lines: LinesFile | None, profile: Profile, choice: ReleaseChoice) -> Line | None:
    """The line that the command's choice, else the profile, selects; None where no line has the releases."""
    requested = choice.line or (None if choice.versions else profile.line)
    if lines is None:
        if requested:
            raise UsageError(
                f"There is no release line {requested}",
                found="no lines.toml in patches/",
                hint="name releases with --with",
            )
        return None
    if requested is None and choice.versions:
        fitting = [line for line in lines.line if choice.versions.items() <= line.releases.items()]
        return fitting[0] if fitting else None
    name = requested if requested is not None else lines.default
    line = next((line for line in lines.line if line.name == name), None)
    if line is None:
        raise UsageError(
            f"There is no release line {name}",
            found=name,
            expected=_expected(lines),
            hint="take one of these lines",
        )
    return line


def _expected(lines: LinesFile | None) -> str:
    if lines is None:
        return "a version of each package"
    known = [
        f"{line.name} ({', '.join(f'{name} {version}' for name, version in line.releases.items())})"
        for line in lines.line
    ]
    return f"a release line: {'; '.join(known)}"
