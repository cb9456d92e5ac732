"""The materials of a wheel: every file and program that decides its bytes, with digest and licence.

The SBOM inside the wheel and the statement beside it are made from this one list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from packageurl import PackageURL

from mambaport.digests import file_sha256
from mambaport.pins import zig
from mambaport.plan import PackagePlan, Plan

Kind = Literal["source", "patch", "files", "compiler", "build requirement", "headers"]
OWN_LICENSE = "Apache-2.0"
COMPILERS = {
    "gcc": "GPL-3.0-or-later WITH GCC-exception-3.1",
    "clang": "Apache-2.0 WITH LLVM-exception",
    "zig": "MIT",
}
"""Licences of compilers. Their exceptions are for the parts that a compiler puts into what it compiles."""
TORCH_LICENSE = "BSD-3-Clause"
CUDA_LICENSE = "NVIDIA CUDA Toolkit EULA"


@dataclass(frozen=True)
class Material:
    """One input of a build."""

    kind: Kind
    name: str
    version: str = ""
    sha256: str = ""
    """Digest of the file; empty where the material is no single file."""
    license: str = ""
    """An SPDX expression, or the name of a licence that SPDX does not list."""
    note: str = ""
    purl: PackageURL | None = None
    digest: str = ""
    """The patch set's digest over all its files, where the material is a patch set's own files."""


def materials(plan: Plan, package: PackagePlan) -> list[Material]:
    """The inputs of one wheel, in the order: sources, patch sets, compilers, headers, build requirements."""
    return [*_sources(package), *_sets(package), *_compilers(plan), *_headers(plan), *_requirements(plan)]


def _sources(package: PackagePlan) -> Iterator[Material]:
    for archive in package.source.archive:
        purl = _pypi(package.name, archive.version, archive.filename)
        yield Material(
            "source", archive.filename, archive.version, archive.sha256, package.source.license, purl=purl
        )


def _sets(package: PackagePlan) -> Iterator[Material]:
    for item in package.sets:
        for patch in item.patches:
            path = item.path(patch)
            yield Material(
                "patch",
                f"{package.name}/{item.name}/{path.name}",
                str(package.revision),
                file_sha256(path),
                package.source.license,
                patch.why,
            )
        count = len(item.overlay_files())
        if count:
            yield Material(
                "files",
                f"{package.name}/{item.name}",
                str(package.revision),
                license=OWN_LICENSE,
                note=f"{count} files that mambaport adds: kernels, their binding, the build",
                digest=item.digest(),
            )


def _compilers(plan: Plan) -> Iterator[Material]:
    facts = plan.toolchain.identity(plan.host)
    for role, text in facts.items():
        if role == "zig":
            yield Material(
                "compiler", "zig", text, license=COMPILERS["zig"], purl=_pypi(zig().x86_64.project, text)
            )
        elif role in ("cc", "cxx"):
            family = "clang" if "clang" in text else "gcc"
            yield Material("compiler", f"{family} ({role})", text, license=COMPILERS[family])


def _headers(plan: Plan) -> Iterator[Material]:
    if plan.cuda is None:
        return
    facts = plan.cuda.to_json()
    torch = str(facts["torch"])
    sha256 = str(facts["torch_sha256"] or "")
    yield Material(
        "headers", "torch", torch, sha256, TORCH_LICENSE, "C++ headers of torch", _pypi("torch", torch)
    )
    if "nvcc" in facts:
        yield Material("headers", "cuda-toolkit", str(facts["version"]), license=CUDA_LICENSE,
                       note="headers of CUDA, CUB and Thrust; nvcc " + str(facts["nvcc"]))  # fmt: skip


def _requirements(plan: Plan) -> Iterator[Material]:
    for pin in plan.build_requirements:
        purl = _pypi(pin.project, pin.version, pin.filename)
        yield Material("build requirement", pin.filename, pin.version, pin.sha256, pin.license, purl=purl)


def _pypi(name: str, version: str, filename: str | None = None) -> PackageURL:
    return PackageURL(
        "pypi", name=name, version=version, qualifiers={"file_name": filename} if filename else None
    )
