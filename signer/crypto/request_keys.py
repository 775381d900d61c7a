"""The public keys that verify signed requests: Ed25519 or P-256, in PEM."""

from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)


RequestKey = Ed25519PublicKey | EllipticCurvePublicKey


def normalize_public_key(pem: str) -> str:
    """
    Return *pem*, a public key, in the one form that this program writes.

    Raises:
        ValueError: It is not the PEM of an Ed25519 or a P-256 public key.
    """
    key = load_request_key(pem)
    text = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode("ascii")


@lru_cache(maxsize=256)
def load_request_key(pem: str) -> RequestKey:
    """
    Return the key in *pem*.

    Raises:
        ValueError: It is not the PEM of an Ed25519 or a P-256 public key.
    """
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, Ed25519PublicKey):
        return key
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key
    # Not chained, without the text: it may be a private key.
    raise ValueError("must be the PEM of an Ed25519 or a P-256 public key") from None
