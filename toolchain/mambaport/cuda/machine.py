"""The CUDA side of this machine: its toolkits, its GPUs, and whether it is a Jetson."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mambaport.boards import jetpack_of
from mambaport.settings import Settings, read_settings

L4T_RELEASE = "etc/nv_tegra_release"
DPKG_STATUS = "var/lib/dpkg/status"


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit on this machine."""

    home: str
    nvcc: str
    version: str
    """``12.6``"""
    release: str
    """``12.6.68``"""
    origin: str
    """How it was found: ``CUDA_HOME``, ``/usr/local/cuda-12.6``, ``nvcc on PATH``."""

    @property
    def major(self) -> int:
        return int(self.version.split(".", maxsplit=1)[0])


@dataclass(frozen=True)
class Jetson:
    """A Jetson, identified by its release file."""

    l4t: str
    """``36.4.3``"""
    jetpack: str
    """``6.2`` from the version of NVIDIA's package; without the package ``6``, from the L4T release."""

    @property
    def l4t_major(self) -> int:
        return int(self.l4t.split(".", maxsplit=1)[0])


@dataclass(frozen=True)
class Gpu:
    """A GPU that the driver names."""

    name: str
    sm: str
    """``87``"""


@dataclass(frozen=True)
class CudaMachine:
    """The CUDA toolkits and GPUs of this machine."""

    toolkits: tuple[Toolkit, ...] = ()
    """Toolkits whose nvcc runs, in order of preference."""
    looked: tuple[str, ...] = ()
    """Places without an nvcc that runs, each with the reason."""
    gpus: tuple[Gpu, ...] = ()
    jetson: Jetson | None = None

    def toolkit(self, version: str) -> Toolkit | None:
        """The best toolkit of a CUDA version's major: CUDA_HOME's, else one of the same minor, else any."""
        fitting = [item for item in self.toolkits if item.major == int(version.split(".", maxsplit=1)[0])]
        return min(
            fitting, key=lambda item: (item.origin != "CUDA_HOME", item.version != version), default=None
        )


def read_cuda(root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> CudaMachine:
    """Reads the machine whose root folder is ``root``, with the variables of ``environ`` or this process."""
    found: dict[Path, Toolkit] = {}
    rejected = []
    for home, origin in _places(root, read_settings(environ)):
        nvcc = home / "bin" / "nvcc"
        if nvcc.resolve() in found:
            continue
        try:
            found[nvcc.resolve()] = read_toolkit(home, origin)
        except LookupError as fault:
            rejected.append(f"{origin}: {fault}")
    return CudaMachine(tuple(found.values()), tuple(rejected), _gpus(), _jetson(root))


def read_toolkit(home: Path, origin: str) -> Toolkit:
    """The facts of the toolkit in a folder.

    Raises:
        LookupError: there is no nvcc, or nvcc does not run on this machine.
    """
    nvcc = home / "bin" / "nvcc"
    if not nvcc.is_file():
        raise LookupError(f"no {nvcc}")
    try:
        answer = subprocess.run(
            [nvcc, "--version"], capture_output=True, text=True, check=False, timeout=60
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise LookupError(f"{nvcc} does not run: {getattr(fault, 'strerror', fault)}") from None
    match = re.search(r"release (\d+\.\d+), V(\d+\.\d+\.\d+)", answer)
    if match is None:
        raise LookupError(f"{nvcc} --version prints no version")
    return Toolkit(str(home), str(nvcc), match[1], match[2], origin)


def _places(root: Path, settings: Settings) -> Iterator[tuple[Path, str]]:
    """The folders that may hold a toolkit, best first, each with its origin."""
    if settings.cuda_home is not None:
        yield settings.cuda_home, "CUDA_HOME"
    local = root / "usr" / "local"
    if (local / "cuda").exists():
        yield local / "cuda", "/usr/local/cuda"
    versions = [path for path in local.glob("cuda-*") if re.fullmatch(r"cuda-\d+(\.\d+)?", path.name)]
    for path in sorted(versions, key=lambda path: [int(part) for part in path.name[5:].split(".")])[::-1]:
        yield path, f"/usr/local/{path.name}"
    if nvcc := shutil.which("nvcc", path=settings.path):
        yield Path(nvcc).resolve().parent.parent, "nvcc on PATH"


def _jetson(root: Path) -> Jetson | None:
    try:
        text = (root / L4T_RELEASE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", text)
    if match is None:
        return None
    major = int(match[1])
    platform = jetpack_of(major)
    implied = str(platform.jetpack) if platform else "unknown"
    return Jetson(f"{major}.{match[2]}", _jetpack_package(root) or implied)


def _jetpack_package(root: Path) -> str | None:
    """The version of the ``nvidia-jetpack`` package, where it is installed."""
    try:
        status = (root / DPKG_STATUS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: (\d+(?:\.\d+)*)", status, re.MULTILINE)
    return match[1] if match else None


def _gpus() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    lines = (line.rsplit(",", 1) for line in answer.stdout.splitlines() if line.count(",") >= 1)
    found = [Gpu(name.strip(), capability.strip().replace(".", "")) for name, capability in lines]
    return tuple(gpu for gpu in found if gpu.sm.isdigit())
