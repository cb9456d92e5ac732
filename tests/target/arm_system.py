"""An emulated aarch64 system that starts programs of its own: a Debian root to chroot into.

qemu-user alone runs one program. With the kernel's binfmt_misc, every aarch64 program goes through it, so
that a whole build (Python, gcc, assembler, linker) runs as it does on a device. That needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

BINFMT = Path("/proc/sys/fs/binfmt_misc")
ENTRY = "mambaport-aarch64"
"""The beginning of the names of entries; each run has an entry of its own."""
# An ELF file, 64 bits, little-endian, executable or shared, for machine 183.
MAGIC = r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
PACKAGES = "python3,python3-venv,gcc,libc6-dev,dash,coreutils,util-linux"
DEVICES = {"null": (1, 3), "zero": (1, 5), "random": (1, 8), "urandom": (1, 9)}


@contextlib.contextmanager
def aarch64_programs(qemu: str) -> Iterator[None]:
    """While it lasts, the kernel runs aarch64 programs through qemu.

    Raises:
        OSError: the kernel does not let us.
    """
    mounted = not (BINFMT / "register").exists()
    if mounted:
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT], check=True, capture_output=True)
    entry = BINFMT / f"{_group()}-{os.getpid()}"
    try:
        for left in _abandoned():
            left.write_text("-1")
        # F: the emulator is opened now, so that it is found from inside a chroot.
        (BINFMT / "register").write_text(f":{entry.name}:M::{MAGIC}:{MASK}:{qemu}:F")
        yield
    finally:
        with contextlib.suppress(OSError):
            entry.write_text("-1")
        if mounted and not list(BINFMT.glob(f"{ENTRY}-*")):  # another run's entry stays reachable
            subprocess.run(["umount", BINFMT], check=False)


def _group() -> str:
    """The beginning of the names of this container's entries: a process number is unique in its namespace."""
    return f"{ENTRY}-{Path('/proc/self/ns/pid').stat().st_ino}"


def _abandoned() -> list[Path]:
    """The entries of killed runs."""
    found = BINFMT.glob(f"{_group()}-*")
    return [path for path in found if not Path("/proc", path.name.rpartition("-")[2]).exists()]


@contextlib.contextmanager
def debian_root(root: Path) -> Iterator[None]:
    """A Debian 12 arm64 root with Python and gcc, ready to chroot into."""
    subprocess.run(
        [
            "mmdebstrap",
            "--variant=extract",
            "--architectures=arm64",
            f"--include={PACKAGES}",
            "bookworm",
            root,
        ],
        check=True,
        capture_output=True,
    )
    for name, (major, minor) in DEVICES.items():
        (root / "dev").mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mknod(root / "dev" / name, 0o666 | 0o020000, os.makedev(major, minor))
    for name in ("tmp", "proc", "root"):
        (root / name).mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", root / "proc"], check=False)
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def mounted(folder: Path, target: Path) -> Iterator[None]:
    """``folder`` seen, read only, at ``target``."""
    target.mkdir(parents=True)
    subprocess.run(["mount", "--bind", "-o", "ro", folder, target], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)  # what is below must not be removed with the root


def run_inside(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of the root, with an environment of its own."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["/usr/sbin/chroot", root, *command], env=environment, capture_output=True, text=True, check=False
    )
