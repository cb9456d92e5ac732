"""The statement beside a wheel: in-toto, with SLSA's provenance v1 as its predicate.

The wheel holds its own provenance, which cannot name the wheel's digest. The statement names the digest, the
commit of mambaport, and every material, in the form that other tools read and that CI signs.
"""

from __future__ import annotations

import json
from typing import Any

from mambaport.building.materials import Material, materials
from mambaport.building.provenance import record
from mambaport.commit import REPOSITORY, Builder
from mambaport.plan import PackagePlan, Plan
from mambaport.wheels import PREDICATE_TYPE, STATEMENT_TYPE, Wheel

BUILD_TYPE = f"{REPOSITORY}/blob/main/docs/how-to/wheels-in-ci.md#where-a-wheel-comes-from"


def statement(plan: Plan, package: PackagePlan, wheel: Wheel, builder: Builder | None) -> str:
    """The statement of one wheel, as JSON.

    Args:
        builder: the mambaport that has built the wheel; None where no record says which. Then no commit is
            stated: today's commit is not that of the build.
    """
    facts = record(plan, package)
    asked = ("profile", "variant", "package", "version")
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {name: facts[name] for name in asked},
            "internalParameters": {
                **{name: facts[name] for name in facts if name not in (*asked, "patch_sets", "sources")},
                "reproducible": {
                    "promise": "equal inputs give equal bytes",
                    "check": f"mambaport rebuild {wheel.path.name}",
                },
            },
            "resolvedDependencies": [
                _builder(builder),
                *(_dependency(material) for material in materials(plan, package)),
            ],
        },
        "runDetails": {
            "builder": {
                "id": REPOSITORY,
                **({"version": {"mambaport": builder.version}} if builder is not None else {}),
            },
            "metadata": {"invocationId": package.key},
        },
    }
    text = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": wheel.path.name, "digest": {"sha256": wheel.sha256}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    return json.dumps(text, indent=1, sort_keys=True) + "\n"


def _builder(builder: Builder | None) -> dict[str, Any]:
    if builder is None:
        return {
            "name": "mambaport",
            "uri": "pkg:pypi/mambaport",
            "annotations": {"commit": "not recorded when the wheel was built"},
        }
    commit = builder.commit
    if commit is None:
        return {"name": "mambaport", "uri": f"pkg:pypi/mambaport@{builder.version}"}
    changed = {"annotations": {"changed": list(commit.changed)}} if commit.changed else {}
    return {
        "name": "mambaport",
        "uri": f"git+{REPOSITORY}@{commit.sha1}",
        "digest": {"gitCommit": commit.sha1},
        **changed,
    }


def _dependency(material: Material) -> dict[str, Any]:
    notes = {
        "kind": material.kind,
        **({"version": material.version} if material.version else {}),
        **({"license": material.license} if material.license else {}),
        **({"patch_set_digest": material.digest} if material.digest else {}),
    }
    return {
        "name": material.name,
        **({"uri": material.purl.to_string()} if material.purl is not None else {}),
        **({"digest": {"sha256": material.sha256}} if material.sha256 else {}),
        "annotations": notes,
    }
