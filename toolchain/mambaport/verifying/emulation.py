"""An aarch64 system on another machine: a Debian root, a real aarch64 torch, and qemu-user to run them.

Both are made once and kept in the store. qemu runs one program; the emulated Python starts no other.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mambaport import pins as pinned
from mambaport import process
from mambaport.boards import find_cpu
from mambaport.digests import data_sha256
from mambaport.errors import HostError
from mambaport.pins import EmulatedSystem
from mambaport.sources import Workshop, unpack_wheel
from mambaport.verifying.stand_ins import add_stand_ins


@dataclass(frozen=True)
class EmulatedRoot:
    """An emulated system, ready to run Python."""

    system: EmulatedSystem
    qemu: str
    cpu: str | None
    """The CPU that qemu emulates; None for every feature that qemu has. The kernels choose their instruction
    set by the CPU. On a newer CPU than the target's, an instruction that the target lacks passes, and torch
    chooses other code: with bfloat16, products good to three digits."""
    root: Path
    site: Path
    """torch and what it needs."""

    def run(
        self,
        arguments: Sequence[str],
        paths: Sequence[Path] = (),
        *,
        env: dict[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> process.Finished:
        """Runs the emulated Python with ``arguments``; ``paths`` go before torch's on its path."""
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": "/nonexistent",
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": ":".join(str(path) for path in (*paths, self.site)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
            "OMP_NUM_THREADS": "1",  # threads that spin while they wait cost minutes under emulation
            **(env or {}),
        }
        python = self.root / "usr" / "bin" / f"python{self.system.python}"
        qemu = [self.qemu, *(("-cpu", self.cpu) if self.cpu else ()), "-L", self.root]
        return process.run([*qemu, python, *arguments], env=environment, cwd=Path("/"), on_line=on_line)


def prepare_emulation(name: str, cpu: str, shop: Workshop) -> EmulatedRoot:
    """An emulated system, on the target's CPU; made the first time.

    Raises:
        HostError: qemu or mmdebstrap is missing, or the root could not be made.
        FetchError: a pinned package cannot be had.
    """
    system = next((item for item in pinned.emulation().system if item.name == name), None)
    if system is None:
        known = ", ".join(item.name for item in pinned.emulation().system)
        raise HostError(
            f"There is no emulated system {name}",
            expected=f"one of: {known}",
            hint="leave --system out: then the profile's first one is taken",
        )
    host = shop.host
    if host.qemu_aarch64 is None:
        raise HostError(
            "aarch64 programs cannot run here",
            found="no qemu-aarch64-static on PATH",
            hint="sudo apt-get install qemu-user-static mmdebstrap",
        )
    root = _root(system, shop)
    site = _site(system, root, shop)
    return EmulatedRoot(system, host.qemu_aarch64.path, find_cpu(cpu, "aarch64").qemu, root, site)


def _root(system: EmulatedSystem, shop: Workshop) -> Path:
    host, offline = shop.host, shop.fetcher.offline
    key = f"{system.suite}-arm64-{data_sha256(system.packages)[:16]}"
    ready = shop.store.get("roots", key)
    if ready is not None:
        return ready / "root"
    if offline or host.mmdebstrap is None:
        raise HostError(
            f"The emulated {system.suite} root is not in the store",
            found="--offline" if offline else "no mmdebstrap on PATH, which makes it",
            hint="run once without --offline" if offline else "sudo apt-get install mmdebstrap",
        )
    program = host.mmdebstrap.path

    def build(folder: Path) -> None:
        with shop.report.working("root", f"Debian {system.suite} arm64") as latest:
            finished = process.run(
                [
                    program,
                    "--variant=extract",
                    "--architectures=arm64",
                    f"--include={','.join(system.packages)}",
                    system.suite,
                    folder / "root",
                ],
                on_line=latest,
            )
        if not finished.ok:
            raise HostError(
                f"mmdebstrap could not make the {system.suite} root",
                found=f"exit status {finished.returncode}",
                hint="it needs Debian's mirror (see below) and, on Ubuntu, debian-archive-keyring",
                detail=finished.tail,
            )

        lib = folder / "root" / "lib"
        if not lib.exists():  # from Debian 13 on, the link is made by a script, and extracting runs none
            lib.symlink_to("usr/lib")

    return shop.store.make("roots", key, build) / "root"


def _site(system: EmulatedSystem, root: Path, shop: Workshop) -> Path:
    key = f"{system.name}-torch-{system.torch}-{data_sha256([pin.sha256 for pin in system.pin])[:16]}"
    ready = shop.store.get("sites", key)
    if ready is not None:
        return ready
    assembler = shop.host.gcc_aarch64 or next(iter(shop.host.gxx_aarch64), None)
    if system.stand_ins and assembler is None:
        raise HostError(
            "The libraries that stand in for CUDA's cannot be made here",
            found="no aarch64-linux-gnu-gcc on PATH",
            hint="sudo apt-get install gcc-aarch64-linux-gnu",
        )
    wheels = [shop.fetcher.fetch(pin) for pin in system.pin]

    def build(folder: Path) -> None:
        with shop.report.working("unpack", f"torch {system.torch} for aarch64 Python {system.python}"):
            for wheel in wheels:
                unpack_wheel(wheel, folder)
            if system.stand_ins:
                assert assembler is not None
                scratch = folder.parent / "stand-ins"
                scratch.mkdir()
                names = add_stand_ins(folder, root, assembler.path, scratch)
                shop.report.line("root", f"{len(names)} CUDA libraries stood in for", "there is no GPU here")

    return shop.store.make("sites", key, build)


def unpack_wheels(wheels: list[Path], folder: Path) -> Path:
    """The wheels under test as an emulated Python's path."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for wheel in wheels:
        unpack_wheel(wheel, folder)
    return folder
