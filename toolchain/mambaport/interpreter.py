"""A Python interpreter and its environment, as it says of itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mambaport import process
from mambaport.errors import InstallError
from mambaport.models import Model

_INSPECT = Path(__file__).with_name("inspect_interpreter.py")


class Torch(Model):
    """The torch of an environment."""

    version: str
    cuda: str | None
    path: str
    """Its .dist-info folder, or the package itself where it has none beside it."""

    @property
    def folder(self) -> Path:
        """The package itself: ``.../site-packages/torch``."""
        return Path(self.path).parent / "torch"


class Package(Model):
    """An installed distribution."""

    version: str
    path: str
    """Its .dist-info folder."""


class Interpreter(Model):
    """A Python and the environment it stands in."""

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
    """The user's site-packages (~/.local), where the interpreter looks there."""
    externally_managed: bool
    torch: Torch | None
    packages: dict[str, Package]

    @property
    def for_user(self) -> bool:
        """Whether packages go into the user's site-packages: outside of a virtual environment, where torch is
        there, or where the system's cannot be written to."""
        if self.virtual or self.user_site is None:
            return False
        beside = self.torch is not None and Path(self.torch.path).parent == Path(self.user_site)
        return beside or not self.writable

    @property
    def site(self) -> Path:
        """The folder that packages go into."""
        return Path(self.user_site if self.for_user and self.user_site else self.purelib)

    @property
    def place(self) -> str:
        """Where packages go, for people."""
        return str(self.site) if self.for_user else self.prefix

    def holds(self, package: Package) -> bool:
        """Whether a distribution stands where packages go; others, such as the system's, are left alone."""
        return Path(package.path).parent.resolve() == self.site.resolve()

    def to_json(self) -> dict[str, Any]:
        return self.model_dump()


# Which say where packages are. The others (PYTHONOPTIMIZE, PYTHONSAFEPATH, ...) change how a program runs.
_KEPT = frozenset({"PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE"})


def python_environment() -> dict[str, str]:
    """The caller's environment for a target interpreter: it sees the packages that the user's programs see.

    Of Python's variables only those that say where packages are; PYTHONPATH's relative folders are made
    absolute and its empty ones left out, so that the working folder decides nothing.
    """
    found = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON") or key in _KEPT}
    if "PYTHONPATH" in found:
        folders = [str(Path(part).absolute()) for part in found["PYTHONPATH"].split(os.pathsep) if part]
        found["PYTHONPATH"] = os.pathsep.join(folders)
    return found


def read_interpreter(python: Path, packages: list[str]) -> Interpreter:
    """Asks an interpreter what it is, and which of ``packages`` it has.

    Raises:
        InstallError: it cannot be run, or is no Python.
    """
    try:
        finished = process.run(
            [python.absolute(), _INSPECT, *packages], env=python_environment(), cwd=Path("/"), tied=False
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
