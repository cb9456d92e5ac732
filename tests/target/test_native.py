"""On an aarch64 system itself: mambaport builds with that system's gcc, installs and proves."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from arm_system import aarch64_programs, debian_root, mounted, run_inside

from mambaport import pins
from mambaport.cli.options import open_session
from mambaport.releases import known_versions, read_source
from mambaport.sources import Fetcher, unpack_wheel
from mambaport.verifying import prepare_emulation

pytestmark = [pytest.mark.emulated, pytest.mark.network, pytest.mark.usefixtures("emulator")]
PROJECT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
SITE = "lib/python3.11/site-packages"
DRAW = "from PIL import Image; Image.radial_gradient('L').convert('RGB').save('/photo.jpg')"


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root with mambaport installed, the pinned archives in /mirror, and an environment with torch."""
    qemu = shutil.which("qemu-aarch64-static")
    if os.geteuid() != 0:
        pytest.skip("needs root, to let the kernel run aarch64 programs")
    assert qemu is not None
    root = tmp_path_factory.mktemp("device") / "root"
    try:
        with aarch64_programs(qemu), debian_root(root):
            _install_mambaport(root)
            session = open_session(as_json=True, quiet=True)
            _fill_mirror(root / "mirror", session.fetcher)
            emulated = prepare_emulation("bookworm", "cortex-a72", session.shop)
            for name in ("mamba", "photo"):
                _environment(root, f"/{name}")
                (root / name / SITE / "torch.pth").write_text("/torch\n")
            with mounted(emulated.site, root / "torch"):
                yield root
    except (OSError, subprocess.CalledProcessError) as fault:
        if "binfmt" not in str(fault):
            raise
        pytest.skip(f"the kernel does not let us run aarch64 programs: {fault}")


def _environment(root: Path, path: str) -> None:
    done = run_inside(root, "/usr/bin/python3", "-m", "venv", "--without-pip", path)
    assert done.returncode == 0, done.stderr


def _install_mambaport(root: Path) -> None:
    """mambaport and its dependencies for aarch64, put there by this machine's pip."""
    _environment(root, "/tool")
    wheels = root / "wheels"
    subprocess.run([*PIP, "wheel", "--no-deps", "--wheel-dir", wheels, PROJECT], check=True)
    (ours,) = wheels.glob("mambaport-*.whl")
    _bring(root, root / "tool", f"{ours}[run]")


def _bring(root: Path, environment: Path, package: str | Path) -> None:
    """A package and what it needs, for aarch64, into an environment of the root."""
    wheels = root / "downloaded" / environment.name
    chosen = ["--only-binary=:all:", "--python-version=3.11"]
    chosen += [f"--platform=manylinux_2_{minor}_aarch64" for minor in (28, 17)]
    subprocess.run([*PIP, "download", "--dest", wheels, *chosen, package], check=True)
    for wheel in wheels.glob("*.whl"):
        unpack_wheel(wheel, environment / SITE)


def _fill_mirror(mirror: Path, fetcher: Fetcher) -> None:

    mirror.mkdir()
    archives = [
        archive for name, version in known_versions() for archive in read_source(name, version).archive
    ]
    for pin in [*archives, *pins.build_requirements().pin, *pins.build_tools().for_host("aarch64")]:
        shutil.copy(fetcher.fetch(pin), mirror)


def _mambaport(root: Path, *arguments: str) -> tuple[int, Any]:
    done = run_inside(root, "/tool/bin/python", "-m", "mambaport", *arguments, "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_device_builds_installs_and_proves_its_own_wheels(device: Path) -> None:
    options = ("-p", "rpi", "--toolchain", "native", "--mirror", "/mirror")
    code, built = _mambaport(device, "build", *options, "-o", "/wheelhouse")
    assert code == 0, built
    wheels = built["wheels"]
    # N is what the wheels need of the device's glibc, which need not be what the cross-built ones need.
    assert all(re.fullmatch(r"py3-none-manylinux_2_[0-9]+_aarch64", wheel["tag"]) for wheel in wheels)
    assert all(wheel["audit"]["ok"] for wheel in wheels)

    code, installed = _mambaport(device, "install", *options, "--python", "/mamba/bin/python")
    assert code == 0, installed
    verification = installed["verification"]
    assert verification["ok"]
    assert verification["arch"] == "aarch64"


def test_the_device_says_what_is_in_a_photograph(device: Path, wheelhouse: Path) -> None:
    """With the wheels built on this machine, a real JPEG, and a model of four blocks, to be quick."""
    for wheel in wheelhouse.glob("*.whl"):
        unpack_wheel(wheel, device / "photo" / SITE)
    _bring(device, device / "photo", "pillow")
    drawn = run_inside(device, "/photo/bin/python", "-c", DRAW)
    assert drawn.returncode == 0, drawn.stderr
    options = ("--image", "/photo.jpg", "--size", "64", "--depth", "4", "--python", "/photo/bin/python")
    code, answer = _mambaport(device, "infer", *options)
    assert code == 0, answer
    (image,) = answer["images"]
    assert len(image["classes"]) == 5
    assert all(item["label"] for item in image["classes"])
    environment = answer["environment"]
    assert (environment["arch"], environment["kernels"]) == ("aarch64", True)
