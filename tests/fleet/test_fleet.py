"""The collection deploy/ansible on three hosts behind real sshds, one of them an emulated aarch64 system."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from hosts import FleetHost

pytestmark = pytest.mark.network
BIN = Path(sys.executable).parent
COLLECTION = ROOT / "deploy/ansible"
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@pytest.fixture(scope="session")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the collection, built and installed as a user does."""
    folder = tmp_path_factory.mktemp("collections")
    ansible("ansible-galaxy", "collection", "install", f"{COLLECTION}/", "-p", folder, collections=folder)
    return folder


def ansible(
    program: str, *words: str | Path, collections: Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_HOST_KEY_CHECKING": "false",
        "ANSIBLE_SSH_TRANSFER_METHOD": "piped",
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_HOME": str(collections / "home"),
        "LC_ALL": "C.UTF-8",
    }
    return subprocess.run(
        [BIN / program, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd or collections,
    )


class Controller:
    """Runs the collection's playbooks over the fleet."""

    def __init__(self, collections: Path, fleet: list[FleetHost], folder: Path) -> None:
        self.collections = collections
        self.folder = folder
        self.hosts = {
            host.name: {
                "ansible_host": "127.0.0.1",
                "ansible_port": host.port,
                "ansible_user": "root",
                **host.variables,
            }
            for host in fleet
        }

    def play(
        self, playbook: str, rollout: str, only: str = "all", **more: Any
    ) -> tuple[int, dict[str, dict[str, int]]]:
        """Runs a playbook, one host after the other.

        Args:
            only: Ansible's pattern of hosts

        Returns:
            the exit code, and the recap: host -> changed and failed
        """
        inventory = self.folder / "inventory.yml"
        inventory.write_text(yaml.safe_dump({"all": {"hosts": self.hosts}}, sort_keys=False))
        variables = {"mambaport_reports": str(self.folder / rollout), "mambaport_batches": 1, **more}
        done = ansible(
            "ansible-playbook", "--limit", only, "-i", inventory, f"mambaport.fleet.{playbook}",
            "-e", json.dumps(variables),
            collections=self.collections,
        )  # fmt: skip
        rows = RECAP.findall(done.stdout)
        assert rows, done.stdout + done.stderr
        print(done.stdout[done.stdout.index("PLAY RECAP") :])
        return done.returncode, {row[0]: {"changed": int(row[2]), "failed": int(row[4])} for row in rows}

    def report(self, rollout: str, host: str) -> Any:
        return json.loads((self.folder / rollout / f"{host}.json").read_text())


@pytest.fixture(scope="session")
def controller(
    collections: Path, fleet: list[FleetHost], tmp_path_factory: pytest.TempPathFactory
) -> Controller:
    return Controller(collections, fleet, tmp_path_factory.mktemp("controller"))


def files(python: str) -> dict[str, str]:
    """Every file of an environment but bytecode: path -> sha256."""
    root = Path(python).parents[1]
    found = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.suffix != ".pyc" and ".mambaport-previous" not in path.parts
    }


def test_ansible_lint_finds_nothing(collections: Path) -> None:
    where = collections / "ansible_collections/mambaport/fleet"
    words = ("--offline", "--nocolor", "--profile", "production")
    done = ansible("ansible-lint", *words, collections=collections, cwd=where)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rollout_that_fails_on_one_host_stops_there_and_is_undone(
    controller: Controller, fleet: list[FleetHost], wrong: Path
) -> None:
    first, second = (host.variables["mambaport_python"] for host in fleet[:2])
    last = fleet[2].name

    # Hosts get their wheels, and a second run changes nothing.
    code, recap = controller.play("install", "one", only="first:second")
    assert (code, [row["failed"] for row in recap.values()]) == (0, [0, 0])
    assert all(row["changed"] for row in recap.values())
    assert [controller.report("one", name)["ended"] for name in recap] == ["installed"] * 2
    code, recap = controller.play("install", "again", only="first:second")
    assert (code, recap) == (0, {name: {"changed": 0, "failed": 0} for name in ("first", "second")})
    assert controller.report("again", "second")["ended"] == "unchanged"
    # The same rollout once more is still the one that has installed; a rollout that has not is not undone.
    code, recap = controller.play("install", "one", only="first:second")
    assert (code, sum(row["changed"] for row in recap.values())) == (0, 0)
    assert [controller.report("one", name)["ended"] for name in recap] == ["installed"] * 2
    code, recap = controller.play("undo", "again", only="first:second")
    assert (code, sum(row["changed"] for row in recap.values())) == (0, 0)

    # The next line, in one batch with the Pi: wrong wheels on the second host, which is put back.
    for name in ("first", "second"):
        controller.hosts[name]["mambaport_line"] = "2.3"
    before = files(first), files(second)
    controller.hosts["second"] |= {"mambaport_wheels": str(wrong)}
    code, recap = controller.play("install", "two", mambaport_batches=3)
    assert code != 0
    assert {name: row["failed"] for name, row in recap.items()} == {"first": 0, "second": 1, last: 0}
    report = controller.report("two", "second")
    assert (report["ended"], report["exit_code"]) == ("failed", 16)
    assert "put back" in report["mambaport"]["error"]["hint"]
    assert files(second) == before[1]
    versions = [wheel["version"] for wheel in controller.report("two", "first")["mambaport"]["wheels"]]
    assert any(version.startswith("2.3") for version in versions)
    third = controller.report("two", last)
    assert (third["ended"], third["mambaport"]["verification"]["ok"]) == ("installed", True)
    if last == "pi":
        assert third["facts"]["arch"] == "aarch64"

    # One host after the other: the rollout stops at the second, and the Pi is not reached.
    code, recap = controller.play("install", "three")
    assert code != 0
    assert {name: row["failed"] for name, row in recap.items()} == {"first": 0, "second": 1}

    # Back: only where the rollout has installed something.
    code, recap = controller.play("undo", "two", mambaport_batches=3)
    assert code == 0
    assert {name: row["changed"] for name, row in recap.items()} == {"first": 1, "second": 0, last: 1}
    ended = {name: controller.report("two", name)["ended"] for name in recap}
    assert ended == {"first": "undone", "second": "failed", last: "undone"}
    assert controller.report("two", "first")["mambaport"]["verification"]["ok"] is True
    assert files(first) == before[0]
    code, recap = controller.play("undo", "two", mambaport_batches=3)
    assert (code, sum(row["changed"] for row in recap.values())) == (0, 0)
