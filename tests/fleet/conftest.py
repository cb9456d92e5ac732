"""What the fleet's tests share: wheels, an index, and three hosts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "integration"), str(TESTS / "unit"), str(TESTS / "target")]

from arm_system import aarch64_programs, debian_root, mounted  # noqa: E402
from hosts import SSHD, FleetHost, home_shell, key, root_shell, sshd  # noqa: E402
from real import environment_with_torch  # noqa: E402
from test_native import SITE, _environment, _install_mambaport  # noqa: E402
from test_real_install import WRONG_NUMBERS  # noqa: E402

from mambaport.cli.options import open_session  # noqa: E402
from mambaport.verifying import prepare_emulation  # noqa: E402

ROOT = TESTS.parent
TOOL = Path(sys.executable).with_name("mambaport")


def mambaport(*words: str | Path) -> Any:
    done = subprocess.run([TOOL, *words, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheels of ``rpi`` and of ``cpu`` on two release lines, a folder for each profile."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    for words in (("rpi",), ("cpu",), ("cpu", "--line", "2.3")):
        mambaport("build", "-p", *words, "-o", folder / words[0])
    return folder


@pytest.fixture(scope="session")
def index(wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an index of these wheels, with the digest of its SHA256SUMS."""
    site = tmp_path_factory.mktemp("index") / "site"
    answer = mambaport("index", wheelhouse, "-o", site)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Prints nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/#sha256={answer['sha256']}"
    server.shutdown()


@pytest.fixture(scope="session")
def wrong(wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of line 2.3 for this machine that pass every audit and give wrong numbers."""
    folder = tmp_path_factory.mktemp("wrong")
    opened = tmp_path_factory.mktemp("opened")
    shutil.copy(next((wheelhouse / "cpu").glob("causal_conv1d-1.7*.whl")), folder)
    good = next((wheelhouse / "cpu").glob("mamba_ssm-2.3*.whl"))
    wheel = [sys.executable, "-m", "wheel"]
    subprocess.run([*wheel, "unpack", good, "--dest", opened], check=True, capture_output=True)
    (root,) = opened.iterdir()
    path = root / "mamba_ssm/ops/selective_scan_interface.py"
    path.write_text(path.read_text() + WRONG_NUMBERS)
    subprocess.run([*wheel, "pack", root, "--dest-dir", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def pi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """The root of an emulated aarch64 system with mambaport, and an environment with torch: /mamba.

    None where this machine cannot emulate one, or with ``MAMBAPORT_TEST_EMULATE=0``: then the third host is
    of this machine's kind.
    """
    qemu = shutil.which("qemu-aarch64-static")
    possible = qemu is not None and shutil.which("mmdebstrap") is not None and os.geteuid() == 0
    if not possible or os.environ.get("MAMBAPORT_TEST_EMULATE") == "0":
        yield None
        return
    assert qemu is not None
    root = tmp_path_factory.mktemp("pi") / "root"
    with ExitStack() as stack:
        try:
            stack.enter_context(aarch64_programs(qemu))
        except (OSError, subprocess.CalledProcessError):  # the kernel does not let us
            yield None
            return
        stack.enter_context(debian_root(root))
        _install_mambaport(root)
        program = root / "tool/bin/mambaport"
        program.write_text('#!/bin/sh\nexec /tool/bin/python -m mambaport "$@"\n')
        program.chmod(0o755)
        _environment(root, "/mamba")
        (root / "mamba" / SITE / "torch.pth").write_text("/torch\n")
        torch = prepare_emulation("bookworm", "cortex-a72", open_session(as_json=True, quiet=True).shop)
        stack.enter_context(mounted(torch.site, root / "torch"))
        yield root


@pytest.fixture(scope="session")
def fleet(
    pi: Path | None, wheelhouse: Path, index: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[FleetHost]]:
    """Two hosts of this machine's kind, the first with wheels from the index; and the Pi."""
    if SSHD is None:
        pytest.skip("no sshd; sudo apt-get install openssh-server")
    folder = tmp_path_factory.mktemp("hosts")
    client = key(folder)
    common = {"ansible_ssh_private_key_file": str(client)}
    with ExitStack() as stack:

        def alike(name: str, **variables: str) -> FleetHost:
            (folder / f"{name}-torch").mkdir()
            shell = home_shell(folder / f"{name}-home")
            more = {
                "ansible_python_interpreter": sys.executable,
                "mambaport_profile": "cpu",
                "mambaport_python": str(environment_with_torch(folder / f"{name}-torch")),
                "mambaport_command": str(TOOL),
            }
            return stack.enter_context(sshd(folder, name, client, shell, **common, **more, **variables))

        from_controller = {"mambaport_wheels": str(wheelhouse / "cpu")}
        hosts = [alike("first", mambaport_index=index), alike("second", **from_controller)]
        if pi is None:
            hosts.append(alike("third", **from_controller))
        else:
            more = {
                "ansible_python_interpreter": "/usr/bin/python3",
                "mambaport_profile": "rpi",
                "mambaport_python": "/mamba/bin/python",
                "mambaport_command": "/tool/bin/mambaport",
                "mambaport_wheels": str(wheelhouse / "rpi"),
            }
            hosts.append(stack.enter_context(sshd(folder, "pi", client, root_shell(pi), **common, **more)))
        yield hosts
