"""
Parses and encodes the DER of public keys and signatures, strictly (X.690, section 10).

A lenient parser would accept several encodings of one key or signature.  So a device's
answer must be byte for byte what a correct encoder writes.
"""

from asn1crypto.keys import (
    ECDomainParameters,
    ECPointBitString,
    PublicKeyAlgorithm,
    PublicKeyInfo,
)
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from signer.crypto.secp256k1 import N, PublicKey
from signer.errors import EncodingError


_POINT_SIZE = 65


def _encode_spki(point: bytes) -> bytes:
    curve = ECDomainParameters(name="named", value="secp256k1")
    algorithm = PublicKeyAlgorithm({"algorithm": "ec", "parameters": curve})
    key = {"algorithm": algorithm, "public_key": ECPointBitString(point)}
    return bytes(PublicKeyInfo(key).dump())


# Every key has the same bytes before the point.  They are encoded once, at import,
# because asn1crypto's first use is not thread-safe.
_HEAD = _encode_spki(bytes(_POINT_SIZE))[:-_POINT_SIZE]


def parse_signature(der: bytes) -> tuple[int, int]:
    """
    Return r and s of a DER ``ECDSA-Sig-Value`` (RFC 3279), both in 1..N-1.

    Anything else, also DER that is not canonical, raises ``EncodingError``.
    """
    try:
        r, s = decode_dss_signature(der)
    except (TypeError, ValueError):
        raise EncodingError("the signature is not DER") from None
    if not (0 < r < N and 0 < s < N and encode_dss_signature(r, s) == der):
        raise EncodingError("the signature is not canonical, or out of range")
    return r, s


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
