"""Attestations of wheels (PEP 740): signatures of digests, which a workflow has made with Sigstore.

All cryptography is that of the libraries pypi-attestations and sigstore. mambaport decides what is compared:
the file's name, the file's sha256, and the repository on GitHub whose workflow has signed.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from mambaport.errors import AuditError, FetchError, HostError, UsageError

ATTESTATION = ".publish.attestation"
"""The end of the name of an attestation beside a wheel: the name that pypi-attestations writes."""
PROVENANCE = ".provenance"
"""The end of the name of a wheel's attestations in an index: the name that PEP 740 gives."""
LARGEST = 1 << 20
"""Bytes of the longest attestation, or file of attestations, that is read."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/(?!\.\.?$)[A-Za-z0-9._-]+")
_ISSUER = "https://token.actions.githubusercontent.com"
# Names of a certificate's facts, as Fulcio, Sigstore's certificate authority, numbers them.
_COMMIT, _REF, _WORKFLOW = (f"1.3.6.1.4.1.57264.1.{number}" for number in (13, 14, 18))


def require_repository(name: str) -> str:
    """The name of a repository on GitHub, as ``--attested-by`` takes it.

    Raises:
        UsageError: the text is not ``OWNER/NAME``.
    """
    if not _REPOSITORY.fullmatch(name):
        raise UsageError(
            "--attested-by is not the name of a repository",
            found=name,
            expected="OWNER/NAME, as in the repository's address on GitHub",
            hint='in a workflow of GitHub: --attested-by "$GITHUB_REPOSITORY"',
        )
    return name


class Checker:
    """Compares attestations with the repository that must have signed.

    Args:
        repository: ``OWNER/NAME`` on GitHub.
        offline: whether no newer keys are fetched: the keys are those that sigstore fetched before, or those
            in the library.

    Raises:
        HostError: the library pypi-attestations is not installed.
        FetchError: Sigstore's newest keys cannot be fetched.
    """

    def __init__(self, repository: str, *, offline: bool) -> None:
        try:
            self._library: Any = import_module("pypi_attestations")
            policies: Any = import_module("sigstore.verify.policy")
            self._faults: Any = import_module("sigstore.errors")
            verifying: Any = import_module("sigstore.verify")
        except ImportError as fault:
            raise HostError(
                "pypi-attestations is not installed",
                found=str(fault),
                expected="the library by which mambaport compares attestations",
                hint="pip install 'mambaport[attest]', in the environment of mambaport",
            ) from None
        logging.getLogger("sigstore").setLevel(logging.ERROR)  # no warning that keys are not refreshed
        self.repository = repository
        self._policy = policies.AllOf(
            [
                policies.OIDCIssuerV2(_ISSUER),
                policies.OIDCSourceRepositoryURI(f"https://github.com/{repository}"),
            ]
        )
        try:
            verifying.Verifier.production(offline=offline)
        except (self._faults.Error, OSError) as fault:
            raise FetchError(
                "Sigstore's newest keys cannot be fetched",
                found=f"{type(fault).__name__}: {fault}",
                expected="the keys that attestations are compared with",
                hint="check the network; --offline, with a folder as the index, takes the keys that sigstore "
                "fetched before, or those in the installed library",
            ) from None

    def provenance(self, attestation: bytes, filename: str, sha256: str) -> bytes:
        """The ``.provenance`` file of a wheel with one attestation, after the comparison of the attestation.

        Raises:
            AuditError: the attestation is not of this file, or not of this repository's workflow.
        """
        with self._reading(f"{filename}{ATTESTATION}", filename, sha256):
            found = self._library.Attestation.model_validate_json(attestation)
            self._verify(found, filename, sha256)
            claims = found.certificate_claims
            workflow = claims[_WORKFLOW].partition("/.github/workflows/")[2].partition("@")[0]
        publisher = {
            "kind": "GitHub",
            "repository": self.repository,
            "workflow": workflow,
            "environment": None,
            "claims": {"ref": claims.get(_REF), "sha": claims.get(_COMMIT)},
        }
        bundle = {"publisher": publisher, "attestations": [found.model_dump(mode="json")]}
        return (json.dumps({"version": 1, "attestation_bundles": [bundle]}, indent=1) + "\n").encode()

    def require(self, provenance: bytes, filename: str, sha256: str) -> None:
        """Refuses a file of which no attestation in its ``.provenance`` file is of the repository.

        Raises:
            AuditError: the file cannot be read, or none of its attestations passes.
        """
        name = f"{filename}{PROVENANCE}"
        with self._reading(name, filename, sha256):
            bundles = self._library.Provenance.model_validate_json(provenance).attestation_bundles
        reasons = []
        for item in (item for bundle in bundles for item in bundle.attestations):
            try:
                with self._reading(name, filename, sha256):
                    self._verify(item, filename, sha256)
            except AuditError as fault:
                reasons.append(str(fault.found))
            else:
                return
        raise self._refused(name, filename, sha256, "; ".join(reasons[:3]) or "no attestation in the file")

    def _verify(self, attestation: Any, filename: str, sha256: str) -> None:
        file = self._library.Distribution(name=filename, digest=sha256)
        attestation.verify(self._policy, file, offline=True)  # with the keys that __init__ fetched

    @contextmanager
    def _reading(self, name: str, filename: str, sha256: str) -> Iterator[None]:
        """Turns the libraries' errors, and those of unreadable data, into the refusal of ``name``."""
        try:
            yield
        except (
            self._library.AttestationError,
            self._faults.Error,
            *(ValueError, TypeError, KeyError, RecursionError, OverflowError),
        ) as fault:
            reason = f"{fault}".replace("\n", " ")[:300]
            raise self._refused(name, filename, sha256, f"{type(fault).__name__}: {reason}") from None

    def _refused(self, name: str, filename: str, sha256: str, reason: str) -> AuditError:
        return AuditError(
            f"{name} does not attest {filename}",
            found=reason,
            expected=f"an attestation of sha256 {sha256}, by a workflow of github.com/{self.repository}",
            hint="do not use the wheel: it or its attestation was changed, or another repository has signed",
        )


def lacking(filename: str, place: str, repository: str) -> AuditError:
    """The refusal of a wheel that has no attestation at all."""
    return AuditError(
        f"{filename} has no attestation",
        found=f"no {filename}{PROVENANCE} in {place}",
        expected=f"an attestation signed by a workflow of github.com/{repository}",
        hint="the workflow wheels.yml signs wheels; without --attested-by, digests alone are compared",
    )
