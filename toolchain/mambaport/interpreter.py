"""A Python interpreter and its environment, as the interpreter reports them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mambaport import process
from mambaport.errors import InstallError
from mambaport.models import Model
from mambaport.settings import process_environment

_INSPECT = Path(__file__).with_name("inspect_interpreter.py")


class Torch(Model):
    """The torch of an environment."""

    version: str
    cuda: str | None
    path: str
    """The .dist-info folder; the package's folder where no .dist-info stands beside it."""

    @property
    def folder(self) -> Path:
        """The package's folder: ``.../site-packages/torch``."""
        return Path(self.path).parent / "torch"


class Package(Model):
    """An installed distribution."""

    version: str
    path: str
    """The .dist-info folder."""


class Interpreter(Model):
    """A Python interpreter and its environment."""

    executable: str
    version: str
    implementation: str
    arch: str
    bits: int
    glibc: str
    prefix: str
    virtual: bool
    purelib: str
    """The environment's own site-packages."""
    writable: bool = True
    """Whether this user may write to ``purelib``."""
    user_site: str | None = None
    """The user's site-packages (~/.local); None where the interpreter does not read them."""
    externally_managed: bool
    torch: Torch | None
    packages: dict[str, Package]

    @property
    def for_user(self) -> bool:
        """Whether packages go into the user's site-packages: outside a virtual environment, when the user's
        site-packages hold torch or the system's site-packages are not writable."""
        if self.virtual or self.user_site is None:
            return False
        with_torch = self.torch is not None and Path(self.torch.path).parent == Path(self.user_site)
        return with_torch or not self.writable

    @property
    def site(self) -> Path:
        """The folder that packages go into."""
        return Path(self.user_site if self.for_user and self.user_site else self.purelib)

    @property
    def place(self) -> str:
        """The folder or environment that packages go into, for messages."""
        return str(self.site) if self.for_user else self.prefix

    def holds(self, package: Package) -> bool:
        """Whether a distribution is in :attr:`site`. Others, such as the system's, are never changed."""
        return Path(package.path).parent.resolve() == self.site.resolve()

    def to_json(self) -> dict[str, Any]:
        return self.model_dump()


# The variables that say where packages are. Others (PYTHONOPTIMIZE, ...) change how a program runs.
_KEPT = frozenset({"PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE"})


def python_environment() -> dict[str, str]:
    """The variables for a target interpreter, which must find the packages that the user's programs find.

    Of Python's variables, only those that say where packages are. In PYTHONPATH, relative folders become
    absolute and empty ones are left out, so that the result does not depend on the working folder.
    """
    variables = {
        key: value
        for key, value in process_environment().items()
        if not key.startswith("PYTHON") or key in _KEPT
    }
    if "PYTHONPATH" in variables:
        folders = [str(Path(part).absolute()) for part in variables["PYTHONPATH"].split(os.pathsep) if part]
        variables["PYTHONPATH"] = os.pathsep.join(folders)
    return variables


def quiet_environment() -> dict[str, str]:
    """The variables of :func:`python_environment`, for a program that writes no bytecode beside modules."""
    return {**python_environment(), "PYTHONDONTWRITEBYTECODE": "1"}


def read_interpreter(python: Path, packages: list[str]) -> Interpreter:
    """Runs an interpreter and reads its facts, and those of ``packages`` in its environment.

    Raises:
        InstallError: ``python`` cannot be run, or is not a Python interpreter.
    """
    try:
        finished = process.run(
            [python.absolute(), _INSPECT, *packages], env=quiet_environment(), cwd=Path("/")
        )
    except (FileNotFoundError, PermissionError) as fault:
        raise InstallError(
            f"{python} cannot be run",
            found=fault.strerror or str(fault),
            expected="a Python interpreter",
            hint="give the interpreter of the environment, for example --python .venv/bin/python",
        ) from None
    except OSError as fault:
        raise InstallError(
            f"{python} does not run on this machine",
            found=fault.strerror or str(fault),
            expected="an interpreter for this machine's architecture",
            hint="`mambaport verify --emulate` runs aarch64 here; or copy the wheelhouse to the device",
        ) from None
    try:
        return Interpreter.model_validate(json.loads(finished.output.strip().splitlines()[-1]))
    except (ValueError, IndexError):
        raise InstallError(
            f"{python} is not a Python that mambaport understands",
            found=finished.tail or "no output",
            expected="a CPython interpreter",
            hint="give the interpreter of the environment, for example --python .venv/bin/python",
        ) from None
