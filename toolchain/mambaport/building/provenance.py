"""The provenance inside a wheel: a JSON record."""

from __future__ import annotations

import json
from typing import Any

from mambaport.plan import BUILD_FORMAT, PackagePlan, Plan, set_json


def provenance(plan: Plan, package: PackagePlan) -> str:
    """Everything that decided the wheel's bytes, as JSON. The same inputs give the same text."""
    return json.dumps(record(plan, package), indent=1, sort_keys=True) + "\n"


def record(plan: Plan, package: PackagePlan) -> dict[str, Any]:
    """:func:`provenance` as plain data."""
    return {
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
        "build_format": BUILD_FORMAT,
        "python": plan.host.python.rsplit(".", 1)[0],
        "key": package.key,
    }


def external_requirements(plan: Plan) -> list[str]:
    """Lines for METADATA that name the torch and CUDA that the extensions need.

    Requires-External, not Requires-Dist: with the latter pip would replace the device's torch by the index's.
    """
    if plan.cuda is None:
        return []
    goal = plan.cuda.goal
    return [f"Requires-External: torch (=={goal.torch}.*)", f"Requires-External: CUDA (=={goal.major}.*)"]
