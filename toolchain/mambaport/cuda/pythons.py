"""Python's headers for the target: the same on every 64-bit Linux, so any CPython of that minor has them.

``pyconfig.h`` differs between x86-64 and aarch64 only in what the interpreter's own build found; the sizes of
C types, which are all that an extension sees of it, are checked here.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mambaport.digests import data_sha256, tree_sha256
from mambaport.errors import HostError, MambaportError, UsageError
from mambaport.interpreter import read_interpreter

LP64 = {"SIZEOF_LONG": 8, "SIZEOF_VOID_P": 8, "SIZEOF_SIZE_T": 8, "SIZEOF_LONG_LONG": 8, "SIZEOF_WCHAR_T": 4}


@dataclass(frozen=True)
class PythonHeaders:
    """The headers of one CPython."""

    folder: Path
    """Has Python.h."""
    pyconfig: Path
    """Its pyconfig.h; Debian keeps it in a folder per architecture."""
    version: str
    """``3.10.13``"""
    origin: str
    """Whose they are, for people."""
    sha256: str

    @property
    def minor(self) -> str:
        return ".".join(self.version.split(".")[:2])


def find_headers(minor: str, named: Path | None, root: Path = Path("/")) -> PythonHeaders:
    """The headers of a CPython minor: in the folder named, else of a CPython on this machine.

    Raises:
        UsageError: the folder named does not have them.
        HostError: there is none.
    """
    if named is not None:
        return _checked(named, minor)
    looked = []
    for folder, pyconfig, origin in _candidates(minor, root):
        try:
            return read_headers(folder, pyconfig, origin, minor)
        except LookupError as fault:
            looked.append(f"{origin}: {fault}")
    raise HostError(
        f"There are no headers of Python {minor} on this machine",
        found="\n".join(looked) or f"no CPython {minor} on PATH, in pyenv or uv",
        expected=f"Python.h of CPython {minor} for any 64-bit Linux",
        hint=f"`uv python install {minor}`, or `sudo apt-get install python{minor}-dev` where the "
        f"distribution has it, or copy /usr/include/python{minor} from the device and give it with "
        "--python-headers DIR",
    )


def read_headers(folder: Path, pyconfig: Path, origin: str, minor: str) -> PythonHeaders:
    """The headers in a folder.

    Raises:
        LookupError: they are not there, or not those of a 64-bit CPython ``minor`` with its lock.
    """
    if not (folder / "Python.h").is_file():
        raise LookupError(f"no {folder}/Python.h")
    try:
        version = re.search(r'^#define PY_VERSION\s+"([^"+]+)', (folder / "patchlevel.h").read_text(), re.M)
        config = pyconfig.read_text()
    except OSError as fault:
        raise LookupError(f"no {fault.filename}") from None
    if version is None or ".".join(version[1].split(".")[:2]) != minor:
        raise LookupError(f"{folder} is of Python {version[1] if version else 'unknown'}, not {minor}")
    sizes = {name: int(value) for name, value in re.findall(r"^#define (SIZEOF_\w+) (\d+)$", config, re.M)}
    wrong = [name for name, size in LP64.items() if sizes.get(name) != size]
    if wrong:
        raise LookupError(f"{pyconfig} is not of a 64-bit Linux: {', '.join(wrong)}")
    if re.search(r"^#define Py_GIL_DISABLED 1", config, re.M):
        raise LookupError(f"{folder} is of a free-threaded Python")
    digest = data_sha256([tree_sha256(folder), config])
    return PythonHeaders(folder, pyconfig, version[1], origin, digest)


def copy_headers(headers: PythonHeaders, destination: Path) -> None:
    """The headers, with their pyconfig.h among them, into a new folder."""
    shutil.copytree(headers.folder, destination)
    if headers.pyconfig != headers.folder / "pyconfig.h":
        (destination / "pyconfig.h").unlink(missing_ok=True)
        shutil.copyfile(headers.pyconfig, destination / "pyconfig.h")


def _checked(named: Path, minor: str) -> PythonHeaders:
    folder = next(
        (path for path in (named, named / f"python{minor}") if (path / "Python.h").is_file()), named
    )
    split = sorted(named.parent.glob(f"*-linux-gnu/python{minor}/pyconfig.h"))
    pyconfig = folder / "pyconfig.h"
    if split and "SIZEOF_LONG" not in (pyconfig.read_text() if pyconfig.is_file() else ""):
        pyconfig = split[0]
    try:
        return read_headers(folder, pyconfig, str(named), minor)
    except LookupError as fault:
        raise UsageError(
            f"--python-headers has no headers of Python {minor}",
            found=str(fault),
            expected=f"a folder with Python.h, patchlevel.h and pyconfig.h of CPython {minor}",
            hint=f"give /usr/include/python{minor} of the device, or a copy of it",
        ) from None


def _candidates(minor: str, root: Path) -> Iterator[tuple[Path, Path, str]]:
    """Include folder, pyconfig.h and origin of each CPython of that minor on this machine."""
    pythons = [Path(found)] if (found := shutil.which(f"python{minor}")) else []
    home = Path.home()
    for pattern in (
        f".pyenv/versions/{minor}.*/bin/python{minor}",
        f".local/share/uv/python/cpython-{minor}.*/bin/python{minor}",
    ):
        pythons += sorted(home.glob(pattern), reverse=True)
    seen = set()
    for python in pythons:
        try:
            found_python = read_interpreter(python, [])
        except (MambaportError, OSError):
            continue  # a shim of a version manager that has no such version
        key = found_python.include
        if key not in seen:
            seen.add(key)
            yield Path(key), Path(found_python.pyconfig), f"CPython {found_python.version} ({python})"
    system = root / "usr" / "include"
    for pyconfig in sorted(system.glob(f"*-linux-gnu/python{minor}/pyconfig.h")):
        yield system / f"python{minor}", pyconfig, str(system / f"python{minor}")
