"""Pins of CUDA's parts and of the torch that extensions are compiled against."""

from __future__ import annotations

from functools import cache

from pydantic import Field

from mambaport.models import Model, Name, Sha256, read_toml, validate
from mambaport.pins import Pin
from mambaport.resources import pins_dir


class Excerpt(Pin):
    """Some members of a pinned wheel, fetched without the rest of it."""

    members: tuple[str, ...] = Field(min_length=1)
    """Patterns of their names."""
    content_sha256: Sha256
    """Digest of their names and contents (:func:`mambaport.digests.tree_sha256`)."""


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
    """nvcc and what it calls, for one architecture of the machine that builds."""

    pin: tuple[Pin, ...] = ()
    debian: DebianPackage | None = None


class CudaRelease(Model):
    """A CUDA that can be put together from public archives."""

    version: str
    """``13.0``"""
    release: str
    """nvcc's: ``13.0.88``"""
    tools: dict[str, Tools]
    """By the architecture they run on."""
    headers: tuple[Excerpt, ...]
    """The same for every architecture; the target brings the libraries."""
    newest_gcc: int
    """The newest gcc major that its headers accept."""


class TorchRelease(Model):
    """A torch whose headers and exported symbols stand for the target's."""

    version: str
    arch: str
    """Of the target."""
    cuda: str
    """The CUDA that its headers are configured for."""
    cxx11_abi: bool = True
    """Whether the target's builds have the C++11 ABI, so the extension too."""
    headers: Excerpt
    """The headers; and libc10_cuda.so for its symbols, where ``exports`` is a CPU build."""
    exports: Excerpt
    string_exports: Excerpt | None = None
    """Where ``exports`` has not the C++11 ABI: a build that has, for the names with a std::string."""
    note: str = ""
    """What is not exactly the target's, for people."""

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
