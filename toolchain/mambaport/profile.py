"""Profiles: what to build, for which target. One TOML file each; see docs/how-to/add-a-profile.md."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from mambaport.boards import cpus, find_cpu, find_gpu, find_platform, minor_key, nearest
from mambaport.errors import UsageError
from mambaport.models import Model, Name, VersionText, read_toml, validate
from mambaport.resources import profiles_dir

Arch = Literal["aarch64", "x86_64", "host"]
PythonMinor = Annotated[str, StringConstraints(pattern=r"^3\.[0-9]+$")]
GlibcVersion = Annotated[str, StringConstraints(pattern=r"^2\.[0-9]+$")]
ToolchainName = Literal["native", "zig", "gcc-aarch64", "nvcc-native", "nvcc-cross"]
CudaVersion = Annotated[str, StringConstraints(pattern=r"^([0-9]+\.[0-9]+|host)$")]
SmName = Annotated[str, StringConstraints(pattern=r"^([0-9]{2,3}|host)$")]
TorchMinor = Annotated[str, StringConstraints(pattern=r"^([0-9]+\.[0-9]+|host)$")]
T = TypeVar("T")
EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]


class Target(Model):
    """The machine that the wheels are for."""

    arch: Arch
    """Its architecture; ``host`` means that of the machine that builds."""
    glibc: GlibcVersion
    """The oldest glibc of the target. No wheel may need a newer one."""
    cpu: str
    """Its oldest CPU, as compilers name it, or ``generic``. No wheel may hold an instruction above it."""
    description: str = ""
    """The devices, for people."""

    @field_validator("cpu")
    @classmethod
    def _cpu_is_known(cls, name: str, read: ValidationInfo) -> str:
        arch = read.data.get("arch", "host")
        if arch != "host":
            _known(find_cpu, name, arch)
        elif name not in (names := {cpu.name for cpu in cpus()}):
            raise ValueError(f"unknown CPU {name}; {nearest(name, names)}")
        return name


class CudaTarget(Model):
    """The GPU side of a target. Each ``host`` means what the machine that builds has."""

    version: CudaVersion
    """The target's CUDA version. Wheels need the same major version, and no feature of a newer minor."""
    sm: tuple[SmName, ...] = Field(min_length=1)
    """Its GPUs' architectures, ``87`` for Orin: one cubin each."""
    ptx: tuple[SmName, ...] = ()
    """Architectures whose PTX is kept too, for GPUs that are not known yet."""
    flavour: Literal["l4t", "sbsa", "desktop", "host"]
    """Whose CUDA it is: Jetson's (L4T), that of an aarch64 server, or x86-64's."""
    torch: TorchMinor
    """The torch minor that extensions are built for by default; an extension works with that minor alone."""

    @field_validator("sm", "ptx")
    @classmethod
    def _architectures_are_known(cls, names: tuple[str, ...], read: ValidationInfo) -> tuple[str, ...]:
        version = read.data.get("version", "host")
        for sm in names:
            gpu = _known(find_gpu, sm) if sm != "host" else None
            if gpu is not None and version != "host" and not gpu.compiled_by(version):
                until = f" to {gpu.until}" if gpu.until else " on"
                raise ValueError(
                    f"SM {sm} ({gpu.name}) is compiled by CUDA {gpu.since}{until}, not by {version}"
                )
        return names


class PythonSupport(Model):
    """The Pythons that the wheels serve."""

    minimum: PythonMinor
    """The oldest CPython minor."""
    tested: tuple[PythonMinor, ...] = ()
    """The minors that the wheels are proven on."""


class PackageChoice(Model):
    """One package of a profile, with the patch sets that it gets."""

    name: Name
    version: VersionText | None = None
    """Its release; by default that of the release line."""
    patches: tuple[Name, ...]
    """The patch sets wanted. The sets that they need come with them, and the order is the package's."""


class BuildChoice(Model):
    """How the packages are compiled."""

    toolchains: tuple[ToolchainName, ...]
    """In order of preference; the first that this machine can use is taken."""
    environment: dict[EnvironmentName, str] = Field(default_factory=dict)
    """Variables for the packages' builds."""
    memory_per_job_mib: int = 1024
    """What the largest compilation needs. As many run at once as memory allows."""


def _requirement(text: str) -> str:
    try:
        Requirement(text)
    except InvalidRequirement as fault:
        raise ValueError(f"{text!r} is no requirement: {fault}") from None
    return text


def _specifier(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier as fault:
        raise ValueError(f"{text!r} is no version specifier: {fault}") from None
    return text


RequirementText = Annotated[str, AfterValidator(_requirement)]
SpecifierText = Annotated[str, AfterValidator(_specifier)]


class InstallChoice(Model):
    """What the wheels need in the environment that they are installed into."""

    torch: SpecifierText = ">=2.4"
    """Version specifier of the torch that must already be installed. mambaport never installs torch."""
    torch_suggested: str = "torch"
    """The requirement that messages suggest for pip when the target has no torch."""
    requires: tuple[RequirementText, ...] = ()
    """Light dependencies, installed when missing."""
    optional: tuple[str, ...] = ()
    """Packages that are used when installed; mambaport never installs them."""
    onnx: tuple[RequirementText, ...] = ("numpy", "pillow", "onnxruntime>=1.20")
    """What `--runtime onnx` installs when missing, in place of torch and ``requires``."""


class Profile(Model):
    """A target profile."""

    name: Name
    aliases: tuple[Name, ...] = ()
    summary: str
    """One line that names the devices and users that the profile is for."""
    extends: str | None = None
    """Another profile, by name or by a path relative to this file, with a variant: ``jetson:jetpack7``.
    Every key that this file lacks is taken from that profile, except aliases and variants."""
    platform: str | None = None
    """The device's system, by its name in ``boards/platforms.toml``: gives glibc and CUDA."""
    target: Target
    cuda: CudaTarget | None = None
    """The target's GPU; without it no CUDA extension is built."""
    python: PythonSupport
    line: str | None = None
    """The release line, by its name in ``patches/lines.toml``; by default that file's default."""
    package: tuple[PackageChoice, ...] = Field(min_length=1)
    """The packages, in the order they are built and installed."""
    build: BuildChoice
    install: InstallChoice = InstallChoice()
    emulate: tuple[Name, ...] = ()
    """The emulated systems that stand in for the target on another machine; the first is the default."""
    variant: SkipJsonSchema[dict[Name, Profile]] = Field(default_factory=dict)
    """Each variant as a whole profile: this one with the variant's keys in place."""
    default_variant: Name | None = None

    @model_validator(mode="after")
    def _names_are_consistent(self) -> Profile:
        names = [package.name for package in self.package]
        if len(set(names)) != len(names):
            raise ValueError(f"package: a name stands twice in {names}")
        return self

    @model_validator(mode="after")
    def _platform_fits(self) -> Profile:
        if self.platform is None:
            return self
        platform, cuda = _known(find_platform, self.platform), self.cuda
        if self.target.arch not in (platform.arch, "host"):
            raise ValueError(f"target.arch: {platform.name} is {platform.arch}, not {self.target.arch}")
        if minor_key(self.target.glibc) > minor_key(platform.glibc):
            raise ValueError(f"target.glibc: {platform.name} has {platform.glibc}, not {self.target.glibc}")
        if cuda is None:
            return self
        if cuda.version.split(".")[0] not in (str(platform.cuda_major), "host"):
            raise ValueError(f"cuda.version: {platform.name} has {platform.cuda}, not {cuda.version}")
        if foreign := sorted(set(cuda.sm) - {*platform.sm, "host"}):
            known = " ".join(platform.sm)
            raise ValueError(f"cuda.sm: {platform.name} runs on SM {known}, not on {' '.join(foreign)}")
        return self

    def with_variant(self, name: str | None) -> Profile:
        """The profile with a variant's keys in place: the one named, else the default one.

        Raises:
            UsageError: there is no such variant.
        """
        name = name or self.default_variant
        if name is None:
            return self
        if name not in self.variant:
            known = ", ".join(sorted(self.variant)) or "none"
            raise UsageError(
                f"Profile {self.name} has no variant {name}",
                found=name,
                expected=f"one of: {known}",
                hint="leave --variant out, or name one of these",
            )
        return self.variant[name]


def read_profile(path: Path) -> Profile:
    """One profile file, with the profile that it extends.

    Raises:
        UsageError: the file does not exist or is not valid; the message names file and keys.
    """
    return make_profile(_read(path, ()), path)


def make_profile(keys: Mapping[str, Any], path: Path) -> Profile:
    """The profile of a file's keys, with its platform's facts, and with each variant made whole.

    Args:
        path: the file, for messages.

    Raises:
        UsageError: a key is not valid.
    """
    data = dict(keys)
    variants = _variants(data, path)
    default = data.get("default-variant")
    profile = validate(Profile, _with_platform(data, path), path)
    if default is not None and default not in variants:
        raise _not_valid(path, f"default-variant: {default!r} is not among {sorted(variants)}")
    plain = {key: value for key, value in data.items() if key not in ("summary", "default-variant")}
    whole = {}
    for name, differences in variants.items():
        prefix = f"variant.{name}."
        variant = _with_platform(merged(plain, differences), path, prefix)
        whole[name] = validate(Profile, variant, path, prefix=prefix)
    return profile.model_copy(update={"variant": whole})


def merged(base: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``keys`` in place: tables key by key, packages by their name, all else as a whole."""
    result = dict(base)
    for key, value in keys.items():
        under = result.get(key)
        if isinstance(under, dict) and isinstance(value, dict):
            result[key] = merged(under, value)
        elif key == "package" and isinstance(under, list) and isinstance(value, list):
            result[key] = _merged_packages(under, value)
        else:
            result[key] = value
    return result


def _merged_packages(base: list[Any], keys: list[Any]) -> list[Any]:
    result = list(base)
    names = [item.get("name") if isinstance(item, dict) else None for item in base]
    for item in keys:
        name = item.get("name") if isinstance(item, dict) else None
        if name is not None and name in names:
            result[names.index(name)] = merged(result[names.index(name)], item)
        else:
            result.append(item)
    return result


def _read(path: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    """The keys of a file, with those of the profiles that it extends."""
    data = read_toml(path)
    extends = data.get("extends")
    if extends is None:
        return data
    if not isinstance(extends, str):
        raise _not_valid(path, "extends: the name or the path of a profile is expected")
    chain = (*extending, path.resolve())
    name, _, variant = extends.partition(":")
    base_path = path.parent / name if name.endswith(".toml") or "/" in name else _builtin_path(name)
    if base_path is None:
        known = [key for item in profiles_dir().glob("*.toml") for key in _names_in(read_toml(item))]
        raise _not_valid(path, f"extends: there is no profile {name}; {nearest(name, known)}")
    if base_path.resolve() in chain:
        raise _not_valid(path, f"extends: {extends} extends this file in turn")
    base = _read(base_path, chain)
    variants = _variants(base, base_path)
    variant = variant or base.get("default-variant", "")
    if variant:
        if variant not in variants:
            raise _not_valid(path, f"extends: {name} has no variant {variant}; {nearest(variant, variants)}")
        base = merged(base, variants[variant])
    for key in ("name", "aliases", "summary", "default-variant"):
        base.pop(key, None)
    return merged(base, data)


def _variants(data: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """Takes the variants out of a file's keys."""
    variants = data.pop("variant", {})
    if not isinstance(variants, dict) or not all(isinstance(item, dict) for item in variants.values()):
        raise _not_valid(path, "variant: a table of tables is expected")
    return variants


def _with_platform(data: Mapping[str, Any], path: Path, prefix: str = "") -> dict[str, Any]:
    """``data`` over the facts of its platform, where it names one."""
    if not isinstance(data.get("platform"), str):
        return dict(data)
    try:
        platform = find_platform(data["platform"])
    except LookupError as fault:
        raise _not_valid(path, f"{prefix}platform: {fault}") from None
    facts: dict[str, Any] = {"target": {"arch": platform.arch, "glibc": platform.glibc}}
    if "cuda" in data:
        facts["cuda"] = {
            "version": platform.cuda,
            "flavour": platform.flavour,
        }
    return merged(facts, data)


def _not_valid(path: Path, fault: str) -> UsageError:
    return UsageError(f"{path} is not valid", found=fault, hint="correct this key")


def builtin_profiles() -> list[Profile]:
    """The profiles that travel with mambaport, by name."""
    return [read_profile(path) for path in sorted(profiles_dir().glob("*.toml"))]


def find_profile(name: str) -> Profile:
    """A profile by name, by alias, or by the path of its file (``./my-board.toml``).

    Raises:
        UsageError: there is no profile of that name.
    """
    if name.endswith(".toml") or "/" in name:
        return read_profile(Path(name))
    path = _builtin_path(name)
    if path is not None:
        return read_profile(path)
    profiles = builtin_profiles()
    raise UsageError(
        f"There is no profile {name}",
        found=name,
        expected=f"one of: {', '.join(_names(profiles))}; or the path of a profile file",
        hint=_like(name, profiles) + "`mambaport profiles` lists them",
    )


def _like(name: str, profiles: Iterable[Profile]) -> str:
    """The profile that the user may have meant; empty where no name is like this one."""
    names = [word for item in profiles for word in (item.name, *item.aliases)]
    close = difflib.get_close_matches(name.strip().lower(), names, n=1)
    return f"did you mean {close[0]}? " if close else ""


def _builtin_path(name: str) -> Path | None:
    paths = sorted(profiles_dir().glob("*.toml"))
    return next((path for path in paths if name in _names_in(read_toml(path))), None)


def _names_in(data: Mapping[str, Any]) -> list[str]:
    """Name and aliases of a profile file."""
    return [str(data.get("name", "")), *map(str, data.get("aliases", ()))]


def _known(find: Callable[..., T], *words: str) -> T:
    """The result of ``find``, for a validator: a LookupError becomes a ValueError."""
    try:
        return find(*words)
    except LookupError as fault:
        raise ValueError(str(fault)) from None


# Sections that may be incomplete in a file: a platform, a variant or an extended profile gives the rest.
_PARTS = ("Target", "CudaTarget", "PythonSupport", "BuildChoice")


def profile_schema() -> dict[str, Any]:
    """The JSON schema of a profile file."""
    schema = Profile.model_json_schema(by_alias=True)
    for name in _PARTS:
        schema["$defs"][name].pop("required", None)
    properties = schema["properties"]
    parts = (
        "summary",
        "platform",
        "target",
        "cuda",
        "python",
        "line",
        "package",
        "build",
        "install",
        "emulate",
    )
    schema["$defs"]["Variant"] = {
        "additionalProperties": False,
        "description": "What differs from the profile, key by key.",
        "properties": {name: properties[name] for name in parts},
        "required": ["summary"],
        "title": "Variant",
        "type": "object",
    }
    name = properties["name"]["pattern"]
    properties["variant"] = {"patternProperties": {name: {"$ref": "#/$defs/Variant"}}, "type": "object"}
    schema["required"] = ["name", "summary"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _names(profiles: Sequence[Profile]) -> list[str]:
    return [
        profile.name + (f" ({', '.join(profile.aliases)})" if profile.aliases else "") for profile in profiles
    ]
