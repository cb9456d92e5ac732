"""Options that several commands share, and the objects that they become."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem
from packaging.utils import canonicalize_name

from mambaport.boards import find_cpu
from mambaport.cuda.resolve import CudaOptions, CudaTools
from mambaport.errors import UsageError
from mambaport.host import read_host
from mambaport.pins import emulation
from mambaport.pipeline import Pipeline
from mambaport.plan import Plan, Runtime, make_plan, resolve_goal
from mambaport.profile import builtin_profiles, find_profile
from mambaport.redaction import redact_all
from mambaport.release_lines import ReleaseChoice
from mambaport.report import Report
from mambaport.settings import read_settings
from mambaport.sources import Fetcher, Workshop
from mambaport.sources.index import index_settings
from mambaport.store import Store
from mambaport.toolchains import TOOLCHAINS

F = TypeVar("F", bound=Callable[..., Any])
FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(path_type=Path)


def complete_profile(
    _context: click.Context, _parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Profiles by name and alias for the shell's completion, else files."""
    found = [
        CompletionItem(name, help=profile.summary)
        for profile in builtin_profiles()
        for name in (profile.name, *profile.aliases)
        if name.startswith(begun)
    ]
    return found or [CompletionItem(begun, type="file")]


def complete_variant(context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The variants of the profile named earlier on the command line; else those of every profile."""
    named = context.params.get("profile_name")
    profiles = builtin_profiles()
    chosen = [item for item in profiles if named in (item.name, *item.aliases)] or profiles
    names = dict.fromkeys(name for item in chosen for name in item.variant)
    return [CompletionItem(name) for name in names if name.startswith(begun)]


variant_option = click.option(
    "--variant", metavar="V", help="A variant of the profile.", shell_complete=complete_variant
)


def profile_option(function: F) -> F:
    """``--profile`` and ``--variant``."""
    function = variant_option(function)
    return click.option(
        "-p",
        "--profile",
        "profile_name",
        metavar="P",
        required=True,
        help="A profile's name or alias, or the path of a profile file.",
        shell_complete=complete_profile,
    )(function)


def release_options(function: Callable[..., None]) -> Callable[..., None]:
    """``--with`` and ``--line``; in their place the command gets a ``ReleaseChoice``, ``releases``."""

    @click.option(
        "--with",
        "with_",
        multiple=True,
        metavar="NAME==V",
        help="A package's release, such as mamba-ssm==2.2.4; the release line decides the other package's.",
    )
    @click.option("--line", metavar="L", help="A release line; by default the profile's.")
    @functools.wraps(function)
    def command(with_: tuple[str, ...], line: str | None, *words: Any, **rest: Any) -> None:
        function(*words, releases=ReleaseChoice(line, _versions(with_)), **rest)

    return command


def _versions(words: tuple[str, ...]) -> dict[str, str]:
    """``NAME==VERSION`` -> name and version.

    Raises:
        UsageError: a word of another form, or a package named twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, _, version = word.partition("==")
        name = canonicalize_name(name.strip())
        if not version.strip() or name in found:
            raise UsageError(
                f"--with {word} is not understood",
                found=f"{name} a second time" if name in found else word,
                expected="NAME==VERSION, once for each package",
                hint="--with mamba-ssm==2.2.4 --with causal-conv1d==1.6.0",
            )
        found[name] = version.strip()
    return found


def output_options(function: Callable[..., None]) -> Callable[..., None]:
    """``--json``, ``--quiet``, ``--debug``; in their place the command gets a ``Session``, first."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
    @click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def command(as_json: bool, quiet: bool, debug: bool, **rest: Any) -> None:
        index = {name: rest.pop(name) for name in ("offline", "index_url", "mirror") if name in rest}
        function(open_session(as_json, quiet, **index), **rest)

    return command


def source_options(function: Callable[..., None]) -> Callable[..., None]:
    """``--offline``, ``--index-url``, ``--mirror``, and those of :func:`output_options`."""
    options = (
        click.option("--offline", is_flag=True, help="Use the store alone; fetch nothing."),
        click.option("--index-url", metavar="URL", help="The package index; by default pip's."),
        click.option(
            "--mirror", type=FOLDER, metavar="DIR", help="A folder of archives in place of the package index."
        ),
    )
    command = output_options(function)
    for option in reversed(options):
        command = option(command)
    return command


def build_options(function: F) -> F:
    """``--toolchain``, ``--jobs``."""
    function = click.option(
        "--jobs",
        type=click.IntRange(min=1),
        metavar="N",
        help="Number of parallel compilers; by default as many as memory allows.",
    )(function)
    return click.option(
        "--toolchain",
        type=click.Choice(list(TOOLCHAINS)),
        help="By default the profile's first toolchain that works on this machine.",
    )(function)


def cuda_options(function: F) -> F:
    """The torch of a CUDA build: ``--python``, ``--torch``, ``--torch-wheel``; and ``--cuda-home``."""
    options = (
        click.option(
            "--python",
            "cuda_python",
            type=FILE,
            metavar="PATH",
            help="CUDA: the interpreter of the environment whose torch the extensions are for.",
        ),
        click.option(
            "--torch", "cuda_torch", metavar="V", help="CUDA: the target's torch, a pinned minor such as 2.6."
        ),
        click.option(
            "--torch-wheel", type=FILE, metavar="FILE", help="CUDA: the wheel of the target's torch."
        ),
        click.option("--cuda-home", type=FOLDER, metavar="DIR", help="CUDA: the toolkit to compile with."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def python_option(function: F) -> F:
    """``--python``."""
    return click.option(
        "--python",
        type=FILE,
        metavar="PATH",
        help="The environment's interpreter; by default that of the active environment, else mambaport's.",
    )(function)


def wheelhouse_option(function: F) -> F:
    """``--wheelhouse``."""
    return click.option(
        "--wheelhouse",
        type=FOLDER,
        metavar="DIR",
        help="The wheels' folder, or the folder above; by default wheels are built or come from the store.",
    )(function)


environment_runtime_option = click.option(
    "--runtime",
    type=click.Choice(["torch", "onnx"]),
    default="torch",
    show_default=True,
    help="onnx: an environment for ONNX Runtime, without torch.",
)


@dataclass(frozen=True)
class Session:
    """The objects that a command works with."""

    as_json: bool
    shop: Workshop

    @property
    def report(self) -> Report:
        return self.shop.report

    @property
    def store(self) -> Store:
        return self.shop.store

    @property
    def fetcher(self) -> Fetcher:
        return self.shop.fetcher

    def pipeline(
        self,
        profile_name: str,
        variant: str | None = None,
        toolchain: str | None = None,
        jobs: int | None = None,
        cuda: CudaOptions | None = None,
        environment: Path | None = None,
        releases: ReleaseChoice | None = None,
        buildable: bool = True,
        runtime: Runtime = "torch",
    ) -> Pipeline:
        """The pipeline of a profile on this machine, announced in a few lines.

        Args:
            environment: the interpreter of the environment to install into; extensions are for its torch.
            buildable: whether this machine must be able to build the wheels.
            runtime: what computes in the environment; with ``onnx``, the package with its library alone.
        """
        profile, host = find_profile(profile_name), self.shop.host
        if (
            environment is not None
            and profile.cuda
            and runtime == "torch"
            and resolve_goal(profile, host).arch == host.arch
        ):
            cuda = CudaOptions(python=environment)
        plan = make_plan(
            profile,
            host,
            variant=variant,
            toolchain=toolchain,
            jobs=jobs,
            cuda=cuda,
            releases=releases,
            buildable=buildable,
        )
        plan = plan if runtime == "torch" else plan.for_onnx()
        announce(plan, self.report)
        return Pipeline(plan, self.shop)

    def emit(self, data: dict[str, Any]) -> bool:
        """With ``--json``: one JSON object on stdout, and True."""
        if self.as_json:
            click.echo(json.dumps(redact_all(data), indent=2))
        return self.as_json


def open_session(
    as_json: bool,
    quiet: bool,
    offline: bool = False,
    index_url: str | None = None,
    mirror: Path | None = None,
) -> Session:
    """The session for the given options. The store is MAMBAPORT_CACHE, or the user's cache folder.

    Raises:
        UsageError: builds cannot use the store's path, or the mirror is not a folder.
    """
    report = Report(quiet=quiet, as_json=as_json)
    store = Store(
        _usable(read_settings().cache),
        lambda name: report.line("wait", name, "another mambaport is making it"),
        report.warn,
    )
    fetcher = Fetcher(store, index_settings(index_url, mirror), report, offline=offline)
    return Session(as_json, Workshop(store, fetcher, report, read_host()))


def _usable(folder: Path) -> Path:
    """Checks the store's folder: setuptools expands braces and dollar signs in a path as variables, and
    compilers write paths as UTF-8 text."""
    text = os.fsencode(folder).decode("utf-8", errors="replace")
    wrong = [sign for sign in "{}$\n\r\ufffd" if sign in text]
    if wrong:
        raise UsageError(
            "The store's path cannot be used for builds",
            found=f"{text!r}",
            expected="UTF-8 text without braces, dollar signs and line ends",
            hint="name another folder with MAMBAPORT_CACHE",
        )
    return folder


def announce(plan: Plan, report: Report) -> None:
    """Prints the plan: one line, and two more for CUDA."""
    goal = plan.goal
    how = "native" if plan.native else f"cross from {plan.host.arch}"
    report.line(
        "plan",
        f"{plan.profile.name} -> {goal.arch}, {goal.cpu}, glibc {goal.glibc}",
        f"{how}, toolchain {plan.toolchain.name}",
    )
    if (cuda := plan.cuda) is not None:
        sm = " ".join(f"sm_{name}" for name in cuda.goal.sm)
        report.line("", f"{sm}, torch {cuda.torch.version}", cuda.torch.origin)
        if isinstance(tools := cuda.found, CudaTools):
            report.line("", f"nvcc {tools.toolkit.release}", tools.toolkit.origin)


def emulated_system(profile_name: str, variant: str | None, requested: str | None) -> str:
    """The emulated system requested, else the profile's first.

    Raises:
        UsageError: there is no such system, or the profile has no system.
    """
    profile = find_profile(profile_name).with_variant(variant)
    known = [item.name for item in emulation().system]
    if requested is not None and requested not in known:
        raise UsageError(
            f"There is no emulated system {requested}",
            expected=f"one of: {', '.join(known)}",
            hint="leave --system out to use the profile's first system",
        )
    if requested is None and not profile.emulate:
        name = profile.name + (f", variant {variant}" if variant else "")
        raise UsageError(
            f"Profile {name} has no emulated system", hint="verify on the machine itself, with --python"
        )
    return requested or profile.emulate[0]


def emulated_cpu(requested: str | None) -> str | None:
    """The CPU requested for an emulated system.

    Raises:
        UsageError: there is no such CPU.
    """
    if requested is not None:
        try:
            find_cpu(requested, "aarch64")
        except LookupError as fault:
            raise UsageError(
                f"{requested} cannot be emulated",
                found=str(fault),
                expected="an aarch64 CPU of profiles/boards/cpus.toml",
                hint="leave --emulated-cpu out to use the profile's CPU",
            ) from None
    return requested


def default_python(python: Path | None) -> Path:
    """The interpreter named; else that of the active environment, else mambaport's."""
    if python is not None:
        # Links are kept: the python of a virtual environment is a link, and its path selects the environment.
        return python.absolute()
    active = read_settings().virtual_env
    return active / "bin" / "python" if active else Path(sys.executable)
