"""Installs wheels into an environment with pip, without an index. torch is never changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.utils import parse_wheel_filename

from mambaport.errors import InstallError, MambaportError
from mambaport.installing import previous
from mambaport.installing.backup import Backup
from mambaport.installing.footprint import footprint
from mambaport.installing.pip_calls import (
    check_files,
    check_requirements,
    differences,
    install_files,
    requirement_wheels,
    versions_in,
)
from mambaport.installing.target import missing_requirements, queried_names
from mambaport.interpreter import Interpreter, read_interpreter
from mambaport.interruption import postponed
from mambaport.locking import locked
from mambaport.profile import Profile
from mambaport.report import Report
from mambaport.wheels import Wheel, reading


def install_wheels(
    target: Interpreter,
    wheels: list[Wheel],
    profile: Profile,
    prove: Callable[[], None],
    report: Report,
    options: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    *,
    keep_previous: bool = False,
) -> None:
    """Installs ``wheels`` and the missing light dependencies, then proves the wheels.

    When anything fails, or ``prove`` raises, every file of the environment is restored: the earlier packages,
    their programs in ``bin``, the dependencies. The error names every difference that stays.

    Args:
        options: pip's options that say where dependencies come from.
        settings: pip's settings that say where dependencies come from.
        keep_previous: keeps the environment before for :func:`undo`.

    Raises:
        InstallError: pip failed, torch changed, or the installed files differ from the wheels'; the
            environment is restored. Or another installation into the environment runs.
    """
    target.site.mkdir(parents=True, exist_ok=True)
    with locked(target.site, _refusal(target)):
        _install(target, wheels, profile, prove, report, options, settings or {}, keep_previous)


def undo(target: Interpreter, report: Report) -> None:
    """Restores the environment before the last installation that kept it, or before an interrupted one.

    Raises:
        InstallError: no installation can be undone, or the packages were changed after the installation.
    """
    if not target.site.is_dir():
        previous.go_back(target.site)
    with locked(target.site, _refusal(target)):
        if _restore_interrupted(target, report):
            return
        before = versions_in(target.site)
        with postponed():
            names = previous.go_back(target.site)
        after = versions_in(target.site)
        for name in names:
            text = f"{before.get(name, 'none')} -> {after.get(name, 'not installed, as before')}"
            report.line("restore", str(name), text)


def installed_already(target: Interpreter, wheels: Sequence[Wheel], profile: Profile) -> bool:
    """Whether an environment has every file of ``wheels``, and the requirements, and nothing interrupted."""
    if Backup(target.site).pending or missing_requirements(target, profile.install.requires):
        return False
    return not differences(target, wheels)


def _refusal(target: Interpreter) -> InstallError:
    return InstallError(
        f"Another installation into {target.place} runs",
        found=f"another process has locked {target.site}",
        expected="one installation at a time",
        hint="run this again when the other installation has finished",
    )


def _restore_interrupted(target: Interpreter, report: Report) -> bool:
    """Restores the environment before an interrupted installation. Returns whether there was one."""
    backup = Backup(target.site)
    if not backup.pending:
        return False
    with postponed():
        restored = backup.restore()
    report.line(
        "restore", f"an earlier installation was interrupted; {', '.join(restored)} are back as they were"
    )
    return True


def _install(
    target: Interpreter,
    wheels: list[Wheel],
    profile: Profile,
    prove: Callable[[], None],
    report: Report,
    options: Sequence[str],
    settings: Mapping[str, str],
    keep_previous: bool,
) -> None:
    """:func:`install_wheels`, in an environment that no other installation changes."""
    names = [wheel.name for wheel in wheels]
    queried = [*names, *queried_names(profile.install.requires)]
    python = Path(target.executable)
    backup = Backup(target.site)
    if _restore_interrupted(target, report):
        target = read_interpreter(python, queried)
    backup.drop()
    missing = missing_requirements(target, profile.install.requires)
    before = versions_in(target.site)
    torch_before = _torch_stamp(target)
    try:
        with TemporaryDirectory(prefix="requirements-") as folder:
            more = requirement_wheels(target, missing, options, settings, Path(folder)) if missing else []
            files = [wheel.path for wheel in wheels]
            with reading(_unreadable):
                found = footprint(target.site, [*files, *more])
            backup.take(names, found)
            install_files(target, files, more)
        _check_torch(target, torch_before)
        if missing:
            check_requirements(target, missing_requirements(read_interpreter(python, queried), missing))
            report.line("install", f"dependencies: {', '.join(missing)}")
        check_files(read_interpreter(python, names), wheels)
        for wheel in wheels:
            report.line("install", f"{wheel.path.name}", f"into {target.place}")
        prove()
        with postponed():
            if keep_previous:
                previous.keep(backup, [*names, *(parse_wheel_filename(path.name)[0] for path in more)])
            else:
                previous.forget(target.site)
                backup.drop()
    except BaseException as fault:
        with postponed():
            restored = backup.restore() if backup.pending else []
        state = _state(before, versions_in(target.site), restored)
        report.line("restore", state)
        if isinstance(fault, MambaportError):
            fault.hint = f"{fault.hint or 'see above'}; {state}"
        raise


def _unreadable(fault: Exception) -> InstallError:
    return InstallError(
        "A wheel cannot be read",
        found=f"{type(fault).__name__}: {fault}",
        expected="whole wheels, of the requirements too",
        hint="run this again; where that fails, install the requirements by hand first",
    )


def _state(before: Mapping[str, str], after: Mapping[str, str], names: Sequence[str]) -> str:
    """How an environment differs from the environment before, in words.

    Args:
        before, after: name of each distribution -> version.
        names: the distributions that were replaced and restored; none when the wheels were not yet installed.
    """
    restored = [f"{name} {before[name]}" for name in names if name in before]
    packages = f"{' and '.join(restored)} put back" if restored else "the new packages were removed again"
    packages = packages if names else "the wheels were not yet installed"
    stay = [
        f"{name} {version}" + (f" (before: {before[name]})" if name in before else "")
        for name, version in after.items()
        if before.get(name) != version
    ]
    lost = [f"{name} {version}" for name, version in before.items() if name not in after]
    if not stay and not lost:
        return f"the environment is as it was before ({packages})"
    changes = [
        *([f"{', '.join(stay)} stay"] if stay else []),
        *([f"without {', '.join(lost)}"] if lost else []),
    ]
    return f"{packages}; the environment differs from before: {'; '.join(changes)}"


def _check_torch(target: Interpreter, before: list[tuple[str, int, int]]) -> None:
    if _torch_stamp(target) != before:
        raise InstallError(
            "torch changed during the installation",
            found=f"other files in {target.torch.folder if target.torch else target.site}",
            expected=f"torch {target.torch.version if target.torch else ''}, unchanged",
            hint="this is a bug; install torch again",
        )


def _torch_stamp(target: Interpreter) -> list[tuple[str, int, int]]:
    """Path, size and modification time of every file of torch."""
    if target.torch is None:
        return []
    root = Path(target.torch.path).parent
    folders = [root / "torch", Path(target.torch.path)]
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix != ".pyc")
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path in files if (stat := path.lstat())]
