"""Pins of the CUDA toolkit's parts, and of the torch releases that extensions are compiled against."""

from __future__ import annotations

from functools import cache

from pydantic import Field

from mambaport.models import Model, Name, Sha256, read_toml, validate
from mambaport.pins import Pin
from mambaport.resources import pins_dir


class Excerpt(Pin):
    """Some members of a pinned wheel, fetched without the other members."""

    members: tuple[str, ...] = Field(min_length=1)
    """Patterns of the members' names."""
    content_sha256: Sha256
    """Digest of the members' names and contents (:func:`mambaport.digests.tree_sha256`)."""


class DebianPackage(Model):
    """One file of Debian's archive."""

    package: Name
    path: str = Field(pattern=r"^pool/[A-Za-z0-9./_~+-]+\.deb$")
    """Below the mirror's root."""
    sha256: Sha256
    size: int

    @property
    def filename(self) -> str:
        return self.path.rpartition("/")[2]


class Tools(Model):
    """nvcc and the programs that it calls, for one architecture of the machine that builds."""

    pin: tuple[Pin, ...] = ()
    debian: DebianPackage | None = None


class CudaRelease(Model):
    """A CUDA that can be put together from public archives."""

    version: str
    """``13.0``"""
    release: str
    """The version of nvcc: ``13.0.88``"""
    tools: dict[str, Tools]
    """Architecture of the machine that builds -> its tools."""
    headers: tuple[Excerpt, ...]
    """The same for every architecture. The target has the libraries."""
    newest_gcc: int
    """The newest gcc major that its headers accept."""


class TorchRelease(Model):
    """A torch whose headers and exported symbols represent those of the target's torch."""

    version: str
    arch: str
    """The target's architecture."""
    cuda: str
    """The CUDA that its headers are configured for."""
    cxx11_abi: bool = True
    """Whether the target's torch, and so the extension, has the C++11 ABI."""
    headers: Excerpt
    """The headers; also libc10_cuda.so, for its symbols, where ``exports`` is a CPU build."""
    exports: Excerpt
    string_exports: Excerpt | None = None
    """Where ``exports`` lacks the C++11 ABI: a build that has it, for the symbols with a std::string."""
    note: str = ""
    """How this torch differs from the target's, for people."""

    @property
    def minor(self) -> str:
        return ".".join(self.version.split(".")[:2])

    @property
    def parts(self) -> tuple[Excerpt, ...]:
        return tuple(part for part in (self.headers, self.exports, self.string_exports) if part is not None)


class _Cuda(Model):
    release: tuple[CudaRelease, ...]


class _Torch(Model):
    torch: tuple[TorchRelease, ...]


@cache
def cuda_releases() -> tuple[CudaRelease, ...]:
    path = pins_dir() / "cuda.toml"
    return validate(_Cuda, read_toml(path), path).release


@cache
def torch_releases() -> tuple[TorchRelease, ...]:
    path = pins_dir() / "torch.toml"
    return validate(_Torch, read_toml(path), path).torch
