"""A CUDA toolkit of small real parts: wheels and headers of a mirror, and a .deb that apt's helper brings."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import HOST, pin_of, sha256, write_tree, write_zip

from mambaport.building import cuda_root as module
from mambaport.digests import tree_sha256
from mambaport.errors import FetchError, HostError
from mambaport.pins.cuda import CudaRelease, DebianPackage, Excerpt, Tools
from mambaport.report import Report
from mambaport.sources import Fetcher, Workshop
from mambaport.sources.index import IndexSettings
from mambaport.store import Store

HEADERS = {"nvidia/cu13/include/cuda.h": "#define CUDA 13\n", "nvidia/cu13/include/cccl/thrust.h": "x\n"}
PROGRAMS = ("__nvcc_device_query", "bin2c", "cudafe++", "fatbinary", "nvlink", "ptxas")


def shop(tmp_path: Path, *, offline: bool = False) -> Workshop:
    store, report = Store(tmp_path / "store"), Report(quiet=True)
    fetcher = Fetcher(store, IndexSettings(None, tmp_path / "mirror"), report, offline=offline)
    return Workshop(store, fetcher, report, HOST)


@pytest.fixture
def headers(tmp_path: Path) -> Excerpt:
    """The wheel of headers in the mirror."""
    path = tmp_path / "mirror" / "headers-13.0-py3-none-any.whl"
    path.parent.mkdir()
    write_zip(path, [(name, text.encode()) for name, text in HEADERS.items()])
    digest = tree_sha256(write_tree(tmp_path / "wanted", HEADERS))
    members = ("nvidia/*/include/*",)
    return Excerpt(**pin_of(path, "headers", "13.0").model_dump(), members=members, content_sha256=digest)


def release(headers: Excerpt, tools: Tools) -> CudaRelease:
    return CudaRelease(
        version="13.0", release="13.0.88", tools={"x86_64": tools}, headers=(headers,), newest_gcc=15
    )


def test_a_toolkit_of_wheels_runs_and_has_the_headers_of_each_target(
    tmp_path: Path, headers: Excerpt
) -> None:
    path = tmp_path / "mirror" / "nvcc-13.0-py3-none-any.whl"
    program = b"#!/bin/sh\necho nvcc of a wheel\n"
    write_zip(path, [("nvidia/cu13/bin/nvcc", program), ("nvidia/cu13/nvvm/bin/cicc", program)])
    wanted = release(headers, Tools(pin=(pin_of(path, "nvcc", "13.0"),)))
    home = module.cuda_root(shop(tmp_path), wanted)
    assert (
        subprocess.run([home / "bin" / "nvcc"], capture_output=True, check=True).stdout
        == b"nvcc of a wheel\n"
    )
    assert (home / "nvvm" / "bin" / "cicc").stat().st_mode & 0o111
    assert "CICC_PATH" in (home / "bin" / "nvcc.profile").read_text()
    for target in ("aarch64-linux", "sbsa-linux", "x86_64-linux"):
        assert (home / "targets" / target / "include" / "cccl" / "thrust.h").read_text() == "x\n"
    shutil.rmtree(tmp_path / "mirror")
    assert module.cuda_root(shop(tmp_path, offline=True), wanted) == home


@pytest.mark.skipif(shutil.which("dpkg-deb") is None or not module.APT_HELPER.exists(), reason="no apt here")
class TestDebian:
    @pytest.fixture
    def package(self, tmp_path: Path) -> DebianPackage:
        """A .deb with the layout of Debian's nvidia-cuda-toolkit, in a mirror's pool."""
        lib = "usr/lib/nvidia-cuda-toolkit"
        files = {
            "DEBIAN/control": "Package: nvidia-cuda-toolkit\nVersion: 12.4\nArchitecture: amd64\n"
            "Maintainer: A <a@example.invalid>\nDescription: a test\n",
            **{f"usr/bin/{name}": name for name in PROGRAMS},
            **{f"{lib}/bin/{name}": name for name in ("nvcc", "cicc", "crt/link.stub")},
            f"{lib}/libdevice/libdevice.10.bc": "bitcode",
        }
        tree = write_tree(tmp_path / "package", files)
        path = tmp_path / "debian" / "pool" / "toolkit.deb"
        path.parent.mkdir(parents=True)
        subprocess.run(["dpkg-deb", "--build", tree, path], check=True, capture_output=True)
        return DebianPackage(
            package="nvidia-cuda-toolkit",
            path="pool/toolkit.deb",
            sha256=sha256(path.read_bytes()),
            size=path.stat().st_size,
        )

    @pytest.fixture(autouse=True)
    def mirrors(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The mirrors of apt's configuration: the second has the package."""
        found = [f"copy:{tmp_path}/nowhere/", f"copy:{tmp_path}/debian/"]
        monkeypatch.setattr(module, "_mirrors", lambda: found)
        return found

    def test_debians_files_are_moved_to_nvidias_layout(
        self, tmp_path: Path, headers: Excerpt, package: DebianPackage
    ) -> None:
        home = module.cuda_root(shop(tmp_path), release(headers, Tools(debian=package)))
        assert {path.name for path in (home / "bin").iterdir()} == {*PROGRAMS, "nvcc", "crt", "nvcc.profile"}
        assert (home / "nvvm" / "bin" / "cicc").read_text() == "cicc"
        assert (home / "nvvm" / "libdevice" / "libdevice.10.bc").read_text() == "bitcode"

    def test_another_file_than_the_pinned_one_is_refused_and_nothing_is_kept(
        self, tmp_path: Path, headers: Excerpt, package: DebianPackage
    ) -> None:
        other = package.model_copy(update={"sha256": "0" * 64})
        with pytest.raises(HostError, match="cannot be fetched from Debian's mirror") as fault:
            module.cuda_root(shop(tmp_path), release(headers, Tools(debian=other)))
        assert "--cuda-home" in str(fault.value.hint)
        assert not [entry for entry in Store(tmp_path / "store").entries() if entry.kind == "toolchains"]

    def test_offline_or_without_a_mirror_the_error_says_so(
        self, tmp_path: Path, headers: Excerpt, package: DebianPackage, mirrors: list[str]
    ) -> None:
        wanted = release(headers, Tools(debian=package))
        with pytest.raises(FetchError, match="is not in the store"):
            module.cuda_root(shop(tmp_path, offline=True), wanted)
        mirrors.clear()
        with pytest.raises(HostError, match="cannot be fetched") as fault:
            module.cuda_root(shop(tmp_path), wanted)
        assert fault.value.found == "no Debian mirror among apt's sources"
