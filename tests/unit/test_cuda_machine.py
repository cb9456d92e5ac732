"""CUDA on a machine: read from a root folder that looks like a Jetson, with the nvcc that is really here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mambaport.cuda.machine import CudaMachine, Jetson, Toolkit, read_cuda, read_toolkit

RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed\n"
NVCC = Path("/usr/local/cuda/bin/nvcc")
needs_nvcc = pytest.mark.skipif(not NVCC.exists(), reason="no CUDA toolkit in /usr/local/cuda")


def fake_jetson(root: Path, release: str = RELEASE) -> Path:
    """A root folder with a Jetson's release file and dpkg status."""
    (root / "etc").mkdir()
    (root / "etc/nv_tegra_release").write_text(release)
    (root / "usr/local").mkdir(parents=True)
    return root


def toolkit(version: str, origin: str) -> Toolkit:
    return Toolkit(f"/{origin}", f"/{origin}/bin/nvcc", version, f"{version}.1", origin)


@pytest.mark.parametrize(
    ("release", "jetson"),
    [
        (RELEASE, Jetson("36.4.3", "6")),
        (RELEASE.replace("R36", "R35").replace("4.3", "4.1"), Jetson("35.4.1", "5")),
        (RELEASE.replace("R36", "R38").replace("4.3", "2.0"), Jetson("38.2.0", "7")),
        (RELEASE.replace("R36", "R99"), Jetson("99.4.3", "unknown")),
        ("not a release file\n", None),
    ],
)
def test_a_jetson_is_known_by_its_release_file(tmp_path: Path, release: str, jetson: Jetson | None) -> None:
    assert read_cuda(fake_jetson(tmp_path, release), {}).jetson == jetson


def test_jetpack_is_as_its_package_says(tmp_path: Path) -> None:
    root = fake_jetson(tmp_path)
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text(
        "Package: nvidia-jetpack-dev\nVersion: 9.9\n\n"
        "Package: nvidia-jetpack\nStatus: install ok installed\nVersion: 6.2+b77\n\nPackage: z\nVersion: 1\n"
    )
    found = read_cuda(root, {}).jetson
    assert found == Jetson("36.4.3", "6.2")
    assert found.l4t_major == 36


def test_another_machine_is_no_jetson_and_has_no_toolkit(tmp_path: Path) -> None:
    found = read_cuda(tmp_path, {})
    assert (found.jetson, found.toolkits, found.toolkit("12.6")) == (None, (), None)


@needs_nvcc
def test_toolkits_are_found_in_order_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fake_jetson(tmp_path)
    real = NVCC.resolve().parent.parent
    (root / "usr/local/cuda-13.0").symlink_to(real)
    (root / "usr/local/cuda").symlink_to("cuda-13.0")
    (root / "usr/local/cuda-11.4").mkdir()
    found = read_cuda(root, {"PATH": str(real / "bin")})
    assert [item.origin for item in found.toolkits] == ["/usr/local/cuda"]
    assert found.toolkits[0].version == "13.0"
    assert found.toolkits[0].release.startswith("13.0.")
    assert found.looked == (f"/usr/local/cuda-11.4: no {root}/usr/local/cuda-11.4/bin/nvcc",)
    assert read_cuda(root, {"CUDA_HOME": str(real)}).toolkits[0].origin == "CUDA_HOME"
    assert read_cuda(tmp_path / "etc", {"PATH": str(real / "bin")}).toolkits[0].origin == "nvcc on PATH"


def test_a_cuda_home_without_nvcc_is_said(tmp_path: Path) -> None:
    found = read_cuda(tmp_path, {"CUDA_HOME": str(tmp_path)})
    assert found.toolkits == ()
    assert found.looked == (f"CUDA_HOME: no {tmp_path}/bin/nvcc",)


@pytest.mark.parametrize("content", [b"\x7fELF of another machine", b"#!/bin/sh\necho nothing\n"])
def test_an_nvcc_that_does_not_work_is_not_a_toolkit(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bin").mkdir()
    nvcc = tmp_path / "bin/nvcc"
    nvcc.write_bytes(content)
    nvcc.chmod(0o755)
    with pytest.raises(LookupError, match=r"nvcc does not run|nvcc --version prints no version"):
        read_toolkit(tmp_path, "x")


def test_the_toolkit_for_a_target_has_its_major_and_best_its_minor() -> None:
    local = toolkit("12.6", "/usr/local/cuda-12.6")
    newer = toolkit("12.9", "/usr/local/cuda")
    other = toolkit("13.0", "/usr/local/cuda-13.0")
    machine = CudaMachine((newer, other, local))
    assert machine.toolkit("12.6") == local
    assert machine.toolkit("12.2") == newer
    assert machine.toolkit("13.1") == other
    assert machine.toolkit("11.4") is None
    named = toolkit("12.2", "CUDA_HOME")
    assert CudaMachine((named, local)).toolkit("12.6") == named


def test_nvcc_is_here_when_path_has_it() -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc on PATH")
    assert read_cuda().toolkits
