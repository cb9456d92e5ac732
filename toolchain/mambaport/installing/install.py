"""Putting wheels into an environment: pip does it, without an index, and never touches torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from mambaport.errors import InstallError, MambaportError
from mambaport.installing.backup import Backup
from mambaport.installing.pip_calls import (
    check_files,
    check_requirements,
    install_files,
    install_requirements,
    installed_in,
    uninstall,
)
from mambaport.installing.target import missing_requirements
from mambaport.interpreter import Interpreter, read_interpreter
from mambaport.profile import Profile
from mambaport.report import Report
from mambaport.wheels import Wheel


def install_wheels(
    target: Interpreter,
    wheels: list[Wheel],
    profile: Profile,
    prove: Callable[[], None],
    report: Report,
    options: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
) -> None:
    """Installs ``wheels`` and what light dependencies are missing, then proves them.

    When anything fails, or ``prove`` raises, what was there before is put back.

    Args:
        options: pip's options for where the dependencies come from.
        settings: pip's settings for that.

    Raises:
        InstallError: pip failed, torch changed, or what is installed is not what the wheels hold; the
            environment is as it was.
    """
    names = [wheel.name for wheel in wheels]
    asked = [*names, *(Requirement(text).name for text in profile.install.requires)]
    python = Path(target.executable)
    backup = Backup(target.site)
    if backup.pending:
        undone = backup.restore(lambda old: _remove(target, old))
        report.line(
            "restore", f"an earlier installation was cut off; {', '.join(undone)} are back as they were"
        )
        target = read_interpreter(python, asked)
    missing = missing_requirements(target, profile.install.requires)
    if missing:
        install_requirements(target, missing, options, settings or {})
        check_requirements(target, missing_requirements(read_interpreter(python, asked), missing))
        report.line("install", f"dependencies: {', '.join(missing)}")
    there = installed_in(target.site, names)
    backup.take({name: there[name].path if name in there else None for name in names})
    try:
        torch_before = _torch_stamp(target)
        install_files(target, wheels)
        if _torch_stamp(target) != torch_before:
            raise InstallError(
                "torch changed during the installation", hint="this is a bug; torch's files differ"
            )
        check_files(read_interpreter(python, names), wheels)
        for wheel in wheels:
            report.line("install", f"{wheel.path.name}", f"into {target.place}")
        prove()
    except BaseException as fault:
        backup.restore(lambda old: _remove(target, old))
        was = [f"{name} {package.version}" for name, package in there.items()]
        state = f"{' and '.join(was)} put back" if was else "the new packages were removed again"
        report.line("restore", state)
        if isinstance(fault, MambaportError):
            fault.hint = f"{fault.hint or 'see above'}; the environment is as it was before ({state})"
        raise
    backup.drop()


def _remove(target: Interpreter, names: list[str]) -> None:
    """Uninstalls what stands where packages go, and no distribution of that name elsewhere."""
    if here := list(installed_in(target.site, names)):
        uninstall(target, here)


def _torch_stamp(target: Interpreter) -> list[tuple[str, int, int]]:
    """Size and time of every file of torch."""
    if target.torch is None:
        return []
    root = Path(target.torch.path).parent
    folders = [root / "torch", Path(target.torch.path)]
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix != ".pyc")
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path in files if (stat := path.lstat())]
