"""Every file that passes from one machine to another, changed on its way: refused, and named.

That a rebuild finds other bytes needs a compiler: tests/integration/test_real_rebuild.py shows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import pin_of, rewrite_wheel
from test_indexing import SHA, provenance, refused, run, wheel
from test_wheel_index import NAME, bring, rewrite

from mambaport.auditing import audit_wheel, require
from mambaport.errors import AuditError, FetchError, IndexFault, MambaportError
from mambaport.report import Report
from mambaport.sources import Fetcher
from mambaport.sources.index import IndexSettings
from mambaport.sources.remote import Remote
from mambaport.store import Store
from mambaport.wheels import PREDICATE_TYPE, STATEMENT, STATEMENT_TYPE, read_wheel

COMPILER = "cd" * 32
SBOM = {
    "components": [
        {"name": "zig", "hashes": [{"alg": "SHA-256", "content": COMPILER}]},
        {"name": "kernels"},
    ]
}


@dataclass
class Farm:
    """A wheel with its statement, an index of it, a store with it, and a remote copy of the store."""

    root: Path
    wheel: Path
    site: Path
    store: Store
    remote: Path
    manifest: str

    def audit(self) -> None:
        require(audit_wheel(read_wheel(self.wheel), None))

    def install(self) -> None:
        bring(self.site, self.root / "brought")

    def index_again(self) -> None:
        if (fault := refused("-o", self.site)) is not None:
            raise fault

    def pull(self) -> None:
        place = Remote(str(self.remote))
        place.bring(Store(self.root / "second"), place.manifest(self.manifest))


def statement_of(path: Path) -> str:
    record = provenance()
    dependencies = [
        {"name": "demo-1.0.tar.gz", "digest": {"sha256": SHA}},
        {"name": "demo/portable/0001-fix.patch", "digest": {"sha256": SHA}},
        {"name": "zig", "digest": {"sha256": COMPILER}},
        {"name": "kernels"},
    ]
    subject = [{"name": path.name, "digest": {"sha256": read_wheel(path).sha256}}]
    predicate = {"buildDefinition": {"resolvedDependencies": dependencies}}
    assert record["sources"][0]["sha256"] == SHA
    kinds = {"_type": STATEMENT_TYPE, "predicateType": PREDICATE_TYPE}
    return json.dumps({**kinds, "subject": subject, "predicate": predicate})


def add_material(path: Path, digest: dict[str, str]) -> None:
    text = json.loads(path.read_text())
    dependencies = text["predicate"]["buildDefinition"]["resolvedDependencies"]
    dependencies.append({"name": "evil.patch", "digest": digest})
    path.write_text(json.dumps(text))


def add_first(path: Path, name: str) -> None:
    """The statement gets a second file of this name, before the right one, with another digest."""
    text = json.loads(path.read_text())
    dependencies = text["predicate"]["buildDefinition"]["resolvedDependencies"]
    items = text["subject"] if name == NAME else dependencies
    items.insert(0, {"name": name, "digest": {"sha256": "0" * 64}})
    path.write_text(json.dumps(text))


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    path = wheel(tmp_path / "house", sbom=SBOM)
    path.with_name(path.name + STATEMENT).write_text(statement_of(path))
    run(path, "-o", tmp_path / "site")
    store = Store(tmp_path / "store")
    store.make("wheels", "demo-1.0-abc", lambda folder: put(path, folder / path.name))
    _, digest, _ = Remote(str(tmp_path / "remote"), writing=True).push(store)
    return Farm(tmp_path, path, tmp_path / "site", store, tmp_path / "remote", digest)


def put(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def exchange(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def change_wheel(farm: Farm) -> None:
    """A module is changed, and RECORD keeps the digest of the right one."""
    rewrite_wheel(farm.wheel, {"demo.py": b"import os\n"})


def statement(farm: Farm) -> Path:
    return farm.wheel.with_name(NAME + STATEMENT)


PAGE = "my-board/simple/demo/index.json"
CASES: dict[str, tuple[Callable[[Farm], object], Callable[[Farm], object], type[MambaportError], str]] = {
    "a wheel": (change_wheel, Farm.audit, AuditError, "demo.py is not what RECORD says"),
    "a wheel's bytes after the statement": (
        lambda farm: farm.wheel.write_bytes(wheel(farm.root / "other", content=b"y = 1\n").read_bytes()),
        Farm.audit, AuditError, f"{NAME}{STATEMENT}: the subject's sha256 is",
    ),
    "a statement's digest": (
        lambda farm: exchange(statement(farm), read_wheel(farm.wheel).sha256, "0" * 64),
        Farm.audit, AuditError, f"{NAME}{STATEMENT}: the subject's sha256 is 0000",
    ),
    "a statement's material": (
        lambda farm: exchange(statement(farm), SHA, "0" * 64),
        Farm.audit, AuditError, "demo/portable/0001-fix.patch is stated with sha256 0000",
    ),
    "a statement of another wheel": (
        lambda farm: exchange(statement(farm), NAME, "other.whl"),
        Farm.audit, AuditError, f"{NAME}{STATEMENT}: the subject is other.whl",
    ),
    "a statement of another kind": (
        lambda farm: exchange(statement(farm), "provenance/v1", "provenance/v99"),
        Farm.audit, AuditError, f"{NAME}{STATEMENT}: predicateType is https://slsa.dev/provenance/v99",
    ),
    "a statement with two digests of the wheel": (
        lambda farm: add_first(statement(farm), NAME),
        Farm.audit, AuditError, f"{NAME} stands there twice",
    ),
    "a statement with two digests of a source": (
        lambda farm: add_first(statement(farm), "demo-1.0.tar.gz"),
        Farm.audit, AuditError, "demo-1.0.tar.gz stands there twice",
    ),
    "a statement with one more material": (
        lambda farm: add_material(statement(farm), {"sha256": "0" * 64}),
        Farm.audit, AuditError, "evil.patch is stated with sha256 0000",
    ),
    "a statement with one more material, without a digest": (
        lambda farm: add_material(statement(farm), {}),
        Farm.audit, AuditError, "evil.patch is stated with sha256 None, and the wheel's SBOM lists no such",
    ),
    "a statement with another compiler's digest": (
        lambda farm: exchange(statement(farm), COMPILER, "0" * 64),
        Farm.audit, AuditError, f"and the wheel's SBOM has sha256 {COMPILER}",
    ),
    "a statement without a material of the SBOM": (
        lambda farm: exchange(statement(farm), '"zig"', '"mambaport"'),
        Farm.audit, AuditError, "zig is not stated, and in the wheel's SBOM",
    ),
    "a statement that is none": (
        lambda farm: statement(farm).write_text("[]"),
        Farm.audit, AuditError, f"{NAME}{STATEMENT} cannot be read",
    ),
    "a wheel of an index": (
        lambda farm: append(farm.site / "my-board/files" / NAME),
        Farm.install, IndexFault, f"my-board/files/{NAME}",
    ),
    "a page of an index for pip": (lambda farm: append(farm.site / PAGE), Farm.install, IndexFault, PAGE),
    "metadata of an index": (
        lambda farm: append(farm.site / f"my-board/files/{NAME}.metadata"),
        Farm.install, IndexFault, f"{NAME}.metadata",
    ),
    "a page of an index for people": (
        lambda farm: append(farm.site / "index.html"),
        Farm.index_again, IndexFault, "index.html in the index",
    ),
    "a wheel and the sums of an index, with its digest in the address": (
        lambda farm: rewrite(farm.site, f"my-board/files/{NAME}", b"evil"),
        lambda farm: bring(f"{farm.site}#sha256={'0' * 64}", farm.root / "brought"),
        IndexFault, "SHA256SUMS is not the file",
    ),
    "an object of a remote store": (
        lambda farm: append(farm.remote / "objects" / read_wheel(farm.wheel).sha256),
        Farm.pull, FetchError, f"wheels/demo-1.0-abc/{NAME} of the remote store",
    ),
    "a manifest of a remote store": (
        lambda farm: append(farm.remote / f"manifests/{farm.manifest}.json"),
        Farm.pull, FetchError, "of the remote store is not what was pushed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_was_changed_on_its_way_is_refused_by_name(farm: Farm, case: str) -> None:
    tamper, use, error, text = CASES[case]
    tamper(farm)
    with pytest.raises(error) as caught:
        use(farm)
    assert text in f"{caught.value.what}\n{caught.value.found}"
    assert not (farm.root / "second/wheels").exists()


def test_unchanged_everything_is_accepted(farm: Farm) -> None:
    farm.audit()
    farm.install()
    farm.pull()
    run("-o", farm.site)


def test_a_wheel_that_was_changed_in_the_store_is_named_and_not_used(farm: Farm) -> None:
    said: list[str] = []
    store = Store(farm.store.root, changed=said.append)
    append(store.path("wheels", "demo-1.0-abc") / NAME)
    assert store.get("wheels", "demo-1.0-abc") is None
    assert f"wheels/demo-1.0-abc in the store is not as it was made ({NAME} (changed))" in said[0]


def test_an_archive_that_was_changed_in_the_store_is_named_and_fetched_again(
    farm: Farm, capsys: pytest.CaptureFixture[str]
) -> None:
    (farm.root / "mirror").mkdir()
    archive = farm.root / "mirror/demo-1.0.tar.gz"
    archive.write_bytes(b"sources")
    pin = pin_of(archive)
    fetcher = Fetcher(farm.store, IndexSettings(None, archive.parent), Report())
    append(fetcher.fetch(pin))
    assert fetcher.fetch(pin).read_bytes() == b"sources"
    assert "demo-1.0.tar.gz in the store is damaged" in capsys.readouterr().err
    append(archive)
    fetcher.store.discard("archives", pin.sha256)
    with pytest.raises(FetchError, match=r"demo-1\.0\.tar\.gz is not the pinned file"):
        fetcher.fetch(pin)


def test_the_statement_is_published_beside_the_wheel_and_stays(farm: Farm) -> None:
    published = farm.site / f"my-board/files/{NAME}{STATEMENT}"
    text = statement(farm).read_text()
    assert published.read_text() == text
    statement(farm).unlink()
    run("-o", farm.site)
    assert published.read_text() == text
    (page,) = (farm.site / "my-board/wheels").glob("*.html")
    assert f"{STATEMENT}" in page.read_text()
    append(published)
    with pytest.raises(IndexFault, match=r"whl\.intoto\.json in the index"):
        farm.index_again()
