"""The software bill of materials inside a wheel, in CycloneDX."""

from __future__ import annotations

from datetime import datetime, timezone
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import (
    Component,
    ComponentScope,
    ComponentType,
    Diff,
    Patch,
    PatchClassification,
    Pedigree,
)
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from mambaport.building.materials import CUDA_LICENSE, Material, materials
from mambaport.plan import PackagePlan, Plan


def sbom(plan: Plan, package: PackagePlan) -> str:
    """A CycloneDX 1.6 document of the wheel: the package with its pedigree, and every material of the build.

    Components of scope ``required`` are in the wheel. Those of scope ``excluded`` were used to build it.
    """
    purl = PackageURL("pypi", name=package.name, version=package.version)
    component = Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=str(purl),
        licenses=[LicenseExpression(package.source.license)],
        external_references=[
            ExternalReference(
                type=ExternalReferenceType.SOURCE_DISTRIBUTION,
                url=XsUri(archive.filename),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=archive.sha256)],
            )
            for archive in package.source.archive
        ],
        pedigree=Pedigree(
            ancestors=[
                Component(
                    name=package.name,
                    version=package.source.version,
                    type=ComponentType.LIBRARY,
                    purl=PackageURL("pypi", name=package.name, version=package.source.version),
                )
            ],
            patches=[
                Patch(
                    type=PatchClassification.BACKPORT if patch.upstream else PatchClassification.UNOFFICIAL,
                    diff=Diff(url=XsUri(f"{item.name}/{patch.file}")),
                )
                for item in package.sets
                for patch in item.patches
            ],
            notes="\n".join(  # the patches' reasons stand with their components
                f"{item.name}/{entry.file}: {entry.why}"
                for item in package.sets
                for entry in item.meta.replace
            ),
        ),
        properties=[Property(name="mambaport:key", value=package.key)],
    )
    parts = [_part(material) for material in materials(plan, package)]
    bom = Bom(
        serial_number=uuid5(NAMESPACE_URL, f"mambaport:{package.key}"),
        metadata=BomMetaData(
            component=component, timestamp=datetime.fromtimestamp(package.source.epoch, tz=timezone.utc)
        ),
        components=parts,
    )
    bom.register_dependency(component, parts)
    return str(JsonV1Dot6(bom).output_as_string(indent=1)) + "\n"


_TYPES = {
    "source": ComponentType.FILE,
    "patch": ComponentType.FILE,
    "files": ComponentType.LIBRARY,
    "compiler": ComponentType.APPLICATION,
    "build requirement": ComponentType.LIBRARY,
    "headers": ComponentType.LIBRARY,
}


def _part(material: Material) -> Component:
    licences: list[DisjunctiveLicense | LicenseExpression] = []
    if material.license:
        spdx = material.license != CUDA_LICENSE
        licences.append(
            LicenseExpression(material.license) if spdx else DisjunctiveLicense(name=CUDA_LICENSE)
        )
    tools = ("compiler", "build requirement")
    return Component(
        name=material.name,
        version=material.version or None,
        type=_TYPES[material.kind],
        bom_ref=f"{material.kind}:{material.name}",
        scope=ComponentScope.EXCLUDED if material.kind in tools else ComponentScope.REQUIRED,
        description=material.note or None,
        purl=material.purl,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=material.sha256)] if material.sha256 else [],
        licenses=licences,
        properties=[
            Property(name="mambaport:kind", value=material.kind),
            *([Property(name="mambaport:patch-set", value=material.digest)] if material.digest else []),
        ],
    )
