"""
Crafted signatures that a device makes by chance once in 2^16 to 2^128 times.

The nonce of a signature reveals the private key (SEC 1, section 4.1.3): never use this
with keys that own anything.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from bitcurve import PrivateKey, PublicKey
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    encode_dss_signature as der,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


Odd = Callable[[ec.EllipticCurvePrivateKey, bytes], bytes]
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
P = 2**256 - 2**32 - 977
_HALF = (N + 1) // 2


def with_nonce(secret: int, digest: bytes, nonce: int) -> tuple[int, int]:
    """Return (r, s) over *digest*, 32 bytes, by *secret* with *nonce*."""
    x, _ = PrivateKey.from_int(nonce).public_key.point()
    r = x % N
    s = pow(nonce, -1, N) * (int.from_bytes(digest) + r * secret) % N
    return r, s


def short_r(private_key: ec.EllipticCurvePrivateKey, digest: bytes) -> bytes:
    """
    Sign *digest* so that r has 21 bytes only, and return DER.

    The point at half of the generator, whose nonce is the inverse of two, is the
    one known nonce whose r is that short.
    """
    return der(*with_nonce(_secret(private_key), digest, _HALF))


def short_s(private_key: ec.EllipticCurvePrivateKey, digest: bytes) -> bytes:
    """Sign *digest* with nonces in turn until s has 31 bytes or less; return DER."""
    nonce = int.from_bytes(hashlib.sha256(b"short s" + digest).digest()) % N
    while True:
        nonce += 1
        r, s = with_nonce(_secret(private_key), digest, nonce)
        if s < 1 << 248:
            return der(r, s)


def high_s(private_key: ec.EllipticCurvePrivateKey, digest: bytes) -> bytes:
    """Sign *digest* with s in the upper half, which EIP-2 forbids; return DER."""
    nonce = int.from_bytes(hashlib.sha256(b"high s" + digest).digest()) % N
    r, s = with_nonce(_secret(private_key), digest, nonce)
    return der(r, max(s, N - s))


@dataclass(frozen=True, slots=True)
class Crafted:
    """A key (DER ``SubjectPublicKeyInfo``) and its one signature (DER)."""

    public_key: bytes
    signature: bytes
    digest: bytes


def crafted(digest: bytes, r: int, s: int, recovery_id: int) -> Crafted:
    """
    Return the key for which (*r*, *s*) signs *digest* with *recovery_id*.

    Any r that is the x of a point, modulo n, has such a key; its private key is
    unknown.

    Raises:
        ValueError: No point has the x *r*.
    """
    compact = r.to_bytes(32) + s.to_bytes(32) + bytes([recovery_id])
    try:
        key = PublicKey.from_signature_and_message(compact, digest, hasher=None)
    except Exception as e:  # bitcurve raises a bare Exception here.
        raise ValueError("no point has this x") from e
    numbers = ec.EllipticCurvePublicNumbers(*key.point(), ec.SECP256K1())
    spki = numbers.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return Crafted(spki, der(r, s), digest)


def overflowing(digest: bytes, recovery_id: int = 2) -> Crafted:
    """
    Return a key and a signature over *digest* that recovers with id 2 or 3 only.

    Its point has an x between n and p, so r is x - n.  By chance this happens once
    in 2^128 signatures (yellow paper, appendix F), so it must be crafted.
    """
    for r in range(1, 1000):
        try:
            return crafted(digest, r, _HALF - 1, recovery_id)
        except ValueError:
            continue
    raise AssertionError("half of all numbers are the x of a point")


def _secret(private_key: ec.EllipticCurvePrivateKey) -> int:
    return private_key.private_numbers().private_value
