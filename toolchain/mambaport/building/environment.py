"""The build environment: a virtual environment with the pinned requirements and tools, and nothing else."""

from __future__ import annotations

import shutil
import sysconfig
import venv
from pathlib import Path

from mambaport.digests import data_sha256
from mambaport.pins import Pin
from mambaport.sources import Workshop, unpack_wheel


def build_environment(shop: Workshop, pins: tuple[Pin, ...]) -> Path:
    """The environment's Python, of the version that runs mambaport. Each set of pins has one environment.

    Raises:
        FetchError: a requirement cannot be fetched.
    """
    python = shop.host.python
    key = data_sha256([[pin.sha256 for pin in pins], python, sysconfig.get_config_var("BINDIR")])[:40]
    ready = shop.store.get("environments", key)
    if ready is not None and not (ready / "bin" / "python").exists():
        # The environment's Python is a link to the system's Python, which an upgrade may remove.
        shop.report.warn("the build environment's Python is gone; the environment is made again")
        shop.store.discard("environments", key)
        ready = None
    if ready is None:
        wheels = [shop.fetcher.fetch(pin) for pin in pins]
        ready = shop.store.make("environments", key, lambda folder: _fill(folder, wheels))
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


def unpacked_toolchain(shop: Workshop, pins: tuple[Pin, ...]) -> Path | None:
    """The folder of a toolchain's unpacked wheels; None for a toolchain without pins.

    Raises:
        FetchError: a wheel cannot be fetched.
    """
    if not pins:
        return None
    key = f"{pins[0].project}-{pins[0].version}-{data_sha256([pin.sha256 for pin in pins])[:16]}"
    ready = shop.store.get("toolchains", key)
    if ready is not None:
        return ready
    wheels = [shop.fetcher.fetch(pin) for pin in pins]

    def fill(folder: Path) -> None:
        with shop.report.working("unpack", f"{pins[0].project} {pins[0].version}"):
            for wheel in wheels:
                unpack_wheel(wheel, folder)

    return shop.store.make("toolchains", key, fill)
