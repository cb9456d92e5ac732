"""The torch that extensions are compiled for: a pinned release, a wheel file, or an environment's torch."""

from __future__ import annotations

import re
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from mambaport.cuda.exports import defined_symbols, has_cxx11_abi
from mambaport.digests import data_sha256, file_sha256
from mambaport.errors import HostError, UsageError
from mambaport.goal import CudaGoal
from mambaport.interpreter import Interpreter
from mambaport.pins.cuda import TorchRelease, torch_releases
from mambaport.wheels import reading

HEADERS = ("torch/include/*",)
EXPORTS = tuple(f"torch/lib/{name}" for name in ("libc10*.so", "libtorch_c*.so"))


@dataclass(frozen=True)
class TargetTorch:
    """One torch, and the source of its headers and exports."""

    version: str
    """The version with its local part: ``2.5.0a0+872d972e41.nv24.8``."""
    cuda: str
    """The CUDA version that torch was built with: ``12.6``."""
    cxx11_abi: bool
    origin: str
    """The origin, for people."""
    sha256: str
    """Digest of the files that a build takes from this torch."""
    source: TorchRelease | Path
    """A pinned release, a wheel file, or the ``torch`` folder of an environment."""
    note: str = ""

    @property
    def minor(self) -> str:
        return ".".join(str(part) for part in Version(self.version).release[:2])


def pinned_torch(arch: str, cuda: CudaGoal) -> TargetTorch:
    """The pinned release of a minor, for a target.

    Raises:
        HostError: no such release is pinned.
    """
    fitting = [item for item in torch_releases() if item.arch == arch and _fits(item.cuda, cuda)]
    for item in fitting:
        if item.minor == cuda.torch:
            return TargetTorch(
                version=item.version,
                cuda=item.cuda,
                cxx11_abi=item.cxx11_abi,
                origin=f"package index: {item.headers.filename}",
                sha256=data_sha256([part.content_sha256 for part in item.parts]),
                source=item,
                note=item.note,
            )
    known = ", ".join(item.minor for item in fitting) or "none"
    which = f"{arch} and CUDA {cuda.major}" if cuda.major else arch
    raise HostError(
        f"No torch {cuda.torch} for {which} is pinned",
        found=f"pinned for {which}: {known}",
        expected="a torch whose headers are pinned",
        hint="choose one of these with --torch, or give the wheel of the device's torch with "
        "--torch-wheel FILE, or build on the device",
    )


def wheel_torch(path: Path, arch: str, cuda: CudaGoal) -> TargetTorch:
    """The torch in a wheel file.

    Raises:
        UsageError: the file is not a torch wheel for this target.
    """
    try:
        name, version, _build, tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename as fault:
        raise UsageError(f"{path.name} is not a wheel's name", found=str(fault), hint=_WHEEL_HINT) from None
    if not path.is_file() or name != "torch":
        raise UsageError(
            "--torch-wheel is not a torch wheel",
            found=str(path) if path.is_file() else f"no file {path}",
            expected="a file torch-*.whl",
            hint=_WHEEL_HINT,
        )
    platforms = {tag.platform for tag in tags}
    if not any(platform.endswith(f"_{arch}") for platform in platforms):
        raise UsageError(
            "This torch wheel is for another architecture",
            found=", ".join(sorted(platforms)),
            expected=f"a wheel for {arch}",
            hint=_WHEEL_HINT,
        )
    try:
        with (
            reading(lambda fault: _no_torch(path, fault)),
            zipfile.ZipFile(path) as archive,
            tempfile.TemporaryDirectory() as scratch,
        ):
            built = _version_py(archive.read("torch/version.py").decode())
            Version(built.get("__version__", "0"))
            library = Path(archive.extract("torch/lib/libc10.so", scratch))
            abi = has_cxx11_abi(frozenset(defined_symbols(library)))
    except LookupError as fault:
        raise _no_torch(path, fault) from None
    torch = TargetTorch(
        version=built.get("__version__", str(version)),
        cuda=built.get("cuda", ""),
        cxx11_abi=abi,
        origin=f"wheel file {path.name}",
        sha256=file_sha256(path),
        source=path,
    )
    return _fitting(torch, str(path), cuda, UsageError, _WHEEL_HINT)


def _no_torch(path: Path, fault: Exception) -> UsageError:
    return UsageError(
        f"{path.name} does not hold a torch",
        found=str(fault),
        expected="a whole torch wheel",
        hint=_WHEEL_HINT,
    )


def environment_torch(target: Interpreter, cuda: CudaGoal) -> TargetTorch:
    """The torch of an environment of this machine. The environment is only read.

    Raises:
        HostError: the environment has no torch, or its torch is not for this target.
    """
    if target.torch is None:
        raise HostError(
            "There is no torch to compile for",
            found=f"none in {target.prefix} ({target.executable})",
            expected=f"a torch with CUDA {cuda.major}",
            hint="install the torch that fits the device, or name the interpreter that has it with --python",
        )
    folder = target.torch.folder
    try:
        abi = has_cxx11_abi(frozenset(defined_symbols(folder / "lib" / "libc10.so")))
    except (OSError, LookupError) as fault:
        raise HostError(
            "The torch of this environment is not whole",
            found=str(fault),
            expected="torch/lib/libc10.so",
            hint="install that torch again, from its wheel",
        ) from None
    record = Path(target.torch.path) / "RECORD"  # holds the digest of every installed file
    facts = [file_sha256(path) for path in (record, folder / "version.py") if path.is_file()]
    torch = TargetTorch(
        version=target.torch.version,
        cuda=target.torch.cuda or "",
        cxx11_abi=abi,
        origin=f"environment {target.prefix}",
        sha256=data_sha256([*facts, file_sha256(folder / "lib" / "libc10.so")]),
        source=folder,
    )
    hint = (
        "install NVIDIA's torch for this JetPack; the plain aarch64 package has no CUDA before 2.11"
        if target.arch == "aarch64"
        else "install a torch with CUDA, or build the CPU wheels with --profile cpu"
    )
    return _fitting(torch, target.executable, cuda, HostError, hint)


_WHEEL_HINT = (
    "give the wheel that the device's torch was installed from: NVIDIA's for its JetPack, aarch64, with CUDA"
)


def _fitting(
    torch: TargetTorch, where: str, cuda: CudaGoal, error: type[UsageError] | type[HostError], hint: str
) -> TargetTorch:
    if not torch.cuda:
        raise error(
            "This torch has no CUDA",
            found=f"torch {torch.version}, a CPU build ({where})",
            expected=f"a torch built with CUDA {cuda.major}",
            hint=hint,
        )
    if not _fits(torch.cuda, cuda):
        raise error(
            "This torch is built for another CUDA",
            found=f"torch {torch.version} with CUDA {torch.cuda} ({where})",
            expected=f"CUDA {cuda.major}, as the target has",
            hint=hint,
        )
    return torch


def _version_py(text: str) -> dict[str, str]:
    """The plain assignments of torch/version.py."""
    pattern = re.compile(r"^(\w+)(?:\s*:[^=]+)?\s*=\s*['\"]([^'\"]*)['\"]", re.M)
    return dict(pattern.findall(text))


def _fits(version: str, cuda: CudaGoal) -> bool:
    """Whether a torch's CUDA has the target's major version; True while the target's version is unknown."""
    major = re.match(r"[0-9]{1,9}(?=\.|$)", version)
    return cuda.major == 0 or (major is not None and int(major[0]) == cuda.major)
