"""Installs wheels into an environment with pip, without an index. torch is never changed."""

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
    """Installs ``wheels`` and the missing light dependencies, then proves the wheels.

    When anything fails, or ``prove`` raises, the earlier packages are restored.

    Args:
        options: pip's options that say where dependencies come from.
        settings: pip's settings that say where dependencies come from.

    Raises:
        InstallError: pip failed, torch changed, or the installed files differ from the wheels'; the
            environment is restored.
    """
    names = [wheel.name for wheel in wheels]
    queried = [*names, *(Requirement(text).name for text in profile.install.requires)]
    python = Path(target.executable)
    backup = Backup(target.site)
    if backup.pending:
        names_restored = backup.restore(lambda old: _remove(target, old))
        report.line(
            "restore",
            f"an earlier installation was interrupted; {', '.join(names_restored)} are back as they were",
        )
        target = read_interpreter(python, queried)
    missing = missing_requirements(target, profile.install.requires)
    if missing:
        install_requirements(target, missing, options, settings or {})
        check_requirements(target, missing_requirements(read_interpreter(python, queried), missing))
        report.line("install", f"dependencies: {', '.join(missing)}")
    installed = installed_in(target.site, names)
    backup.take({name: installed[name].path if name in installed else None for name in names})
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
        restored = [f"{name} {package.version}" for name, package in installed.items()]
        state = f"{' and '.join(restored)} put back" if restored else "the new packages were removed again"
        report.line("restore", state)
        if isinstance(fault, MambaportError):
            fault.hint = f"{fault.hint or 'see above'}; the environment is as it was before ({state})"
        raise
    backup.drop()


def _remove(target: Interpreter, names: list[str]) -> None:
    """Uninstalls distributions from the environment's own folder of packages, and from no other folder."""
    if installed := list(installed_in(target.site, names)):
        uninstall(target, installed)


def _torch_stamp(target: Interpreter) -> list[tuple[str, int, int]]:
    """Path, size and modification time of every file of torch."""
    if target.torch is None:
        return []
    root = Path(target.torch.path).parent
    folders = [root / "torch", Path(target.torch.path)]
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix != ".pyc")
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path in files if (stat := path.lstat())]
