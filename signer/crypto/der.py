"""
Parses and encodes the DER of public keys and signatures, strictly (X.690, section 10).

A lenient parser would accept several encodings of one key or signature.  So a device's
answer must be byte for byte what a correct encoder writes.
"""

from signer.crypto.secp256k1 import N, PublicKey
from signer.errors import EncodingError


_POINT_SIZE = 65
_SHORTEST = 8  # Both numbers have one byte.


# SEQUENCE of SEQUENCE of the OIDs id-ecPublicKey and secp256k1 (RFC 5480, section 2.1),
# and BIT STRING of the point.  Every key has the same bytes before its point.
_HEAD = bytes.fromhex("3056301006072a8648ce3d020106052b8104000a034200")


def parse_signature(der: bytes) -> tuple[int, int]:
    """
    Return r and s of a DER ``ECDSA-Sig-Value`` (RFC 3279), both in 1..N-1.

    Anything else, also DER that is not canonical, raises ``EncodingError``.
    """
    if not isinstance(der, bytes) or len(der) < _SHORTEST:
        raise EncodingError("the signature is not DER")
    end = 4 + der[3]
    r, s = int.from_bytes(der[4:end]), int.from_bytes(der[end + 2 :])
    # The lengths and tags were not read: only the bytes of a correct encoder are equal.
    if not (0 < r < N and 0 < s < N and encode_signature(r, s) == der):
        raise EncodingError("the signature is not canonical, or out of range")
    return r, s


def encode_signature(r: int, s: int) -> bytes:
    """Return the DER ``ECDSA-Sig-Value`` of two numbers in 1..N-1."""
    both = _encode_integer(r) + _encode_integer(s)
    return b"\x30%c%b" % (len(both), both)


def _encode_integer(number: int) -> bytes:
    # One bit more than the number has, since the first is the sign.
    size = number.bit_length() // 8 + 1
    return b"\x02%c%b" % (size, number.to_bytes(size))


def parse_public_key(spki: bytes) -> PublicKey:
    """
    Return the key in a DER ``SubjectPublicKeyInfo`` (RFC 5480).

    Anything else than ``id-ecPublicKey`` on the named curve secp256k1, with an
    uncompressed point that lies on it, raises ``EncodingError``.
    """
    point = spki[-_POINT_SIZE:]
    if spki != _HEAD + point:
        raise EncodingError("the public key is not a secp256k1 SubjectPublicKeyInfo")
    return PublicKey(point)


def encode_public_key(point: bytes) -> bytes:
    """Return the DER ``SubjectPublicKeyInfo`` of an uncompressed point (65 bytes)."""
    return _HEAD + point
