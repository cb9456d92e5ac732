"""The provenance inside a wheel: a JSON record and a CycloneDX SBOM."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType, Diff, Patch, PatchClassification, Pedigree
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from mambaport.plan import PackagePlan, Plan, set_json


def provenance(plan: Plan, package: PackagePlan) -> str:
    """Everything that decided the wheel's bytes, as JSON. The same inputs give the same text."""
    record = {
        "profile": plan.profile.name,
        "variant": plan.variant,
        "target": {"arch": plan.goal.arch, "glibc": plan.goal.glibc, "cpu": plan.goal.cpu},
        "package": package.name,
        "version": package.version,
        "sources": [
            {"filename": archive.filename, "sha256": archive.sha256} for archive in package.source.archive
        ],
        "revision": package.revision,
        "patch_sets": [set_json(item) for item in package.sets],
        "toolchain": plan.toolchain.identity(plan.host),
        **({"cuda": plan.cuda.to_json()} if plan.cuda else {}),
        "build_requirements": [
            {"filename": pin.filename, "sha256": pin.sha256} for pin in plan.build_requirements
        ],
        "environment": dict(package.environment),
        "source_date_epoch": package.source.epoch,
        "key": package.key,
    }
    return json.dumps(record, indent=1, sort_keys=True) + "\n"


def external_requirements(plan: Plan) -> list[str]:
    """Lines for METADATA that name the torch and CUDA that the extensions need.

    Requires-External, not Requires-Dist: with the latter pip would replace the device's torch by the index's.
    """
    if plan.cuda is None:
        return []
    goal = plan.cuda.goal
    return [f"Requires-External: torch (=={goal.torch}.*)", f"Requires-External: CUDA (=={goal.major}.*)"]


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
