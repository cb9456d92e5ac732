"""A Sigstore of the tests: a certificate authority and two logs with keys of this process.

Signing with the real one needs the identity of a workflow on GitHub. Attestations of this Sigstore pass every
step of the real libraries' comparison, in a process whose XDG_CACHE_HOME has the file of its public keys.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pypi_attestations import Attestation
from sigstore.dsse import Envelope
from sigstore.dsse import _pae as dsse_bytes

FOLDER = "sigstore-python/tuf/https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"
"""Where sigstore keeps the newest public keys, below the folder of caches."""
FULCIO = "1.3.6.1.4.1.57264.1"
SHA256 = ec.ECDSA(hashes.SHA256())


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Log:
    """A key that signs, and its name: the digest of the public key."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.public = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.id = hashlib.sha256(self.public).digest()

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data, SHA256)

    def described(self, url: str) -> dict[str, Any]:
        key = {"rawBytes": text(self.public), "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
        return {
            "baseUrl": url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": {**key, "validFor": {"start": "2021-01-01T00:00:00Z"}},
            "logId": {"keyId": text(self.id)},
        }


class Sigstore:
    """Signs wheels as the workflow ``wheels.yml`` of a repository does."""

    def __init__(self) -> None:
        self.now = datetime.now(timezone.utc).replace(microsecond=0)
        self.authority, self.certificates, self.entries = Log(), Log(), Log()
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests of mambaport")])
        public = self.authority.key.public_key()
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self.root = (
            self._dated(self.name, public, days=365)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self.authority.key, hashes.SHA256())
        )

    def _dated(self, subject: x509.Name, public: Any, **lasts: int) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(minutes=1))
            .not_valid_after(self.now + timedelta(**lasts))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )

    def trust(self, caches: Path) -> None:
        """Writes the public keys into a folder that a process then has as XDG_CACHE_HOME."""
        authority = {
            "subject": {"organization": "tests", "commonName": "tests of mambaport"},
            "uri": "https://fulcio.example",
            "certChain": {"certificates": [{"rawBytes": text(self.root.public_bytes(Encoding.DER))}]},
            "validFor": {"start": "2021-01-01T00:00:00Z"},
        }
        root = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [self.entries.described("https://rekor.example")],
            "certificateAuthorities": [authority],
            "ctlogs": [self.certificates.described("https://ctfe.example")],
            "timestampAuthorities": [],
        }
        (caches / FOLDER).mkdir(parents=True)
        (caches / FOLDER / "trusted_root.json").write_text(json.dumps(root))

    def _certificate(self, key: Any, repository: str) -> x509.Certificate:
        """A certificate for a run of ``wheels.yml``, which the log of certificates has signed too."""
        ref = "refs/tags/wheels-1"
        workflow = f"https://github.com/{repository}/.github/workflows/wheels.yml@{ref}"
        facts = {
            8: "https://token.actions.githubusercontent.com",
            12: f"https://github.com/{repository}",
            13: "0" * 40,
            14: ref,
            18: workflow,
        }
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        builder = (
            self._dated(x509.Name([]), key.public_key(), minutes=10)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.key.public_key()),
                critical=False,
            )
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(workflow)]), critical=True
            )
        )
        for number, value in facts.items():
            oid = x509.ObjectIdentifier(f"{FULCIO}.{number}")
            der = bytes([0x0C, len(value)]) + value.encode()
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, der), critical=False)
        # RFC 6962: the log signs the certificate without its own signature's extension.
        before = builder.sign(self.authority.key, hashes.SHA256()).tbs_certificate_bytes
        moment = int(self.now.timestamp()) * 1000
        entry = self.authority.id + len(before).to_bytes(3, "big") + before
        signature = self.certificates.sign(struct.pack("!BBQH", 0, 0, moment, 1) + entry + b"\0\0")
        stamp = struct.pack("!B32sQHBBH", 0, self.certificates.id, moment, 0, 4, 3, len(signature))
        stamp += signature
        listed = struct.pack("!HH", len(stamp) + 2, len(stamp)) + stamp
        der = bytes([0x04, 0x81, len(listed)]) if len(listed) > 127 else bytes([0x04, len(listed)])
        oid = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, der + listed), critical=False)
        return builder.sign(self.authority.key, hashes.SHA256())

    def attest(self, wheel: Path, repository: str) -> bytes:
        """The text of ``NAME.whl.publish.attestation``, as pypi-attestations writes it."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certificate(key, repository)
        digest = {"sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()}
        statement = json.dumps(
            {
                "_type": "https://in-toto.io/Statement/v1",
                "subject": [{"name": wheel.name, "digest": digest}],
                "predicateType": "https://docs.pypi.org/attestations/publish/v1",
                "predicate": None,
            }
        ).encode()
        signature = key.sign(dsse_bytes(Envelope._TYPE, statement), SHA256)
        made = {
            "version": 1,
            "verification_material": {
                "certificate": text(certificate.public_bytes(Encoding.DER)),
                "transparency_entries": [self._entry(statement, signature, certificate)],
            },
            "envelope": {"statement": text(statement), "signature": text(signature)},
        }
        return Attestation.model_validate(made).model_dump_json().encode()

    def _entry(self, statement: bytes, signature: bytes, certificate: x509.Certificate) -> dict[str, Any]:
        """The entry of a log that has this entry alone, and the log's two signatures."""
        digest = {"algorithm": "sha256", "value": hashlib.sha256(statement).hexdigest()}
        signed = {"signature": text(signature), "verifier": text(certificate.public_bytes(Encoding.PEM))}
        spec = {"envelopeHash": digest, "payloadHash": digest, "signatures": [signed]}
        body = rfc8785.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
        moment = int(self.now.timestamp())
        promise = {
            "body": text(body),
            "integratedTime": moment,
            "logID": self.entries.id.hex(),
            "logIndex": 0,
        }
        tree = hashlib.sha256(b"\0" + body).digest()
        note = f"rekor.example - 1\n1\n{text(tree)}\n"
        line = text(self.entries.id[:4] + self.entries.sign(note.encode()))
        return {
            "logIndex": "0",
            "logId": {"keyId": text(self.entries.id)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(moment),
            "inclusionPromise": {"signedEntryTimestamp": text(self.entries.sign(rfc8785.dumps(promise)))},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": text(tree),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": f"{note}\n\u2014 rekor.example {line}\n"},
            },
            "canonicalizedBody": text(body),
        }
