"""A gateway that signs its requests, with the library that gateways use."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from http_message_signatures import (
    HTTPMessageSigner,
    HTTPSignatureAlgorithm,
    MappingKeyResolver,
    algorithms,
)

from signer.config.tenants import Tenant, TenantRegistry
from signer.crypto.http_signatures import COVERED
from signer.model.acceptance import SignedRequest


PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


@dataclass
class Message:
    """A request as the library signs it; headers are added to it."""

    url: str
    method: str
    headers: dict[str, str]


@dataclass(frozen=True)
class RequestKey:
    key_id: str = "gateway-2026"
    private: PrivateKey = field(default_factory=ed25519.Ed25519PrivateKey.generate)

    @property
    def public(self) -> str:
        key = self.private.public_key()
        text = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return text.decode()

    @property
    def pem(self) -> bytes:
        return self.private.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )

    @property
    def algorithm(self) -> type[HTTPSignatureAlgorithm]:
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return algorithms.ED25519
        return algorithms.ECDSA_P256_SHA256

    def headers(
        self,
        body: bytes,
        idempotency_key: str,
        created: datetime,
        *,
        method: str = "POST",
        path: str = "/v1/refunds",
        covered: Sequence[str] = COVERED,
        content_digest: str | None = None,
        **options: Any,
    ) -> dict[str, str]:
        """Return the headers of a request that the gateway signs."""
        message = Message(
            f"https://wallet.example{path}",
            method,
            {"Idempotency-Key": idempotency_key, "Content-Type": "application/json"},
        )
        if content_digest is not None:
            message.headers["Content-Digest"] = content_digest
        keys = MappingKeyResolver(
            public_keys={}, private_keys={self.key_id: self.private}
        )
        signer = HTTPMessageSigner(
            signature_algorithm=self.algorithm, key_resolver=keys
        )
        signer.sign(
            message,
            key_id=self.key_id,
            created=created.astimezone(UTC),
            covered_component_ids=covered,
            body=body,
            use_existing_digest=content_digest is not None,
            **{"label": "sig1", "tag": "hotwallet", **options},
        )
        return message.headers

    def signed(
        self, body: bytes, idempotency_key: str, created: datetime, **options: Any
    ) -> SignedRequest:
        """Return *body* as the API passes it to the core, signed."""
        headers = self.headers(body, idempotency_key, created, **options)
        return SignedRequest(
            body,
            headers["Content-Digest"],
            headers["Signature-Input"],
            headers["Signature"],
        )


def signing_tenants(key: RequestKey, name: str = "gateway-1") -> TenantRegistry:
    return TenantRegistry(
        {
            name: Tenant(subjects=(name,), request_keys={key.key_id: key.public}),
            "unsigned": Tenant(subjects=("unsigned",)),
        }
    )
