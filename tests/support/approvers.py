"""Approvers with keys of their own, and authenticators in software that sign."""

import hashlib
import json
import secrets
import subprocess
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from signer.crypto.approver_keys import NAMESPACE
from signer.model.approval import Approval
from signer.model.approvers import Approvers, Consent, Statement


PAGE = "https://approve.example/approve.html"

ORIGIN, SITE = "https://approve.example", "approve.example"

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

P256: Callable[[], Key] = lambda: ec.generate_private_key(ec.SECP256R1())  # noqa: E731
ED25519: Callable[[], Key] = ed25519.Ed25519PrivateKey.generate
RSA: Callable[[], Key] = lambda: rsa.generate_private_key(65537, 2048)  # noqa: E731


def encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def sign_bytes(key: Key, data: bytes) -> bytes:
    match key:
        case ec.EllipticCurvePrivateKey():
            return key.sign(data, ec.ECDSA(SHA256()))
        case rsa.RSAPrivateKey():
            return key.sign(data, padding.PKCS1v15(), SHA256())
        case _:
            return key.sign(data)


@dataclass
class Authenticator:
    """A WebAuthn authenticator and its browser, which may lie."""

    key: Key = field(default_factory=P256)
    credential: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    counter: int = 0
    flags: int = 0x05
    site: str = SITE
    extensions: bytes = b""
    client: dict[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> str:
        public = self.key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        return f"webauthn {encode(self.credential)} {b64encode(public).decode()}"

    def sign(self, text: str) -> str:
        client = {
            "type": "webauthn.get",
            "challenge": encode(hashlib.sha256(text.encode()).digest()),
            "origin": ORIGIN,
            "crossOrigin": False,
            **self.client,
        }
        written = json.dumps(client).encode()
        data = hashlib.sha256(self.site.encode()).digest() + self.flags.to_bytes()
        data += self.counter.to_bytes(4) + self.extensions
        signed = sign_bytes(self.key, data + hashlib.sha256(written).digest())
        parts = self.credential, data, written, signed
        return ":".join(["webauthn", *map(encode, parts)])


def string(data: bytes) -> bytes:
    """Return *data* as SSH encodes it."""
    return len(data).to_bytes(4) + data


@dataclass
class SSHKey:
    """A key of OpenSSH in software, also one of a security key (``sk-``)."""

    key: Key = field(default_factory=ED25519)
    application: bytes = b""
    flags: int = 0x01
    counter: int = 1
    namespace: str = NAMESPACE
    hash: str = "sha512"

    @property
    def _kind(self) -> str:
        is_ed25519 = isinstance(self.key, ed25519.Ed25519PrivateKey)
        kind = "ssh-ed25519" if is_ed25519 else "ecdsa-sha2-nistp256"
        return f"sk-{kind}@openssh.com" if self.application else kind

    @property
    def blob(self) -> bytes:
        public = self.key.public_key()
        if isinstance(public, ed25519.Ed25519PublicKey):
            made = string(public.public_bytes(Encoding.Raw, PublicFormat.Raw))
        else:
            point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            made = string(b"nistp256") + string(point)
        application = string(self.application) if self.application else b""
        return string(self._kind.encode()) + made + application

    @property
    def line(self) -> str:
        return f"{self._kind} {b64encode(self.blob).decode()} alice@laptop"

    def sign(self, text: str) -> str:
        """Return what ``ssh-keygen -Y sign`` writes."""
        digest = hashlib.new(self.hash, text.encode()).digest()
        parts = [self.namespace.encode(), b"", self.hash.encode()]
        signed = b"SSHSIG" + b"".join(map(string, [*parts, digest]))
        trailer = b""
        if self.application:
            trailer = self.flags.to_bytes() + self.counter.to_bytes(4)
            hashed = hashlib.sha256(self.application).digest()
            signed = hashed + trailer + hashlib.sha256(signed).digest()
        signature = sign_bytes(self.key, signed)
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            numbers = decode_dss_signature(signature)
            signature = b"".join(
                string(each.to_bytes(each.bit_length() // 8 + 1)) for each in numbers
            )
        inner = string(self._kind.encode()) + string(signature) + trailer
        blob = b"SSHSIG" + (1).to_bytes(4)
        blob += b"".join(map(string, [self.blob, *parts, inner]))
        return armor(blob)


def armor(blob: bytes) -> str:
    text = b64encode(blob).decode()
    lines = [text[start : start + 70] for start in range(0, len(text), 70)]
    begin, end = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
    return "\n".join([begin, *lines, end, ""])


def security_key(key: Callable[[], Key] = ED25519, **changes: Any) -> SSHKey:
    return replace(SSHKey(key(), application=b"ssh:"), **changes)


@dataclass
class OpenSSH:
    """A key that ``ssh-keygen`` made and signs with."""

    path: Path

    @classmethod
    def generate(cls, path: Path, kind: str = "ed25519") -> "OpenSSH":
        command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path)]
        subprocess.run(command, check=True, timeout=30)
        return cls(path)

    @property
    def line(self) -> str:
        return self.path.with_name(f"{self.path.name}.pub").read_text().strip()

    def sign(self, text: str) -> str:
        command = ["ssh-keygen", "-Y", "sign", "-f", str(self.path), "-n", NAMESPACE]
        return subprocess.run(
            command, input=text, check=True, capture_output=True, text=True, timeout=30
        ).stdout


AnyKey = Authenticator | SSHKey | OpenSSH


def document_of(page: str = PAGE, /, **people: Any) -> dict[str, Any]:
    """Return the file of *people*, each with a key (``AnyKey``) or a table."""
    tables = {
        name: each if isinstance(each, dict) else {"keys": {"first": each.line}}
        for name, each in people.items()
    }
    return {"deployment": "tests", "page": page, "people": tables}


def approvers_of(**people: Any) -> Approvers:
    return Approvers.parse(document_of(**people))


def text_of(
    approvers: Approvers,
    approval: Approval,
    name: str,
    consent: Consent = Consent.APPROVE,
) -> str:
    return approvers.text(name, consent, Statement.of(approval))
