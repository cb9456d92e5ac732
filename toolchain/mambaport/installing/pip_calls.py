"""Calls of pip by the target interpreter, and the comparison of the installed files with the wheels."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from mambaport import process
from mambaport.errors import InstallError, disk_full
from mambaport.interpreter import Interpreter, quiet_environment
from mambaport.pip_settings import RUNNER, pip_environment
from mambaport.wheels import Wheel


def install_files(target: Interpreter, wheels: Sequence[Path], requirements: Sequence[Path] = ()) -> None:
    """Installs exactly these wheels, replacing installed versions, without an index.

    Args:
        requirements: wheels that are installed by name and version, as from an index: pip records the path of
            every other wheel.

    Raises:
        InstallError: pip failed.
        HostError: the disk is full.
    """
    words = ["--no-deps", "--no-index", "--force-reinstall", "--no-compile"]
    words += [
        word for folder in {path.parent for path in requirements} for word in ("--find-links", str(folder))
    ]
    words += [str(path.absolute()) for path in wheels]
    words += ["{}=={}".format(*parse_wheel_filename(path.name)[:2]) for path in requirements]
    _pip(target, ["install", *_scheme(target), *words], "installing the wheels")


def requirement_wheels(
    target: Interpreter,
    requirements: Sequence[str],
    options: Sequence[str],
    settings: Mapping[str, str],
    folder: Path,
) -> list[Path]:
    """Makes the wheels in ``folder`` that satisfy requirements without torch, or without another torch. The
    environment is read only.

    Args:
        options: pip's options that say where packages come from.
        settings: pip's settings that say where packages come from; they may hold a password.

    Raises:
        InstallError: pip failed, or wants another torch.
        HostError: the disk is full.
    """
    constraints, report, wheels = (folder / name for name in ("constraints.txt", "report.json", "wheels"))
    torch = target.torch.version if target.torch else None
    constraints.write_text(f"torch=={torch}\n" if torch else "", encoding="utf-8")
    words = ["--dry-run", "--report", str(report), "--constraint", str(constraints)]
    doing = "choosing versions of " + ", ".join(requirements)
    _pip(target, ["install", *_scheme(target), *options, *words, *requirements], doing, settings)
    rows = json.loads(report.read_text(encoding="utf-8"))["install"]
    chosen = {str(canonicalize_name(row["metadata"]["name"])): row["metadata"]["version"] for row in rows}
    if "torch" in chosen:
        raise InstallError(
            "The requirements need another torch",
            found=f"pip would install torch {chosen['torch']}",
            expected=f"torch {torch}, unchanged" if torch else "no torch",
            hint=f"install them by hand: {', '.join(requirements)}",
        )
    if not chosen:
        return []
    pinned = [f"{name}=={version}" for name, version in chosen.items()]
    words = ["wheel", *options, "--no-deps", "--wheel-dir", str(wheels), *pinned]
    _pip(target, words, "fetching " + ", ".join(pinned), settings)
    return sorted(wheels.glob("*.whl"))


def versions_in(site: Path) -> dict[str, str]:
    """The version of every distribution in one folder of packages, by normalised name."""
    found = {}
    for item in metadata.distributions(path=[str(site)]):
        if name := item.metadata["Name"]:
            found[str(canonicalize_name(name))] = str(item.version)
    return dict(sorted(found.items()))


def check_requirements(target: Interpreter, requirements: Sequence[str]) -> None:
    """Refuses an environment that lacks ``requirements`` although pip reported success.

    Raises:
        InstallError: a requirement is missing; the error names each.
    """
    if requirements:
        raise InstallError(
            "pip reported success, but did not install every requirement",
            found=f"without {', '.join(requirements)}: {target.place}",
            expected=f"{', '.join(requirements)} in {target.site}",
            hint=f"install them by hand, then run this again: {target.executable} -m pip install "
            + " ".join(f"'{text}'" for text in requirements),
        )


def check_files(target: Interpreter, wheels: Sequence[Wheel]) -> None:
    """Compares an environment with the wheels installed into it: versions, folders, and every file's digest.

    Args:
        target: the environment, read after the installation.

    Raises:
        InstallError: the environment differs; the error has each difference.
    """
    reasons = differences(target, wheels)
    if reasons:
        raise InstallError(
            "The installed files differ from those of the wheels",
            found="\n".join(reasons),
            expected=f"each file of the wheels in {target.site}, first where Python looks",
            hint="remove the other copies that are named here; PYTHONPATH and the user's site-packages come "
            "before an environment's own",
        )


def differences(target: Interpreter, wheels: Sequence[Wheel]) -> list[str]:
    """How an environment differs from the wheels: for each wheel, at most ten sentences."""
    return [reason for wheel in wheels for reason in _differences(target, wheel)]


def _differences(target: Interpreter, wheel: Wheel) -> list[str]:
    installed = target.packages.get(wheel.name)
    if installed is None:
        return [f"{wheel.name} is not installed"]
    if Version(installed.version) != Version(wheel.version) or not target.holds(installed):
        return [f"Python finds {wheel.name} {installed.version} in {Path(installed.path).parent}"]
    reasons = []
    for name, digest in _record(wheel):
        path = target.site / name
        try:
            content = path.read_bytes()
        except OSError as fault:
            reasons.append(f"{path}: {fault.strerror}")
            continue
        if digest and digest != _digest(digest.partition("=")[0], content):
            reasons.append(f"{path} differs from the wheel's")
    return reasons[:10]


def _record(wheel: Wheel) -> list[tuple[str, str]]:
    """The files that a wheel puts into site-packages, and their digests as RECORD writes them."""
    with zipfile.ZipFile(wheel.path) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
        rows = list(csv.reader(archive.read(name).decode("utf-8").splitlines()))
    files = [(row[0], row[1]) for row in rows if len(row) > 1 and row[0] != name]
    return [(file, digest) for file, digest in files if ".data/" not in file]


def _digest(algorithm: str, content: bytes) -> str:
    digest = hashlib.new(algorithm, content).digest()
    return f"{algorithm}={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def _scheme(target: Interpreter) -> list[str]:
    """The option for the folder of packages. Without it, pip chooses a folder by what it may write to."""
    return ["--user"] if target.for_user else ["--no-user"]


def _pip(
    target: Interpreter, arguments: Sequence[str], doing: str, settings: Mapping[str, str] | None = None
) -> None:
    """Runs mambaport's pip with the target's interpreter, which need not have pip.

    Args:
        settings: pip's settings that say where packages come from; None for a call without an index.

    ``pip --python`` would start another child process, which a kill of ours would not reach.

    Raises:
        InstallError: pip failed; the error has what pip printed.
    """
    command = [target.executable, str(RUNNER), "--disable-pip-version-check", *arguments]
    environ = quiet_environment()
    if settings is None:  # pip must see the environment alone, not copies in PYTHONPATH
        environ.pop("PYTHONPATH", None)
    environment = {**pip_environment(settings or {}, environ), "TMPDIR": tempfile.gettempdir()}
    finished = process.run(command, env=environment, cwd=Path("/"))
    if finished.ok:
        return
    if "No space left on device" in finished.output:
        raise disk_full(str(target.site))
    raise InstallError(
        f"pip failed while {doing}",
        found=f"exit status {finished.returncode}",
        hint="pip's output is below",
        detail=finished.tail,
    )
