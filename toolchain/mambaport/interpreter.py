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
    """Its .dist-info folder."""

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
    externally_managed: bool
    torch: Torch | None
    packages: dict[str, Package]

    def to_json(self) -> dict[str, Any]:
        return self.model_dump()


def read_interpreter(python: Path, packages: list[str]) -> Interpreter:
    """Asks an interpreter what it is, and which of ``packages`` it has.

    Raises:
        InstallError: it cannot be run, or is no Python.
    """
    try:
        finished = process.run([python, "-I", _INSPECT, *packages], env=dict(os.environ), tied=False)
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
        ) from None
