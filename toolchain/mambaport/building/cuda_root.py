"""Assembles a CUDA toolkit in the store from the package index and Debian. Nothing is installed."""

from __future__ import annotations

import shutil
from pathlib import Path

from mambaport import process
from mambaport.digests import data_sha256, file_sha256
from mambaport.errors import FetchError, HostError
from mambaport.pins.cuda import CudaRelease, DebianPackage
from mambaport.report import Report, size_text
from mambaport.sources import Workshop, take, unpack_wheel
from mambaport.store import Store

APT_HELPER = Path("/usr/lib/apt/apt-helper")
# The folders in which nvcc looks for a target's headers, one for each architecture.
TARGETS = ("aarch64-linux", "sbsa-linux", "x86_64-linux")
_HINT = "give a CUDA toolkit with --cuda-home DIR or CUDA_HOME, or install one"
PROFILE = """\
TOP              = $(_HERE_)/..
CICC_PATH        = $(TOP)/nvvm/bin
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
LD_LIBRARY_PATH += $(TOP)/lib:
PATH            += $(CICC_PATH):$(_HERE_):
INCLUDES        +=  "-I$(TOP)/include" $(_SPACE_)
SYSTEM_INCLUDES +=  "-isystem" "$(TOP)/include/cccl" $(_SPACE_)
LIBRARIES        =+ $(_SPACE_)
CUDAFE_FLAGS    +=
PTXAS_FLAGS     +=
"""


def cuda_root(shop: Workshop, release: CudaRelease) -> Path:
    """A folder with ``bin/nvcc`` that runs on this machine, and the headers of CUDA's runtime and CCCL.

    Raises:
        FetchError: a part cannot be fetched.
        HostError: this machine cannot fetch Debian's part.
    """
    arch = shop.host.arch
    tools, key = release.tools[arch], _key(release, arch)
    ready = shop.store.get("toolchains", key)
    if ready is not None:
        return ready
    if tools.debian is not None and shop.fetcher.offline:
        raise _offline(tools.debian.filename)
    if (lack := debian_lacks(shop.store, release, arch)) is not None:
        raise lack
    wheels = [shop.fetcher.fetch(pin) for pin in tools.pin]

    def fill(folder: Path) -> None:
        scratch = folder.parent / "unpacked"
        if tools.debian is not None:
            _debian_tools(tools.debian, folder, scratch, shop.report)
        for number, wheel in enumerate(wheels):
            unpack_wheel(wheel, scratch / str(number))
            _wheel_tools(scratch / str(number), folder)
        for part in release.headers:
            take(shop.fetcher, part, scratch / part.project, shop.report)
            for include in sorted((scratch / part.project).glob("nvidia/*/include")):
                shutil.copytree(include, folder / "include", dirs_exist_ok=True)
        (folder / "bin" / "nvcc.profile").write_text(PROFILE)
        for target in TARGETS:
            (folder / "targets" / target).mkdir(parents=True)
            (folder / "targets" / target / "include").symlink_to("../../include")
        shop.report.line(
            "unpack", f"CUDA {release.release}", f"{len(wheels)} tools, {len(release.headers)} headers"
        )

    return shop.store.make("toolchains", key, fill)


def _key(release: CudaRelease, arch: str) -> str:
    tools = release.tools[arch]
    parts = [pin.sha256 for pin in tools.pin] + [part.content_sha256 for part in release.headers]
    if tools.debian is not None:
        parts.append(tools.debian.sha256)
    return f"cuda-{release.release}-{arch}-{data_sha256([PROFILE, parts])[:16]}"


def debian_lacks(store: Store, release: CudaRelease, arch: str) -> HostError | None:
    """Why this machine cannot fetch Debian's part of a toolkit; None where it can, or where there is no
    such part."""
    package = release.tools[arch].debian
    if package is None or store.get("toolchains", _key(release, arch)) is not None:
        return None
    if not APT_HELPER.exists() or shutil.which("dpkg-deb") is None:
        return HostError(
            f"{package.package} comes from Debian's archive, and this machine has no apt",
            found=f"no {APT_HELPER}",
            expected="a Debian with apt",
            hint=_HINT,
        )
    return None if _mirrors() else _no_mirror(package, "no Debian mirror among apt's sources")


def _no_mirror(package: DebianPackage, found: str) -> HostError:
    return HostError(
        f"{package.filename} cannot be fetched from Debian's mirror",
        found=found,
        expected=f"{package.path} with sha256 {package.sha256} below one of apt's Debian sources",
        hint=_HINT,
    )


def _wheel_tools(unpacked: Path, folder: Path) -> None:
    for home in sorted(unpacked.glob("nvidia/*")):
        for name in ("bin", "nvvm"):
            if (home / name).is_dir():
                shutil.copytree(home / name, folder / name, dirs_exist_ok=True)
    for path in (*(folder / "bin").iterdir(), *(folder / "nvvm" / "bin").glob("*")):
        if path.is_file():
            path.chmod(0o755)


def _debian_tools(package: DebianPackage, folder: Path, scratch: Path, report: Report) -> None:
    """Moves Debian's toolkit files, which Debian spreads over the system, into NVIDIA's layout."""
    scratch.mkdir(exist_ok=True)
    archive = scratch / package.filename
    _download(package, archive, report)
    finished = process.run(["dpkg-deb", "--extract", archive, scratch / "debian"])
    if not finished.ok:
        raise FetchError(f"{package.filename} cannot be unpacked", detail=finished.tail)
    usr, package_lib = scratch / "debian" / "usr", scratch / "debian" / "usr" / "lib" / package.package
    (folder / "nvvm" / "bin").mkdir(parents=True)
    (folder / "bin").mkdir()
    for name in ("__nvcc_device_query", "bin2c", "cudafe++", "fatbinary", "nvlink", "ptxas"):
        shutil.move(usr / "bin" / name, folder / "bin" / name)
    shutil.move(package_lib / "bin" / "nvcc", folder / "bin" / "nvcc")
    shutil.move(package_lib / "bin" / "crt", folder / "bin" / "crt")
    shutil.move(package_lib / "bin" / "cicc", folder / "nvvm" / "bin" / "cicc")
    shutil.move(package_lib / "libdevice", folder / "nvvm" / "libdevice")


def _download(package: DebianPackage, path: Path, report: Report) -> None:
    """Fetches the package from a mirror that apt is configured for. Only the pinned sha256 is trusted.

    The package's suite need not be configured: all suites of a mirror share one pool.
    """
    found = "no Debian mirror among apt's sources"
    for mirror in _mirrors():
        with report.working("fetch", package.filename):
            finished = process.run(
                [APT_HELPER, "download-file", f"{mirror}{package.path}", path, f"SHA256:{package.sha256}"]
            )
        if finished.ok and path.is_file() and file_sha256(path) == package.sha256:
            report.line("fetch", f"{package.filename}  {size_text(package.size)}", "Debian, sha256 ok")
            return
        found = finished.tail
    raise _no_mirror(package, found)


def _mirrors() -> list[str]:
    """The roots of the Debian archives that apt is configured for."""
    answer = process.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)", "Created-By: Packages"]
    )
    found = [line.split(maxsplit=2) for line in answer.output.splitlines() if answer.ok]
    return list(dict.fromkeys(words[2] for words in found if words[:2] == ["Debian", "Debian"]))


def _offline(name: str) -> FetchError:
    return FetchError(
        f"{name} is not in the store",
        found="no unpacked toolkit, because of --offline",
        expected="a CUDA toolkit made by an earlier run",
        hint="run the command once without --offline",
    )
