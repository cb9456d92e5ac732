"""What a wheel says of its making: SBOM, statement, and the comparison before a rebuild."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from helpers import write_wheel
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementPb

from mambaport import __version__
from mambaport.building.materials import materials
from mambaport.building.provenance import record
from mambaport.building.sbom import sbom
from mambaport.building.statement import statement
from mambaport.commit import Builder, Commit, read_commit
from mambaport.errors import HostError, PatchError
from mambaport.host import read_host
from mambaport.plan import PackagePlan, Plan, make_plan
from mambaport.profile import find_profile
from mambaport.rebuild import require_equal
from mambaport.wheels import read_wheel

COMMIT = Commit("0123456789abcdef0123456789abcdef01234567", ())
BUILDER = Builder("0.0.9", COMMIT)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(find_profile("rpi"), read_host(), toolchain="zig")


@pytest.fixture(scope="module")
def package(plan: Plan) -> PackagePlan:
    return next(item for item in plan.packages if item.name == "mamba-ssm")


@pytest.mark.parametrize("profile", ["rpi", "cpu", "sbsa"])
def test_the_sbom_is_valid_cyclonedx_and_has_every_material_with_its_licence(profile: str) -> None:
    plan = make_plan(find_profile(profile), read_host())
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    for package in plan.packages:
        text = sbom(plan, package)
        assert validator.validate_str(text) is None
        components = {item["bom-ref"]: item for item in json.loads(text)["components"]}
        for material in materials(plan, package):
            found = components[f"{material.kind}:{material.name}"]
            assert found["licenses"], material
            if material.sha256:
                assert found["hashes"] == [{"alg": "SHA-256", "content": material.sha256}]
        kinds = {material.kind for material in materials(plan, package)}
        assert kinds >= {"source", "patch", "files", "compiler", "build requirement"}
        assert ("headers" in kinds) == (plan.cuda is not None)
    broken = json.loads(text)
    broken["components"][0]["type"] = "no such type"
    assert validator.validate_str(json.dumps(broken)) is not None


def test_the_same_plan_gives_the_same_sbom(plan: Plan, package: PackagePlan) -> None:
    assert sbom(plan, package) == sbom(make_plan(plan.profile, plan.host, toolchain="zig"), package)


def test_the_statement_is_in_toto_with_slsa_provenance(
    plan: Plan, package: PackagePlan, tmp_path: Path
) -> None:
    wheel = read_wheel(write_wheel(tmp_path, {"demo/__init__.py": b""}))
    text = json.loads(statement(plan, package, wheel, BUILDER))
    subjects = json_format.ParseDict(text, StatementPb(), ignore_unknown_fields=True).subject
    Statement(subjects, text["predicateType"], text["predicate"]).validate()
    assert text["subject"] == [{"name": wheel.path.name, "digest": {"sha256": wheel.sha256}}]
    provenance = json_format.ParseDict(text["predicate"], provenance_pb2.Provenance())
    dependencies = {item.name: item for item in provenance.build_definition.resolved_dependencies}
    assert dependencies["mambaport"].digest["gitCommit"] == COMMIT.sha1
    for material in materials(plan, package):
        assert dependencies[material.name].digest.get("sha256", "") == material.sha256
    assert "mambaport rebuild" in json.dumps(text["predicate"]["buildDefinition"]["internalParameters"])


def test_changed_files_of_the_checkout_are_in_the_statement(
    plan: Plan, package: PackagePlan, tmp_path: Path
) -> None:
    wheel = read_wheel(write_wheel(tmp_path, {"demo/__init__.py": b""}))
    changed = Builder("0.0.9", Commit(COMMIT.sha1, ("kernels/x.c",)))
    assert "kernels/x.c" in statement(plan, package, wheel, changed)
    installed = statement(plan, package, wheel, Builder("0.0.9", None))
    assert "gitCommit" not in installed
    assert "pkg:pypi/mambaport@0.0.9" in installed


def test_a_statement_without_a_record_of_the_builder_says_so(
    plan: Plan, package: PackagePlan, tmp_path: Path
) -> None:
    wheel = read_wheel(write_wheel(tmp_path, {"demo/__init__.py": b""}))
    text = statement(plan, package, wheel, None)
    assert "gitCommit" not in text
    assert "not recorded when the wheel was built" in text
    assert __version__ not in text


def test_the_record_of_a_builder_is_read_as_it_was_written() -> None:
    for builder in (BUILDER, Builder("1", None), Builder("1", Commit(COMMIT.sha1, ("a", "b")))):
        assert Builder.from_json(json.loads(json.dumps(builder.to_json()))) == builder
    wrongs: list[Any] = [{}, [], {"version": 1, "commit": None}, {"version": "1", "commit": {"sha1": "x"}}]
    for wrong in wrongs:
        with pytest.raises((KeyError, TypeError, ValueError)):
            Builder.from_json(wrong)


def test_the_commit_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ("git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", tmp_path)
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches/one").write_text("1\n")
    monkeypatch.setattr("mambaport.commit.patches_dir", lambda: tmp_path / "patches")
    assert read_commit() is None
    for words in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "-m", "one")):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert read_commit() == Commit(head, ())
    (tmp_path / "patches/one").write_text("2\n")
    (tmp_path / "patches/two").write_text("2\n")
    assert read_commit() == Commit(head, ("patches/one", "patches/two"))
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert read_commit() is None


def plain(plan: Plan, package: PackagePlan) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(record(plan, package)))
    return found


def test_equal_inputs_are_accepted(plan: Plan, package: PackagePlan) -> None:
    require_equal(plain(plan, package), plain(plan, package), "x.whl")


def test_another_patch_is_refused_by_its_name(plan: Plan, package: PackagePlan) -> None:
    old = copy.deepcopy(plain(plan, package))
    old["patch_sets"][0]["patches"][0]["sha256"] = "0" * 64
    old["key"] = "0" * 40
    with pytest.raises(PatchError, match="other inputs") as caught:
        require_equal(old, plain(plan, package), "x.whl")
    name = f"{old['patch_sets'][0]['name']}/{old['patch_sets'][0]['patches'][0]['file']}"
    assert name in str(caught.value.found)
    assert "0000000000000000, here" in str(caught.value.found)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (("summary",), "{set}, summary: recorded an older text"),
        (("patches", 0, "why"), "{set}/{patch}, why: recorded an older text"),
    ],
)
def test_a_reason_that_differs_alone_is_named(
    plan: Plan, package: PackagePlan, keys: tuple[str | int, ...], said: str
) -> None:
    old = copy.deepcopy(plain(plan, package))
    row = next(item for item in old["patch_sets"] if item["patches"])
    said = said.format(set=f"patch set {row['name']}", patch=row["patches"][0]["file"])
    *path, last = keys
    for key in path:
        row = row[key]
    row[last] = "an older text"
    with pytest.raises(PatchError) as caught:
        require_equal({**old, "key": "0" * 40}, plain(plan, package), "x.whl")
    found = str(caught.value.found).splitlines()
    assert any(line.startswith(said) for line in found)
    for line in found:
        before, _, after = line.partition(": recorded ")[2].partition(", here ")
        assert before != after


def test_another_order_of_the_patch_sets_is_refused(plan: Plan, package: PackagePlan) -> None:
    old = copy.deepcopy(plain(plan, package))
    assert len(old["patch_sets"]) > 1
    old["patch_sets"].reverse()
    with pytest.raises(PatchError, match="other inputs") as caught:
        require_equal(old, plain(plan, package), "x.whl")
    before, _, after = str(caught.value.found).partition(": recorded ")[2].partition(", here ")
    assert before != after


def test_another_compiler_is_a_matter_of_the_machine(plan: Plan, package: PackagePlan) -> None:
    old = copy.deepcopy(plain(plan, package))
    old["toolchain"]["zig"] = "0.1.0"
    old["key"] = "0" * 40
    with pytest.raises(HostError, match="on this machine") as caught:
        require_equal(old, plain(plan, package), "x.whl")
    assert "0.1.0" in str(caught.value.found)


def test_a_key_alone_that_differs_is_an_input_without_a_name(plan: Plan, package: PackagePlan) -> None:
    with pytest.raises(PatchError) as caught:
        require_equal({**plain(plan, package), "key": "0" * 40}, plain(plan, package), "x.whl")
    assert "does not name" in str(caught.value.found)


@pytest.mark.parametrize("value", [None, [], "text", [1], [{"name": []}], {"a": 1}])
@pytest.mark.parametrize("name", ["patch_sets", "sources", "toolchain", "key", "unknown"])
def test_values_of_any_kind_are_refused_without_a_traceback(
    plan: Plan, package: PackagePlan, name: str, value: Any
) -> None:
    if name == "unknown" and value is None:
        return  # as good as absent
    with pytest.raises((PatchError, HostError)):
        require_equal({**plain(plan, package), name: value}, plain(plan, package), "x.whl")
