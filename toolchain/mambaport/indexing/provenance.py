"""A wheel's provenance as an index reads it. `mambaport build` writes it; others may have changed it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mambaport.boards import Sm
from mambaport.models import FileName, Name, Sha256


def _plain(value: Any) -> dict[str, str]:
    """A table of facts as text; one fact as a table of one row."""
    return {
        str(key): str(item) for key, item in (value if isinstance(value, dict) else {"is": value}).items()
    }


Facts = Annotated[dict[str, str], BeforeValidator(_plain)]


class _Part(BaseModel):
    """Unknown keys are left out: a later mambaport may write more."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class SourceFile(_Part):
    filename: FileName
    sha256: Sha256


class AppliedPatch(_Part):
    file: FileName
    sha256: Sha256
    why: str
    upstream: str | None = None
    thread: str | None = None
    failures: tuple[str, ...] = ()


class ReplacedFile(_Part):
    file: str
    why: str


class AppliedSet(_Part):
    name: Name
    summary: str = ""
    patches: tuple[AppliedPatch, ...]
    replaced: tuple[ReplacedFile, ...] = ()
    overlay: tuple[str, ...] = ()


class TargetFacts(_Part):
    arch: str
    glibc: str = Field(pattern=r"^2\.[0-9]+$")
    cpu: str


class CudaFacts(_Part):
    version: str | None = None
    """CUDA of the toolkit; absent in the plan of a machine without one."""
    nvcc: str | None = None
    sm: tuple[Sm, ...]
    ptx: tuple[Sm, ...] = ()
    flavour: str
    torch: str
    torch_minor: str = Field(pattern=r"^[0-9]+\.[0-9]+$")
    torch_cuda: str | None = None
    cxx11_abi: bool


class Provenance(_Part):
    """``provenance.json`` of a wheel."""

    profile: Name
    variant: Name | None = None
    target: TargetFacts
    package: Name
    version: str
    sources: tuple[SourceFile, ...]
    patch_sets: tuple[AppliedSet, ...]
    toolchain: Facts
    cuda: CudaFacts | None = None
    build_requirements: tuple[SourceFile, ...] = ()
    environment: Facts = Field(default_factory=dict)
    key: str = Field(pattern=r"^[0-9a-f]{8,64}$")
