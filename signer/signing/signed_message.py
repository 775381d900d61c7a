"""A signature that is not in a transaction."""

from dataclasses import dataclass, field

from signer.crypto.secp256k1 import Signature


_FIRST_V = 27  # EIP-191 and EIP-712 leave v open; every wallet answers 27 or 28.


@dataclass(frozen=True, slots=True)
class MessageSignature:
    """A verified signature over *digest*, by the key of *address*."""

    address: str
    digest: bytes = field(repr=False)
    signature: Signature = field(repr=False)

    @property
    def v(self) -> int:
        """27 or 28: the y-parity, as wallets write it."""
        return _FIRST_V + self.signature.y_parity

    def to_bytes(self) -> bytes:
        """Return r, s and v: 65 bytes."""
        return self.signature.to_bytes()[:-1] + bytes([self.v])
