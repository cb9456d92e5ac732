"""Hosts of a fleet on this machine: an sshd on loopback for each, with a separate home and environment."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@dataclass
class FleetHost:
    """A host that Ansible reaches by ssh."""

    name: str
    port: int
    variables: dict[str, Any] = field(default_factory=dict)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def key(folder: Path) -> Path:
    """A new key; the public part is beside it."""
    path = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@contextmanager
def sshd(folder: Path, name: str, client: Path, shell: list[str], **variables: Any) -> Iterator[FleetHost]:
    """A running sshd that accepts ``client`` alone.

    Args:
        shell: the program that runs each command of a client, as ``SHELL -c COMMAND``.
        variables: the host's variables for Ansible.
    """
    assert SSHD is not None
    here = folder / name
    here.mkdir()
    entry = here / "entry.sh"
    entry.write_text(f'#!/bin/sh\nexec {shlex.join(shell)} -c "$SSH_ORIGINAL_COMMAND"\n')
    entry.chmod(0o755)
    host_key = key(here)
    port = free_port()
    lines = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": host_key,
        "AuthorizedKeysFile": f"{client}.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "ForceCommand": entry,
    }
    (here / "sshd_config").write_text("".join(f"{word} {value}\n" for word, value in lines.items()))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd changes its root to this empty folder
    with (here / "log").open("w") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", here / "sshd_config"], stderr=log)
    try:
        _wait(process, port, here / "log")
        yield FleetHost(name, port, variables)
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)


def home_shell(home: Path) -> list[str]:
    """A shell of this machine with another home and nothing else of this process's environment."""
    home.mkdir(parents=True)
    return [
        "env",
        "-i",
        f"HOME={home}",
        "PATH=/usr/bin:/bin",
        "LC_ALL=C.UTF-8",
        "OMP_NUM_THREADS=1",
        "/bin/sh",
    ]


def root_shell(root: Path) -> list[str]:
    """A shell inside another system's root."""
    words = ["env", "-i", "HOME=/root", "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "OMP_NUM_THREADS=1"]
    return [*words, "/usr/sbin/chroot", str(root), "/bin/sh"]
