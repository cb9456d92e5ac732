"""The choice of the CUDA toolkit: one of this machine, or one assembled from public archives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mambaport.boards import boards, minor_key
from mambaport.cuda.machine import Toolkit, read_toolkit
from mambaport.digests import data_sha256, file_sha256
from mambaport.errors import HostError, UsageError
from mambaport.goal import CudaGoal
from mambaport.host import Host
from mambaport.pins.cuda import CudaRelease, cuda_releases


@dataclass(frozen=True)
class ChosenToolkit:
    """The toolkit that compiles."""

    version: str
    """``12.4``"""
    release: str
    """``12.4.131``"""
    origin: str
    """The toolkit's origin, for people and for the provenance."""
    source: Path | CudaRelease
    """The toolkit's folder, or the pins to assemble it from."""
    newest_gcc: int | None
    """The newest gcc major that its headers accept."""

    @property
    def identity(self) -> str:
        """The facts that decide the compiled bytes."""
        if isinstance(self.source, Path):
            return f"{self.release} {_programs_sha256(self.source)[:16]}"
        return f"{self.release} {data_sha256([part.content_sha256 for part in self.source.headers])[:16]}"


@cache
def _programs_sha256(home: Path) -> str:
    """The digest of the compiler's programs: two toolkits of one release may differ."""
    programs = (home / "bin/nvcc", home / "bin/cudafe++", home / "bin/ptxas", home / "nvvm/bin/cicc")
    return data_sha256([file_sha256(path) for path in programs if path.is_file()])


def choose_toolkit(cuda: CudaGoal, host: Host, named: Path | None, *, native: bool) -> ChosenToolkit:
    """The toolkit for a target.

    In order of preference: ``--cuda-home``; CUDA_HOME; a toolkit of this machine, on the target itself or for
    CUDA 12, of which the index has no nvcc; the pinned toolkit.

    Raises:
        UsageError: the toolkit of ``--cuda-home`` does not fit.
        HostError: there is no toolkit for the target.
    """
    if named is not None:
        return _named(named, cuda)
    local = host.cuda.toolkit(cuda.version)
    if local is not None and (native or cuda.major < 13 or local.origin == "CUDA_HOME"):
        return _local(local)
    for release in cuda_releases():
        if (
            int(release.version.split(".")[0]) == cuda.major
            and host.arch in release.tools
            and not _jetson(host)
        ):
            debian = release.tools[host.arch].debian
            origin = "package index" if debian is None else f"Debian's {debian.package} and the package index"
            return ChosenToolkit(release.version, release.release, origin, release, release.newest_gcc)
    raise _none(cuda, host)


def _jetson(host: Host) -> bool:
    return host.cuda.jetson is not None


def _named(home: Path, cuda: CudaGoal) -> ChosenToolkit:
    try:
        toolkit = read_toolkit(home.absolute(), "--cuda-home")
    except LookupError as fault:
        raise UsageError(
            "--cuda-home is not a CUDA toolkit",
            found=str(fault),
            expected="a folder with bin/nvcc that runs on this machine",
            hint="give a folder such as /usr/local/cuda-12.6, or drop --cuda-home",
        ) from None
    if toolkit.major != cuda.major:
        raise UsageError(
            f"CUDA {toolkit.version} does not fit the target" + _too_old(toolkit),
            found=f"CUDA {toolkit.release} in {home}",
            expected=f"CUDA {cuda.major}.x, as the target has {cuda.version}",
            hint=f"give a CUDA {cuda.major}.x with --cuda-home, drop the option, or choose another --variant",
        )
    return _local(toolkit)


def _local(toolkit: Toolkit) -> ChosenToolkit:
    home = Path(toolkit.home)
    return ChosenToolkit(
        toolkit.version, toolkit.release, f"{toolkit.origin}: {home}", home, _newest_gcc(home)
    )


def _newest_gcc(home: Path) -> int | None:
    """The newest gcc major that the toolkit's headers accept; None where they name no limit."""
    try:
        text = (home / "include" / "crt" / "host_config.h").read_text(errors="replace")
    except OSError:
        return None
    match = re.search(r"^#if __GNUC__ > (\d+)", text, re.MULTILINE)
    return int(match[1]) if match else None


def _too_old(toolkit: Toolkit) -> str:
    least = boards().least_cuda
    if minor_key(toolkit.version) >= minor_key(least):
        return ""
    known = [item for item in boards().platform if item.jetpack and item.supported]
    return f": the packages need CUDA {least} at least, JetPack {known[0].jetpack} has {known[0].cuda}"


def _none(cuda: CudaGoal, host: Host) -> HostError:
    others = [f"CUDA {item.release} ({item.origin})" for item in host.cuda.toolkits]
    old = [_too_old(item) for item in host.cuda.toolkits if _too_old(item)]
    package = f"cuda-toolkit-{cuda.version.replace('.', '-')}"
    return HostError(
        f"There is no CUDA {cuda.major} toolkit on this machine" + (old[0] if old else ""),
        found="\n".join([*others, *host.cuda.looked])
        or "no nvcc in CUDA_HOME, /usr/local/cuda*, nor on PATH",
        expected=f"nvcc of CUDA {cuda.major}.x",
        hint=f"sudo apt-get install {package} (on a Jetson: sudo apt-get install nvidia-jetpack), or name "
        "its folder with --cuda-home or CUDA_HOME",
    )
