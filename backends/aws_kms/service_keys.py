"""
Keys in AWS KMS that are no wallets': of the MACs of rows, and of audit checkpoints.

A file then has the key's ARN in place of a secret.  The key of MACs is the HMAC
(``GenerateMac``, HMAC_SHA_256) of a fixed message under a key that never leaves KMS, so
that each process asks once, and computes the MACs of rows itself.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from backends.aws_kms.client import build_client
from backends.aws_kms.errors import map_error
from signer.errors import BackendError


if TYPE_CHECKING:
    from types_boto3_kms import KMSClient


_ARN = re.compile(
    r"arn:aws[a-z-]*:kms:([a-z0-9-]{1,32}):[0-9]{12}:key/[A-Za-z0-9-]{1,64}"
)

_MESSAGE = b"hotwallet key of row MACs 1"
_KEY_BYTES = 32

_ATTEMPTS = 3


def open_client(arn: str, endpoint_url: str | None, timeout_ms: int) -> "KMSClient":
    """
    Return a client of the region of *arn*.

    Raises:
        ValueError: *arn* is not the full ARN of a KMS key.
        ConfigurationError: see ``build_client``.
    """
    match = _ARN.fullmatch(arn)
    if match is None:
        raise ValueError(
            "not the full ARN of a KMS key: arn:aws:kms:REGION:...:key/..."
        )
    return build_client(match[1], endpoint_url, _ATTEMPTS, timeout_ms, 1)


@cache
def derive_mac_key(arn: str, endpoint_url: str | None, timeout_ms: int) -> bytes:
    """
    Return the 32 bytes that KMS makes with the HMAC key *arn*; a secret.

    Raises:
        BackendError: KMS does not answer, or refuses.
        ValueError, ConfigurationError: see ``open_client``.
    """
    client = open_client(arn, endpoint_url, timeout_ms)
    answer = _call(
        "GenerateMac",
        lambda: client.generate_mac(
            KeyId=arn, MacAlgorithm="HMAC_SHA_256", Message=_MESSAGE
        ),
    )
    key = answer.get("Mac")
    if not isinstance(key, bytes) or len(key) != _KEY_BYTES:
        raise BackendError("KMS GenerateMac returned no HMAC-SHA-256")
    return key


class KMSEd25519Key:
    """An Ed25519 key (RFC 8032) in KMS, whose every signature is verified here."""

    def __init__(self, arn: str, endpoint_url: str | None, timeout_ms: int) -> None:
        """Read the public key; raises as ``derive_mac_key``."""
        self._arn = arn
        self._client = open_client(arn, endpoint_url, timeout_ms)
        answer = _call("GetPublicKey", lambda: self._client.get_public_key(KeyId=arn))
        try:
            public = load_der_public_key(answer["PublicKey"])
        except (KeyError, TypeError, ValueError):
            public = None
        if not isinstance(public, Ed25519PublicKey):
            raise BackendError("the key in KMS is not an Ed25519 key")
        self._public = public

    def public_key(self) -> Ed25519PublicKey:
        return self._public

    def sign(self, data: bytes) -> bytes:
        """Return KMS's signature over *data*, of at most 4096 bytes."""
        answer = _call(
            "Sign",
            lambda: self._client.sign(
                KeyId=self._arn,
                Message=data,
                MessageType="RAW",
                SigningAlgorithm="ED25519_SHA_512",
            ),
        )
        try:
            signature: bytes = answer["Signature"]
            self._public.verify(signature, data)
        except (InvalidSignature, KeyError, TypeError):
            raise BackendError("KMS Sign returned no signature of the key") from None
        return signature


def _call(operation: str, call: Callable[[], Any]) -> Mapping[str, Any]:
    try:
        answer: Mapping[str, Any] = call()
    except Exception as e:  # noqa: BLE001  No vendor's error leaves this module.
        failure = e
    else:
        return answer
    raise map_error(operation, failure)
