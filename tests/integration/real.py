"""The command as a user runs it, and what it leaves behind."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mambaport.sources import unpack_wheel

# This machine's own architecture, and only the smaller package: what is built again and again below.
BOARD = """
name = "my-board"
summary = "A board of this machine's kind"
target = { arch = "host", glibc = "2.28", cpu = "generic" }
python = { minimum = "3.10" }
package = [{ name = "causal-conv1d", version = "1.6.0", patches = ["cpu"] }]
build = { toolchains = ["native", "zig"], environment = { CAUSAL_CONV1D_BUILD_CUDA = "FALSE" } }
"""


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout."""
        assert self.out, self.err
        return json.loads(self.out)

    def good(self) -> Any:
        """The JSON object of a command that did its work."""
        assert self.code == 0, self.err
        return self.json


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "mambaport", *map(str, words), "--json"]


def environment(store: Path, **variables: str) -> dict[str, str]:
    return {**os.environ, "MAMBAPORT_CACHE": str(store), **variables}


def mambaport(store: Path, *words: str | Path, before: tuple[str, ...] = (), **variables: str) -> Ran:
    """Runs a command with --json to its end."""
    finished = subprocess.run(
        [*before, *command(*words)],
        env=environment(store, **variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,  # longer than any command of the tests takes on a slow machine
    )
    return Ran(finished.returncode, finished.stdout, finished.stderr)


def started(store: Path, *words: str | Path) -> subprocess.Popen[str]:
    """Starts a command with --json and leaves it running.

    A shell's background jobs ignore SIGINT and hand that on; ctrl-C must reach what is started here.
    """
    return subprocess.Popen(
        command(*words),
        env=environment(store),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
    )


def ended(process: subprocess.Popen[str]) -> Ran:
    out, err = process.communicate(timeout=300)
    return Ran(process.returncode, out, err)


def reach(process: subprocess.Popen[str], moment: Callable[[], bool]) -> None:
    """Waits until a running command has come to a moment."""
    deadline = time.monotonic() + 120
    while not moment():
        assert process.poll() is None, f"it ended before that moment: {ended(process).err}"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def scratch(store: Path) -> list[str]:
    """What work in progress has left."""
    folder = store / "scratch"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(answer: Any) -> dict[str, str]:
    """Wheel file name -> sha256, of a build's answer; each checked against the file itself."""
    found = {}
    for wheel in answer["wheels"]:
        path = Path(wheel["path"])
        assert sha256(path) == wheel["sha256"]
        found[path.name] = wheel["sha256"]
    return found


def store_beside(shared: Path, folder: Path, *kinds: str) -> Path:
    """A store that shares finished things of some kinds with another, and nothing else."""
    store = folder / "store-of-its-own"
    (store / "seals").mkdir(parents=True)
    for name in (*kinds, *(f"seals/{kind}" for kind in kinds)):
        (shared / name).mkdir(parents=True, exist_ok=True)
        (store / name).symlink_to(shared / name)
    return store


OURS = ("causal_conv1d", "mamba_ssm", "selective_scan")
NOT_SHARED = (*OURS, "mambaport", "pip", "__editable__", "_distutils", "distutils")


def installed_torch() -> list[Path]:
    """The site-packages folders of a Python that has torch: MAMBAPORT_TEST_TORCH's, or this one's."""
    named = os.environ.get("MAMBAPORT_TEST_TORCH")
    if named is None and importlib.util.find_spec("torch") is None:
        pytest.skip("no torch: name a Python that has it in MAMBAPORT_TEST_TORCH")
    code = "import sys; print(*(path for path in sys.path if path.endswith('-packages')), sep='\\n')"
    answer = subprocess.run([named or sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [Path(line) for line in answer.stdout.splitlines()]


def environment_with_torch(folder: Path, without: tuple[str, ...] = ()) -> Path:
    """The Python of a new environment in ``folder`` that sees a real torch and what is installed beside it.

    Nothing of ours is seen, and nothing whose name begins with one of ``without``.
    """
    seen = folder / "seen"
    seen.mkdir()
    for path in (path for site in installed_torch() for path in site.iterdir()):
        hidden = path.name.lower().startswith((*NOT_SHARED, *without))
        if not hidden and not (seen / path.name).exists():
            (seen / path.name).symlink_to(path)
    base = os.environ.get("MAMBAPORT_TEST_TORCH", sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (own,) = (folder / "venv" / "lib").glob("python3*/site-packages")
    (own / "torch-from-elsewhere.pth").write_text(f"{seen}\n")
    return folder / "venv" / "bin" / "python"


def with_wheels(folder: Path, cpu: Any, without: tuple[str, ...] = ()) -> Path:
    """An environment with the wheels, and without some packages."""
    folder.mkdir()
    python = environment_with_torch(folder, without)
    (site,) = (folder / "venv" / "lib").glob("python3*/site-packages")
    for wheel in cpu["wheels"]:
        unpack_wheel(Path(wheel["path"]), site)
    return python
