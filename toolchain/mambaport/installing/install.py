"""Putting wheels into an environment: pip does it, without an index, and never touches torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pip

from mambaport import process
from mambaport.errors import InstallError, MambaportError, disk_full
from mambaport.installing.backup import Backup
from mambaport.installing.target import missing_requirements
from mambaport.interpreter import Interpreter, read_interpreter
from mambaport.profile import Profile
from mambaport.report import Report
from mambaport.wheels import Wheel

_PIP_RUNNER = Path(pip.__file__).with_name("__pip-runner__.py")


def install_wheels(
    target: Interpreter,
    wheels: list[Wheel],
    profile: Profile,
    prove: Callable[[], None],
    report: Report,
    index: Sequence[str] = (),
) -> None:
    """Installs ``wheels`` and what light dependencies are missing, then proves them.

    When anything fails, or ``prove`` raises, what was there before is put back. ``index`` holds pip's options
    for where the dependencies come from; by default its own settings say.

    Raises:
        InstallError: pip failed, or torch changed; the environment is as it was.
    """
    names = [wheel.name for wheel in wheels]
    backup = Backup(Path(target.purelib))
    if backup.pending:
        undone = backup.restore(lambda old: _uninstall(target, old))
        report.line(
            "restore", f"an earlier installation was cut off; {', '.join(undone)} are back as they were"
        )
        target = read_interpreter(Path(target.executable), list(target.packages) + names)
    missing = missing_requirements(target, profile.install.requires)
    if missing:
        words = ["install", *index, *_torch_constraint(target), *missing]
        _pip(target, words, "installing " + ", ".join(missing))
        report.line("install", f"dependencies: {', '.join(missing)}")
    there = {name: target.packages.get(name) for name in names}
    backup.take({name: Path(package.path) if package else None for name, package in there.items()})
    try:
        torch_before = _torch_stamp(target)
        words = ["install", "--no-deps", "--no-index", "--force-reinstall", "--no-compile"]
        _pip(target, [*words, *(str(wheel.path) for wheel in wheels)], "installing the wheels")
        if _torch_stamp(target) != torch_before:
            raise InstallError(
                "torch changed during the installation", hint="this is a bug; torch's files differ"
            )
        for wheel in wheels:
            report.line("install", f"{wheel.path.name}", f"into {target.prefix}")
        prove()
    except BaseException as fault:
        backup.restore(lambda old: _uninstall(target, old))
        was = [f"{name} {package.version}" for name, package in there.items() if package]
        state = f"{' and '.join(was)} put back" if was else "the new packages were removed again"
        report.line("restore", state)
        if isinstance(fault, MambaportError):
            fault.hint = f"{fault.hint or 'see above'}; the environment is as it was before ({state})"
        raise
    backup.drop()


def _torch_constraint(target: Interpreter) -> list[str]:
    """pip options that forbid any other torch than the one that is there."""
    assert target.torch is not None
    path = Path(target.purelib) / ".mambaport-constraints.txt"
    path.write_text(f"torch=={target.torch.version}\n", encoding="utf-8")
    return ["--constraint", str(path)]


def _torch_stamp(target: Interpreter) -> list[tuple[str, int, int]]:
    """Size and time of every file of torch."""
    if target.torch is None:
        return []
    root = Path(target.torch.path).parent
    folders = [root / "torch", Path(target.torch.path)]
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix != ".pyc")
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path in files if (stat := path.lstat())]


def _uninstall(target: Interpreter, names: list[str]) -> None:
    _pip(target, ["uninstall", "--yes", *names], "removing " + ", ".join(names))


def _pip(target: Interpreter, arguments: list[str], doing: str) -> None:
    """mambaport's own pip, run by the target's interpreter, which need not have one.

    ``pip --python`` would do the same in a child of its own, which a kill of ours would not reach.

    Raises:
        InstallError: with what pip printed.
    """
    command = [target.executable, str(_PIP_RUNNER), "--disable-pip-version-check"]
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0", "PIP_NO_INPUT": "1"}
    try:
        finished = process.run([*command, *arguments], env=environment)
    finally:
        (Path(target.purelib) / ".mambaport-constraints.txt").unlink(missing_ok=True)
    if finished.ok:
        return
    if "No space left on device" in finished.output:
        raise disk_full(target.purelib)
    raise InstallError(
        f"pip failed while {doing}",
        found=f"exit status {finished.returncode}",
        hint="what pip says is below",
        detail=finished.tail,
    )
