"""Signs the requests of a file with the tenant's key (RFC 9421)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from http_message_signatures import (
    HTTPMessageSigner,
    HTTPSignatureAlgorithm,
    MappingKeyResolver,
    algorithms,
)

from api.extras.batch_files.files import Row
from signer.ports.clock import utc_now
from signer.private_files import is_private


if TYPE_CHECKING:
    from signer.ports.clock import Clock


@dataclass
class _OutgoingMessage:
    """A request as the library signs it; it adds headers."""

    method: str
    url: str
    headers: dict[str, str]


class RequestSigner:
    """Makes the members of a batch, each signed as the single request for it."""

    def __init__(
        self, path: Path, key_id: str, service: str, clock: Clock = utc_now
    ) -> None:
        """
        Read the private key in *path*, a PEM file; the tenants file has its *key_id*.

        The signatures are for *service* alone.

        Raises:
            click.UsageError: The file has no usable key, or others may read it.
        """
        self._key_id = key_id
        self._service = service
        self._clock = clock
        self._key, algorithm = _load(path)
        keys = MappingKeyResolver(public_keys={}, private_keys={key_id: self._key})
        self._signer = HTTPMessageSigner(
            signature_algorithm=algorithm, key_resolver=keys
        )

    def __repr__(self) -> str:
        return "RequestSigner()"

    def __call__(self, row: Row) -> Mapping[str, str]:
        """Return the member for *row*, signed at the present time."""
        from signer.crypto.http_signatures import COVERED
        from signer.model.acceptance import METHOD, PATH

        body = json.dumps(row.fields)
        # The service reads the path only.
        url = f"https://localhost{PATH}"
        message = _OutgoingMessage(
            METHOD, url, {"Idempotency-Key": row.idempotency_key}
        )
        self._signer.sign(
            message,
            key_id=self._key_id,
            created=self._clock(),
            label="sig1",
            tag=self._service,
            covered_component_ids=COVERED,
            body=body.encode(),
        )
        return {
            "idempotency_key": row.idempotency_key,
            "body": body,
            "content_digest": message.headers["Content-Digest"],
            "signature_input": message.headers["Signature-Input"],
            "signature": message.headers["Signature"],
        }


def _load(
    path: Path,
) -> tuple[Ed25519PrivateKey | EllipticCurvePrivateKey, type[HTTPSignatureAlgorithm]]:
    try:
        with path.open("rb") as file:
            if not is_private(file.fileno()):
                raise click.UsageError(
                    "others may read the file of --request-key: chmod 600 it"
                )
            key = load_pem_private_key(file.read(), password=None)
    except OSError as e:
        raise click.FileError(os.fspath(path), e.strerror) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise click.UsageError(
            "the file of --request-key must have a private key in PEM, without a"
            " password"
        ) from None
    if isinstance(key, Ed25519PrivateKey):
        return key, algorithms.ED25519
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return key, algorithms.ECDSA_P256_SHA256
    raise click.UsageError("the key of --request-key must be Ed25519 or ECDSA P-256")
