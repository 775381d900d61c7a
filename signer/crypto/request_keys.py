"""The public keys that verify signed requests: Ed25519 or P-256, in PEM."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING


# The account of a library reads no such key, and has no cryptography.
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def normalize_public_key(pem: str) -> str:
    """
    Return *pem*, a public key, in the one form that this program writes.

    Raises:
        ValueError: It is not the PEM of an Ed25519 or a P-256 public key.
    """
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        PublicFormat,
    )

    key = load_request_key(pem)
    text = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode("ascii")


@lru_cache(maxsize=256)
def load_request_key(pem: str) -> Ed25519PublicKey | EllipticCurvePublicKey:
    """
    Return the key in *pem*.

    Raises:
        ValueError: It is not the PEM of an Ed25519 or a P-256 public key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_pem_public_key,
    )

    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(
        key.curve, ec.SECP256R1
    ):
        return key
    # Not chained, without the text: it may be a private key.
    raise ValueError("must be the PEM of an Ed25519 or a P-256 public key") from None
