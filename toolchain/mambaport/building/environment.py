"""What a build runs in: a virtual environment with the pinned requirements and tools, and nothing else."""

from __future__ import annotations

import shutil
import sysconfig
import venv
from pathlib import Path

from mambaport.digests import data_sha256
from mambaport.pins import Pin
from mambaport.report import Report
from mambaport.sources import Fetcher, unpack_wheel
from mambaport.store import Store


def build_environment(store: Store, fetcher: Fetcher, pins: tuple[Pin, ...], python: str) -> Path:
    """The environment's Python, made once per set of pins.

    Args:
        python: version of the Python that runs us; the environment's is the same.

    Raises:
        FetchError: a requirement cannot be had.
    """
    key = data_sha256([[pin.sha256 for pin in pins], python, sysconfig.get_config_var("BINDIR")])[:40]
    ready = store.get("environments", key)
    if ready is None:
        wheels = [fetcher.fetch(pin) for pin in pins]
        ready = store.make("environments", key, lambda folder: _fill(folder, wheels))
    return ready / "bin" / "python"


def _fill(folder: Path, wheels: list[Path]) -> None:
    venv.EnvBuilder(symlinks=True, with_pip=False, clear=False).create(folder)
    site = next((folder / "lib").glob("python3*/site-packages"))
    for wheel in wheels:
        unpack_wheel(wheel, site)
    for scripts in site.glob("*.data/scripts"):
        for program in scripts.iterdir():
            program.chmod(0o755)
            program.rename(folder / "bin" / program.name)
        shutil.rmtree(scripts.parent)


def unpacked_toolchain(store: Store, fetcher: Fetcher, pins: tuple[Pin, ...], report: Report) -> Path | None:
    """Where a toolchain's pinned wheels are unpacked; None when it has none.

    Raises:
        FetchError: it cannot be had.
    """
    if not pins:
        return None
    key = f"{pins[0].project}-{pins[0].version}-{data_sha256([pin.sha256 for pin in pins])[:16]}"
    ready = store.get("toolchains", key)
    if ready is not None:
        return ready
    wheels = [fetcher.fetch(pin) for pin in pins]

    def fill(folder: Path) -> None:
        with report.working("unpack", f"{pins[0].project} {pins[0].version}"):
            for wheel in wheels:
                unpack_wheel(wheel, folder)

    return store.make("toolchains", key, fill)
