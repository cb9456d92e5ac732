"""The software bill of materials inside a wheel, in CycloneDX."""

from __future__ import annotations

from datetime import datetime, timezone
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType, Diff, Patch, PatchClassification, Pedigree
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from mambaport.plan import PackagePlan, Plan


def sbom(plan: Plan, package: PackagePlan) -> str:
    """A CycloneDX 1.6 document of the wheel: the package, its archives' digests, and each patch on it."""
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
            notes="\n".join(
                f"{item.name}/{change.file}: {change.why}" for item in package.sets for change in item.changes
            ),
        ),
        properties=[Property(name="mambaport:key", value=package.key)],
    )
    bom = Bom(
        serial_number=uuid5(NAMESPACE_URL, f"mambaport:{package.key}"),
        metadata=BomMetaData(
            component=component, timestamp=datetime.fromtimestamp(package.source.epoch, tz=timezone.utc)
        ),
    )
    return str(JsonV1Dot6(bom).output_as_string(indent=1)) + "\n"
