"""What `doctor` calls working builds: its checks against a build's own demands, over made-up machines."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import HOST

from mambaport.building import cuda_root
from mambaport.cuda.resolve import CudaOptions
from mambaport.doctoring import Check, examine
from mambaport.errors import HostError, MambaportError
from mambaport.host import Host, Program
from mambaport.plan import choose_variant, make_plan
from mambaport.profile import find_profile
from mambaport.store import Store

GCC = Program("/usr/bin/aarch64-linux-gnu-gcc", "aarch64-linux-gnu-gcc (Debian 12.2.0-14) 12.2.0")
OLD = Program("/usr/bin/aarch64-linux-gnu-g++", "aarch64-linux-gnu-g++ (Debian 4.9.2-10) 4.9.2")
GXX = Program("/usr/bin/aarch64-linux-gnu-g++", "aarch64-linux-gnu-g++ (Debian 12.2.0-14) 12.2.0")
HOSTS = {
    "a plain laptop": HOST,
    "with cross compilers": replace(HOST, gcc_aarch64=GCC, gxx_aarch64=(GXX,), gccs_aarch64=(GCC,)),
    "with an old g++": replace(HOST, gcc_aarch64=GCC, gxx_aarch64=(OLD,), gccs_aarch64=(GCC,)),
    "with little memory": replace(HOST, available_mib=300),
    "a riscv machine": replace(HOST, arch="riscv64"),
    "a 32-bit Pi": replace(HOST, arch="armv7l", bits=32),
    "a 32-bit Python on a 64-bit kernel": replace(HOST, arch="aarch64", bits=32),
    "a 64-bit Pi without a compiler": replace(HOST, arch="aarch64"),
}
PROFILES = ("rpi", "jetson", "cpu", "cuda")


def checks(
    host: Host, name: str, folder: Path, variant: str | None = None, *, named: bool = False
) -> dict[str, Check]:
    profile = find_profile(name)
    chosen = choose_variant(profile, host, variant)
    found = examine(profile, host, Store(folder), Path("/no/python"), variant=chosen, named=named)
    return {check.name: check for check in found}


@pytest.fixture(params=["Debian", "Ubuntu"])
def mirrors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The Debian archives that apt is configured for: none on an Ubuntu."""
    found = ["http://mirror.example/debian/"] if request.param == "Debian" else []
    monkeypatch.setattr(cuda_root, "_mirrors", lambda: found)
    return found


@pytest.mark.parametrize(("machine", "name"), list(itertools.product(HOSTS, PROFILES)))
def test_what_doctor_calls_working_a_build_takes(
    machine: str, name: str, mirrors: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "empty"))
    host, profile = HOSTS[machine], find_profile(name)
    for variant in profile.variant or (None,):
        found = checks(host, name, tmp_path, variant=variant)
        if any(check.state == "missing" for check in found.values()):
            continue
        plan = make_plan(profile, host, variant=variant, cuda=CudaOptions())
        plan.require(building=True)
        if plan.cuda is not None and not isinstance(plan.cuda.tools.toolkit.source, Path):
            assert cuda_root.debian_lacks(Store(tmp_path), plan.cuda.tools.toolkit.source, host.arch) is None


def test_some_machines_work_and_each_fault_has_a_hint(mirrors: list[str], tmp_path: Path) -> None:
    working = set()
    for (machine, host), name in itertools.product(HOSTS.items(), PROFILES):
        found = checks(host, name, tmp_path).values()
        assert all(check.hint for check in found if check.state == "missing"), (machine, name, found)
        if all(check.state != "missing" for check in found):
            working.add((machine, name))
    assert {("a plain laptop", "rpi"), ("with cross compilers", "rpi")} <= working
    assert (("with cross compilers", "jetson") in working) == bool(mirrors)
    assert ("a plain laptop", "jetson") not in working


def test_cuda_12_without_a_debian_mirror_is_missing_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_root, "_mirrors", list)
    host = HOSTS["with cross compilers"]
    check = checks(host, "jetson", tmp_path, variant="jetpack6")["build"]
    assert check.state == "missing"
    assert "no Debian mirror" in check.found
    assert "--cuda-home" in check.hint
    assert checks(host, "jetson", tmp_path, variant="jetpack7")["build"].state == "good"


@pytest.mark.parametrize("name", ["rpi", "jetson"])
def test_an_interpreter_that_is_named_and_does_not_run_is_missing(name: str, tmp_path: Path) -> None:
    host = HOSTS["with cross compilers"]
    assert checks(host, name, tmp_path, named=True)["interpreter"].state == "missing"
    assert "environment" not in checks(host, name, tmp_path)


@pytest.mark.parametrize("machine", ["a 32-bit Pi", "a 32-bit Python on a 64-bit kernel"])
def test_a_32_bit_system_is_sent_to_a_64_bit_system(machine: str, tmp_path: Path) -> None:
    check = checks(HOSTS[machine], "rpi", tmp_path)["system"]
    assert check.state == "missing"
    assert "64-bit system" in check.hint


def test_a_plan_that_refuses_is_what_doctor_says(tmp_path: Path) -> None:
    with pytest.raises(MambaportError) as caught:
        make_plan(find_profile("rpi"), HOSTS["a riscv machine"])
    assert isinstance(caught.value, HostError)
    assert checks(HOSTS["a riscv machine"], "rpi", tmp_path)["toolchain"].state == "missing"


@pytest.mark.parametrize(
    ("name", "variant", "torch", "folder"),
    [
        ("rpi", None, None, "rpi"),
        ("rpi-cpu", None, None, "rpi"),
        ("cpu", None, None, "cpu"),
        ("jetson", None, None, "jetson-jetpack6"),
        ("jetson", "jetpack7", None, "jetson-jetpack7"),
        ("jetson", "jetpack6", "2.6", "jetson-jetpack6-torch2.6"),
    ],
)
def test_wheels_of_one_kind_of_device_have_a_folder_of_their_own(
    name: str, variant: str | None, torch: str | None, folder: str
) -> None:
    host = replace(HOSTS["with cross compilers"], cc=GCC)
    made = make_plan(find_profile(name), host, variant=variant, cuda=CudaOptions(torch=torch))
    assert made.folder == folder
