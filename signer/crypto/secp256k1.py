"""
Keys and signatures on secp256k1 (SEC 2), as Ethereum uses them.

The arithmetic is libsecp256k1's, through btclib_secp256k1, which only this module
imports.  Nothing here does I/O.
"""

from dataclasses import dataclass, field

from btclib_secp256k1 import keys, recovery

from signer.crypto.keccak import checksum_address, keccak
from signer.errors import EncodingError, InvalidInputError, RecoveryError


N = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
"""The order of the curve's group (SEC 2, section 2.4.1)."""

HALF_N = N // 2
"""The highest s that Ethereum accepts (EIP-2)."""

DIGEST_SIZE = 32


class UnrepresentableError(RecoveryError):
    """
    The signature needs recovery id 2 or 3, because the x coordinate of R exceeds N.

    Ethereum cannot represent such an id.  About one signature in 2**128 needs one: sign
    again.
    """


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A point on the curve: 65 bytes, ``04 || x || y`` (SEC 1, section 2.3.3)."""

    uncompressed: bytes

    def __post_init__(self) -> None:
        """Refuse bytes that are not a point, and compressed or hybrid encodings."""
        if len(self.uncompressed) != 65 or self.uncompressed[0] != 4:  # noqa: PLR2004
            raise EncodingError("a public key must be an uncompressed point")
        if not keys.pubkey_verify(self.uncompressed):
            raise EncodingError("the public key is not on secp256k1")

    @property
    def address(self) -> str:
        """The Ethereum address, with its EIP-55 checksum."""
        return checksum_address(keccak(self.uncompressed[1:])[-20:].hex())


def public_key_of(secret: bytes) -> PublicKey:
    """Return the public key of a private key: 32 bytes, or ``ValueError``."""
    return PublicKey(keys.pubkey_from_prvkey(secret, compressed=False))


@dataclass(frozen=True, slots=True)
class Signature:
    """A low-s signature; ``y_parity`` (0 or 1) is that of R's y coordinate."""

    r: int = field(repr=False)
    s: int = field(repr=False)
    y_parity: int = field(repr=False)

    def __post_init__(self) -> None:
        """Raise ``EncodingError`` for signatures that Ethereum does not accept."""
        if not (0 < self.r < N and 0 < self.s <= HALF_N and self.y_parity in (0, 1)):
            raise EncodingError("the signature's r, s or y-parity is out of range")

    def to_bytes(self) -> bytes:
        """Return 65 bytes: r and s padded to 32 bytes each, then y-parity."""
        return b"%b%b%c" % (_word(self.r), _word(self.s), self.y_parity)

    def recover(self, digest: bytes) -> PublicKey:
        """Return the public key that signed *digest*, or raise ``RecoveryError``."""
        point = _recover_point(self.r, self.s, self.y_parity, digest)
        if point is None:
            raise RecoveryError("no key recovers from the signature")
        return PublicKey(point)

    def __repr__(self) -> str:
        """Hide the numbers: signature bytes must not reach a log."""
        return "Signature(...)"


def checked_digest(digest: bytes) -> bytes:
    """
    Return *digest* if it is 32 bytes, not all zero, or raise ``InvalidInputError``.

    Devices sign any 32 bytes, so callers check before they ask one.
    """
    if not isinstance(digest, bytes):
        raise InvalidInputError("a digest must be bytes", field="digest")
    if len(digest) != DIGEST_SIZE:
        raise InvalidInputError("a digest must be 32 bytes", field="digest")
    if not any(digest):
        raise InvalidInputError("a digest must not be all zeros", field="digest")
    return digest


def normalize_s(s: int) -> int:
    """
    Return the lower of *s* and its mirror image ``N - s``.

    Both verify.  Since Homestead, Ethereum accepts only the lower one (EIP-2):
    otherwise anyone could give a transaction a second hash.  Devices return either.

    >>> normalize_s(N - 1)
    1
    """
    return min(s, N - s)


def recoverable(r: int, s: int, digest: bytes, public_key: PublicKey) -> Signature:
    """
    Return the low-s signature over *digest* that recovers to *public_key*.

    Devices do not report the y-parity of R, so both are tried.  If neither matches,
    the device used another key or hashed again, and the signature must not be used.

    Raises:
        UnrepresentableError: The signature needs recovery id 2 or 3: sign again.
        RecoveryError: The signature is not by *public_key* over *digest*.
    """
    low_s = normalize_s(s)
    for y_parity in (0, 1):
        if _recover_point(r, low_s, y_parity, digest) == public_key.uncompressed:
            return Signature(r, low_s, y_parity)
    for recovery_id in (2, 3):
        if _recover_point(r, low_s, recovery_id, digest) == public_key.uncompressed:
            raise UnrepresentableError("the signature has no y-parity")
    raise RecoveryError(
        "the signature does not recover to the pinned key: the device used another"
        " key, or hashed the digest again"
    )


def _recover_point(r: int, s: int, recovery_id: int, digest: bytes) -> bytes | None:
    try:
        return recovery.recover(
            digest, _word(r) + _word(s), recovery_id, compressed=False
        )
    except (OverflowError, ValueError):
        return None


def _word(number: int) -> bytes:
    return number.to_bytes(32, "big")
