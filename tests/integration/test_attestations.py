"""Attestations (PEP 740): compared with Sigstore's keys, published by an index, required by an installation.

A real attestation, which a workflow on GitHub has signed with Sigstore, is in the source distribution of
pypi-attestations. Comparing needs no network: the keys are in the library sigstore. Signing with Sigstore
needs its servers and a workflow's identity; wheels are signed by a Sigstore of the tests (own_sigstore.py).
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from own_sigstore import Sigstore
from pypi_attestations import Provenance
from test_indexing import refused, run, wheel
from test_wheel_index import NAME, opened, rewrite

from mambaport.attestations import ATTESTATION, PROVENANCE, Checker
from mambaport.cli import cli
from mambaport.digests import file_sha256
from mambaport.errors import AuditError, IndexFault
from mambaport.indexes import read_sums
from mambaport.indexing import read_site, write_site
from mambaport.report import Report
from mambaport.sources.client import download
from mambaport.sources.index import index_settings

FILE = "pypi_attestations-0.0.19.tar.gz"
SHA256 = "9bb1add04b1b4e182be6b0b80931593f7a291eb49d69b4fd728a5d4cbcdc4bd3"
ATTESTATION_SHA256 = "844a2b5de95ba18ef284bdc5434fad63b8274e4d81e5831978d68002428110b7"
SIGNER = "trailofbits/pypi-attestations"


@cache
def real() -> bytes:
    """The attestation of FILE, from the source distribution of the installed pypi-attestations."""
    name = f"pypi_attestations-{version('pypi-attestations')}.tar.gz"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        download(index_settings(None, None), "pypi-attestations", name, path, 10_000_000, Report(quiet=True))
        with tarfile.open(path) as members:
            (inside,) = [item for item in members.getnames() if item.endswith(f"/{FILE}{ATTESTATION}")]
            member = members.extractfile(inside)
            assert member is not None
            found = member.read()
    assert hashlib.sha256(found).hexdigest() == ATTESTATION_SHA256
    return found


@pytest.fixture(scope="module")
def checker() -> Checker:
    return Checker(SIGNER, offline=True)


@pytest.fixture(scope="module")
def provenance(checker: Checker) -> bytes:
    return checker.provenance(real(), FILE, SHA256)


def test_a_real_attestation_passes_and_its_provenance_is_that_of_the_pep(
    checker: Checker, provenance: bytes
) -> None:
    checker.require(provenance, FILE, SHA256)
    assert Provenance.model_validate_json(provenance).attestation_bundles
    data = json.loads(provenance)
    (bundle,) = data["attestation_bundles"]
    assert data["version"] == 1
    assert bundle["publisher"] == {
        "kind": "GitHub",
        "repository": SIGNER,
        "workflow": "release.yml",
        "environment": None,
        "claims": {"ref": "refs/tags/v0.0.19", "sha": "08802efe1f8e5fec4ad842d6b8ce97656092ee72"},
    }
    assert bundle["attestations"] == [json.loads(real())]


def changed(change: Callable[[Any], object]) -> Callable[[], bytes]:
    """Makes an attestation of another content; the real one is fetched when a test runs."""

    def make() -> bytes:
        data = json.loads(real())
        change(data)
        return json.dumps(data).encode()

    return make


def test_a_wheel_with_another_digest_is_refused_by_name(checker: Checker, provenance: bytes) -> None:
    with pytest.raises(AuditError, match=f"{FILE}{ATTESTATION} does not attest {FILE}") as caught:
        checker.provenance(real(), FILE, "0" * 64)
    assert "does not match distribution digest" in str(caught.value.found)
    with pytest.raises(AuditError, match=f"{FILE}{PROVENANCE} does not attest") as caught:
        checker.require(provenance, FILE, "0" * 64)
    assert "does not match distribution digest" in str(caught.value.found)
    assert caught.value.exit_code == 14


def test_another_file_and_another_repository_are_refused(checker: Checker, provenance: bytes) -> None:
    with pytest.raises(AuditError) as caught:
        checker.provenance(real(), "demo-1.0-py3-none-any.whl", SHA256)
    assert "does not match distribution name" in str(caught.value.found)
    stranger = Checker("someone/wheels", offline=True)
    for call in (
        lambda: stranger.provenance(real(), FILE, SHA256),
        lambda: stranger.require(provenance, FILE, SHA256),  # whatever repository the publisher's text names
    ):
        with pytest.raises(AuditError) as caught:
            call()
        assert "OIDCSourceRepositoryURI" in str(caught.value.found)


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: b"[]",
        lambda: b"\xff",
        lambda: b"[" * 100_000,
        changed(lambda data: data.update(version=2)),
        changed(lambda data: data["envelope"].update(signature="MEUCIQ==")),
        changed(lambda data: data["envelope"].update(statement="e30=")),
        changed(lambda data: data["verification_material"].update(certificate="AAAA")),
        changed(lambda data: data["verification_material"].update(transparency_entries=[{}])),
    ],
    ids=["empty", "list", "bytes", "deep", "version", "signature", "statement", "certificate", "log entry"],
)
def test_a_changed_attestation_is_refused(checker: Checker, make: Callable[[], bytes]) -> None:
    content = make()
    with pytest.raises(AuditError, match="does not attest"):
        checker.provenance(content, FILE, SHA256)
    bundle = b'{"version":1,"attestation_bundles":[{"publisher":{"kind":"GitHub","repository":"a/b",'
    bundle += b'"workflow":"x.yml"},"attestations":[' + content + b"]}]}"
    for text in (content, bundle):
        with pytest.raises(AuditError, match="does not attest"):
            checker.require(text, FILE, SHA256)


def test_index_compares_the_attestation_beside_a_wheel(tmp_path: Path) -> None:
    path = wheel(tmp_path / "house")
    beside = path.with_name(path.name + ATTESTATION)
    beside.write_bytes(real())
    words = (path, "-o", tmp_path / "site", "--offline")
    assert "nothing says whose" in refused(*words).what
    fault = refused(*words, "--attested-by", SIGNER)
    assert f"{NAME}{ATTESTATION} does not attest {NAME}" in fault.what
    assert fault.exit_code == 14
    assert not (tmp_path / "site").exists()


@pytest.fixture
def site(tmp_path: Path, provenance: bytes) -> Path:
    """An index whose wheel has a file of attestations: a real one, of another file."""
    path = wheel(tmp_path / "house")
    run(path, "-o", tmp_path / "site")
    attestations = {file_sha256(path): provenance}
    write_site(read_site(tmp_path / "site"), {}, "https://wheels.example", SIGNER, attestations)
    return tmp_path / "site"


def test_the_pages_link_the_provenance_as_the_pep_says(site: Path, provenance: bytes) -> None:
    name = f"my-board/files/{NAME}{PROVENANCE}"
    address = f"https://wheels.example/{name}".replace("+", "%2B")
    data = json.loads((site / "my-board/simple/demo/index.json").read_text())
    assert data["meta"] == {"api-version": "1.3"}
    assert [file["provenance"] for file in data["files"]] == [address]
    page = (site / "my-board/simple/demo/index.html").read_text()
    assert f'data-provenance="{address}"' in page
    assert 'content="1.3"' in page
    assert (site / name).read_bytes() == provenance
    assert name in read_sums((site / "SHA256SUMS").read_text())
    assert f'href="../files/{NAME.replace("+", "%2B")}{PROVENANCE}"' in next(
        (site / "my-board/wheels").glob("*.html")
    ).read_text().replace("&#43;", "+")
    line = f"mambaport install -p my-board --index https://wheels.example/ --attested-by {SIGNER}"
    for place in ("index.html", "my-board/index.html", "my-board/wheels/*.html"):
        assert [path for path in site.glob(place) if line in path.read_text()], place
    run("-o", site)  # without an https address, PEP 740 has no link; the file stays
    assert "provenance" not in json.loads((site / "my-board/simple/demo/index.json").read_text())["files"][0]
    assert (site / name).read_bytes() == provenance
    (site / name).write_bytes(b"{}")
    assert f"{NAME}{PROVENANCE} in the index" in refused("-o", site).what


def bring(site: Path, into: Path) -> None:
    into.mkdir()
    place = opened(site, offline=True)
    place.bring("my-board", {"demo": "1.0+my.board.1"}, "aarch64", into, attested_by=SIGNER)


def test_an_installation_refuses_what_is_not_attested(site: Path, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=rf"whl\{PROVENANCE} does not attest demo") as caught:
        bring(site, tmp_path / "one")
    assert "does not match distribution name" in str(caught.value.found)
    name = f"my-board/files/{NAME}{PROVENANCE}"
    (site / name).write_bytes(b"{}")
    with pytest.raises(IndexFault, match=r"whl\.provenance is not the file that the index names"):
        bring(site, tmp_path / "two")
    rewrite(site, name, b"{}")  # by whoever can change SHA256SUMS too
    with pytest.raises(AuditError, match="does not attest"):
        bring(site, tmp_path / "three")
    run(tmp_path / "house", "-o", tmp_path / "plain")
    with pytest.raises(AuditError, match=r"demo.* has no attestation"):
        bring(tmp_path / "plain", tmp_path / "four")


@pytest.fixture(scope="module")
def sigstore(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sigstore, Path]:
    """A Sigstore, and the folder of caches in which a process has its keys."""
    made, caches = Sigstore(), tmp_path_factory.mktemp("caches")
    made.trust(caches)
    return made, caches


@pytest.fixture
def signed(
    sigstore: tuple[Sigstore, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, tuple[str | Path, ...]]:
    """A wheel that SIGNER has signed, and the words of `mambaport index` for it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(sigstore[1]))
    path = wheel(tmp_path / "house")
    path.with_name(path.name + ATTESTATION).write_bytes(sigstore[0].attest(path, SIGNER))
    return path, (path, "-o", tmp_path / "site", "--offline", "--attested-by", SIGNER)


def test_a_signed_wheel_is_indexed_and_installed_and_a_changed_one_is_not(
    signed: tuple[Path, tuple[str | Path, ...]], tmp_path: Path
) -> None:
    path, words = signed
    site = tmp_path / "site"
    assert f"signed by a workflow of {SIGNER}" in run(*words, "--url", "https://wheels.example")
    data = json.loads((site / f"my-board/files/{NAME}{PROVENANCE}").read_text())
    assert data["attestation_bundles"][0]["publisher"]["workflow"] == "wheels.yml"
    bring(site, tmp_path / "one")
    assert (tmp_path / "one" / NAME).read_bytes() == path.read_bytes()

    # Who controls the server can exchange every file, but cannot sign.
    run(wheel(tmp_path / "other", content=b"x = 2\n"), "-o", tmp_path / "exchanged")
    name = f"my-board/files/{NAME}{PROVENANCE}"
    rewrite(tmp_path / "exchanged", name, (site / name).read_bytes())
    with pytest.raises(AuditError, match=rf"{re.escape(NAME + PROVENANCE)} does not attest") as caught:
        bring(tmp_path / "exchanged", tmp_path / "two")
    assert "does not match distribution digest" in str(caught.value.found)


@pytest.mark.parametrize("change", ["wheel", "repository", "authority"])
def test_an_index_refuses_a_wheel_whose_signature_is_for_another(
    signed: tuple[Path, tuple[str | Path, ...]],
    sigstore: tuple[Sigstore, Path],
    change: str,
    tmp_path: Path,
) -> None:
    path, words = signed
    beside = path.with_name(path.name + ATTESTATION)
    if change == "wheel":
        wheel(tmp_path / "house", content=b"x = 2\n")
    elif change == "repository":
        beside.write_bytes(sigstore[0].attest(path, "someone/else"))
    else:
        beside.write_bytes(Sigstore().attest(path, SIGNER))  # of another authority's keys
    fault = refused(*words)
    assert f"{NAME}{ATTESTATION} does not attest {NAME}" in fault.what
    reason = {
        "wheel": "distribution digest",
        "repository": "OIDCSourceRepositoryURI",
        "authority": "certificate chain",
    }
    assert reason[change] in str(fault.found)
    assert fault.exit_code == 14
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [(["--attested-by", "a/b"], "without --index"), (["--index", "x", "--attested-by", "a"], "OWNER/NAME")],
)
def test_install_refuses_options_that_mean_nothing(words: list[str], text: str) -> None:
    result = CliRunner().invoke(cli, ["install", "-p", "rpi", *words], standalone_mode=False)
    assert text in f"{result.exception} {getattr(result.exception, 'expected', '')}"
