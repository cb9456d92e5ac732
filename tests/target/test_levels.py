"""One wheel on emulated CPUs: each has the instruction sets of its features, and is right on all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mambaport import process
from mambaport.cli.options import open_session
from mambaport.verifying import prepare_emulation
from mambaport.verifying.emulation import EmulatedRoot, unpack_wheels
from mambaport.verifying.results import ILLEGAL_INSTRUCTION

Run = Callable[..., dict[str, Any]]
pytestmark = [pytest.mark.emulated, pytest.mark.network, pytest.mark.usefixtures("emulator")]
PROGRAM = Path(__file__).with_name("kernel_calls.py")
SETS = ["base", "dotprod", "i8mm", "sve"]
in_full = pytest.mark.skipif(
    not os.environ.get("MAMBAPORT_TEST_LEVELS"), reason="minutes; make test-levels runs it"
)
# qemu's names. qemu 7.2 has no Neoverse N2: `max` has its features, and more.
HAS = {"cortex-a72": 1, "cortex-a76": 2, "neoverse-n1": 2, "max": 4}


@pytest.fixture(scope="module")
def root() -> EmulatedRoot:
    return prepare_emulation("bookworm", "cortex-a72", open_session(as_json=True, quiet=True).shop)


@pytest.fixture(scope="module")
def site(wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_wheels(sorted(wheelhouse.glob("*.whl")), tmp_path_factory.mktemp("levels") / "site")


def run(root: EmulatedRoot, cpu: str, site: Path, *words: str) -> process.Finished:
    return replace(root, cpu=cpu).run([str(PROGRAM), str(site), *words])


def test_each_cpu_has_the_sets_of_its_features_and_all_are_right(root: EmulatedRoot, site: Path) -> None:
    found = {}
    for cpu in HAS:
        done = run(root, cpu, site)
        assert done.ok, done.tail
        found[cpu] = json.loads(done.output)
    assert {cpu: item["available"] for cpu, item in found.items()} == {
        cpu: SETS[:count] for cpu, count in HAS.items()
    }
    assert all(list(item["norms"]) == item["available"] for item in found.values())
    assert len({digest for item in found.values() for digest in item["norms"].values()}) == 1
    base = found["cortex-a72"]["scans"]["base"]
    largest = max(map(abs, base))
    for item in found.values():
        for name, numbers in item["scans"].items():
            if name != "sve":
                assert numbers == base
            else:  # powers of two from a table
                assert numbers != base
                pairs = zip(numbers, base, strict=True)
                assert max(abs(one - other) for one, other in pairs) < 1e-6 * largest


def test_without_the_guard_a_newer_set_ends_the_process(root: EmulatedRoot, site: Path) -> None:
    """So a set is really of other instructions, and the test above fails where a guard is missing."""
    for name, cpu in (("i8mm", "cortex-a76"), ("sve", "cortex-a72")):
        assert run(root, cpu, site, name).returncode in ILLEGAL_INSTRUCTION


@in_full
def test_a_set_that_the_emulated_cpu_lacks_is_refused(root: EmulatedRoot, site: Path) -> None:
    done = root.run(
        ["-c", "import selective_scan_cpu"], [site, root.site], env={"MAMBAPORT_KERNEL_ISA": "dotprod"}
    )
    assert not done.ok
    assert (
        "MAMBAPORT_KERNEL_ISA is 'dotprod', which this processor does not have; set it to one of base"
        in done.tail
    )


@in_full
@pytest.mark.parametrize(
    ("cpu", "emulated", "level"),
    [
        ("cortex-a72", "cortex-a72", "base"),
        ("cortex-a76", "cortex-a76", "dotprod"),
        ("neoverse-n1", "neoverse-n1", "dotprod"),
        ("neoverse-n2", "max", "sve"),
    ],
)
def test_every_component_is_right_on_each_set(
    mambaport: Run, wheelhouse: Path, cpu: str, emulated: str, level: str
) -> None:
    found = mambaport("verify", "-p", "rpi", "--emulated-cpu", cpu, "--wheelhouse", wheelhouse)
    assert found["exit"] == 0, [item for item in found["components"] if not item["ok"]]
    assert found["emulated_cpu"] == emulated
    assert found["instruction_sets"] == {"causal_conv1d_cpu": level, "selective_scan_cpu": level}
