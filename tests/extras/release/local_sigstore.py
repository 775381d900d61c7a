"""A Sigstore of our own: a certificate authority and two logs."""

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier


REPOSITORY = "https://github.com/example/hotwallet"
WORKFLOW = ".github/workflows/build.yml"
TAG = "v1.2.3"
ISSUER = "https://token.actions.githubusercontent.com"
COMMIT = "4f" * 20

_START = datetime(2026, 1, 2, 3, tzinfo=UTC)
_LIFE = timedelta(minutes=10)  # Of a certificate, as Fulcio's.
_ECDSA = ec.ECDSA(hashes.SHA256())
_SCT = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")


@dataclass
class Build:
    """What a workflow's identity says of a build."""

    repository: str = REPOSITORY
    workflow: str = WORKFLOW
    ref: str = f"refs/tags/{TAG}"
    issuer: str = ISSUER
    runner: str = "github-hosted"
    predicate: str = "https://slsa.dev/provenance/v1"

    def extensions(self) -> dict[int, str]:
        """Return Fulcio's extensions below 1.3.6.1.4.1.57264.1."""
        return {
            8: self.issuer,
            11: self.runner,
            12: self.repository,
            13: COMMIT,
            14: self.ref,
        }


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@dataclass
class LocalSigstore:
    """Certifies identities, signs statements with them, and logs both."""

    root_key: ec.EllipticCurvePrivateKey = field(default_factory=_new_key)
    certificate_log: ec.EllipticCurvePrivateKey = field(default_factory=_new_key)
    log: ec.EllipticCurvePrivateKey = field(default_factory=_new_key)

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "local")])
        key_id = x509.SubjectKeyIdentifier.from_public_key(self.root_key.public_key())
        builder = (
            x509.CertificateBuilder(name, name, self.root_key.public_key(), 1)
            .not_valid_before(_START - timedelta(days=365))
            .not_valid_after(_START + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(certifies=True), critical=True)
            .add_extension(key_id, critical=False)
        )
        self.root = builder.sign(self.root_key, hashes.SHA256())

    def trusted_root(self) -> dict[str, Any]:
        period = {"start": (_START - timedelta(days=365)).isoformat()}
        logs = [
            {
                "baseUrl": f"https://{name}.invalid",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": _text(_spki(key)),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": period,
                },
                "logId": {"keyId": _text(_sha256(_spki(key)))},
            }
            for name, key in (("log", self.log), ("ctlog", self.certificate_log))
        ]
        root = {"rawBytes": _text(self.root.public_bytes(Encoding.DER))}
        authority = {
            "subject": {"organization": "local", "commonName": "local"},
            "uri": "https://fulcio.invalid",
            "certChain": {"certificates": [root]},
            "validFor": period,
        }
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": logs[:1],
            "ctlogs": logs[1:],
            "certificateAuthorities": [authority],
            "timestampAuthorities": [],
        }

    def sign(self, build: Build, *files: Path) -> dict[str, Any]:
        """Return the bundle of the statement that *build* made *files*."""
        key = _new_key()
        certificate = self._certify(key, build)
        subjects = [
            {"name": each.name, "digest": {"sha256": _sha256(each.read_bytes()).hex()}}
            for each in files
        ]
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": subjects,
            "predicateType": build.predicate,
            "predicate": {},
        }
        payload = json.dumps(statement).encode()
        kind = "application/vnd.in-toto+json"
        header = f"DSSEv1 {len(kind)} {kind} {len(payload)} "
        signature = _text(key.sign(header.encode() + payload, _ECDSA))
        pem = certificate.public_bytes(Encoding.PEM)
        entry = self._log(payload, signature, _text(pem))
        raw = {"rawBytes": _text(certificate.public_bytes(Encoding.DER))}
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"certificate": raw, "tlogEntries": [entry]},
            "dsseEnvelope": {
                "payload": _text(payload),
                "payloadType": kind,
                "signatures": [{"sig": signature}],
            },
        }

    def _certify(self, key: ec.EllipticCurvePrivateKey, build: Build) -> Any:
        identity = f"{build.repository}/{build.workflow}@{build.ref}"
        names = [x509.UniformResourceIdentifier(identity)]
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(
            self.root_key.public_key()
        )
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
        builder = (
            x509.CertificateBuilder(
                self.root.subject, x509.Name([]), key.public_key(), 2
            )
            .not_valid_before(_START)
            .not_valid_after(_START + _LIFE)
            .add_extension(_usage(certifies=False), critical=True)
            .add_extension(usage, critical=False)
            .add_extension(authority, critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
        )
        for number, value in build.extensions().items():
            oid = ObjectIdentifier(f"1.3.6.1.4.1.57264.1.{number}")
            data = b"\x0c" + bytes([len(value)]) + value.encode()
            builder = builder.add_extension(
                x509.UnrecognizedExtension(oid, data), critical=False
            )
        unlogged = builder.sign(self.root_key, hashes.SHA256())
        promise = self._promise(unlogged.tbs_certificate_bytes)
        extension = x509.UnrecognizedExtension(_SCT, promise)
        return builder.add_extension(extension, critical=False).sign(
            self.root_key, hashes.SHA256()
        )

    def _promise(self, certificate: bytes) -> bytes:
        """Return the extension by which the certificate log signs *certificate*."""
        moment = struct.pack("!Q", int(_START.timestamp() * 1000))
        signed = b"\0\0" + moment + b"\0\1" + _sha256(_spki(self.root_key))
        signed += struct.pack("!I", len(certificate))[1:] + certificate + b"\0\0"
        signature = self.certificate_log.sign(signed, _ECDSA)
        entry = b"\0" + _sha256(_spki(self.certificate_log)) + moment + b"\0\0"
        entry += b"\4\3" + struct.pack("!H", len(signature)) + signature
        entries = struct.pack("!H", len(entry)) + entry
        content = struct.pack("!H", len(entries)) + entries
        return b"\4" + bytes([len(content)]) + content

    def _log(self, payload: bytes, signature: str, pem: str) -> dict[str, Any]:
        """Return the second entry of the log, with its promise and its proof."""
        digest = {"algorithm": "sha256", "value": _sha256(payload).hex()}
        body = rfc8785.dumps(
            {
                "apiVersion": "0.0.1",
                "kind": "dsse",
                "spec": {
                    "envelopeHash": digest,
                    "payloadHash": digest,
                    "signatures": [{"signature": signature, "verifier": pem}],
                },
            }
        )
        key_id, moment = _sha256(_spki(self.log)), int(_START.timestamp()) + 60
        promise: dict[str, str | int] = {
            "body": _text(body),
            "integratedTime": moment,
            "logID": key_id.hex(),
            "logIndex": 1,
        }
        first = _sha256(b"\0first")
        root = _sha256(b"\1" + first + _sha256(b"\0" + body))
        note = f"log.invalid\n2\n{_text(root)}\n"
        signed = _text(key_id[:4] + self.log.sign(note.encode(), _ECDSA))
        return {
            "logIndex": "1",
            "logId": {"keyId": _text(key_id)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(moment),
            "inclusionPromise": {
                "signedEntryTimestamp": _text(
                    self.log.sign(rfc8785.dumps(promise), _ECDSA)
                )
            },
            "inclusionProof": {
                "logIndex": "1",
                "rootHash": _text(root),
                "treeSize": "2",
                "hashes": [_text(first)],
                "checkpoint": {"envelope": f"{note}\n\u2014 log.invalid {signed}\n"},
            },
            "canonicalizedBody": _text(body),
        }


def _usage(*, certifies: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certifies,
        key_cert_sign=certifies,
        crl_sign=certifies,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
