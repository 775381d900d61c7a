"""Digests and signed bytes of transactions with a type byte, *prefix* (EIP-2718)."""

from signer.crypto.keccak import keccak
from signer.crypto.secp256k1 import Signature
from signer.crypto.transactions.rlp_items import encode, minimal, take_number


def typed_digest(prefix: bytes, items: list[object]) -> bytes:
    """Return the digest to sign: keccak256(type || rlp(fields))."""
    return keccak(prefix + encode(items))


def typed_bytes(prefix: bytes, items: list[object], signature: Signature) -> bytes:
    """Return the bytes to broadcast: type || rlp(fields, y-parity, r, s)."""
    numbers = (signature.y_parity, signature.r, signature.s)
    return prefix + encode([*items, *map(minimal, numbers)])


def take_signature(y_parity: object, r: object, s: object) -> Signature:
    """Return the signature of three RLP items, or raise ``EncodingError``."""
    return Signature(take_number(r), take_number(s), take_number(y_parity))
