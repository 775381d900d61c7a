"""A transaction as a node reads it, by RLP and libsecp256k1 alone."""

from dataclasses import dataclass
from functools import lru_cache

import coincurve
import rlp
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from signer.ports import Log


CHAIN_ID = 31337
TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
DECIMALS = 6

_TRANSFER = keccak(text="transfer(address,uint256)")[:4]
_TRANSFER_EVENT = keccak(text="Transfer(address,address,uint256)")
_PADDING = bytes(12)


@dataclass(frozen=True, slots=True)
class Wire:
    """
    One signed transaction; fees in wei per gas.

    ``digest`` is what was signed; it is empty for one that no process of ours made.
    """

    hash: str
    digest: bytes
    sender: str
    nonce: int
    tip: int
    max_fee: int
    gas_limit: int
    to: str
    data: bytes
    value: int = 0

    @property
    def slot(self) -> tuple[str, int]:
        """Sender and nonce, for which one transaction can be mined."""
        return self.sender, self.nonce

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else signed it."""
        return not self.digest

    @property
    def payment(self) -> tuple[str, int] | None:
        """Recipient and amount in base units; None when it moves no token."""
        if self.to != TOKEN or self.data[:4] != _TRANSFER:
            return None
        recipient = to_checksum_address(self.data[16:36])
        return recipient, int.from_bytes(self.data[36:68], "big")

    def outbids(self, other: "Wire") -> bool:
        """Say whether geth's pool, which wants a tenth more of both, replaces it."""
        return (
            self.max_fee * 10 >= other.max_fee * 11 and self.tip * 10 >= other.tip * 11
        )

    def logs(self) -> tuple[Log, ...]:
        """Return what the token emits when it pays."""
        if self.payment is None:
            return ()
        sender = bytes.fromhex(self.sender[2:])
        topics = (_TRANSFER_EVENT, _PADDING + sender, self.data[4:36])
        return (Log(TOKEN, topics, self.data[36:68]),)


@lru_cache(maxsize=256)
def read(raw: bytes) -> Wire:
    """Return what *raw* says: EIP-1559 on this chain, without an access list."""
    assert raw[0] == 2
    fields = rlp.decode(raw[1:])
    unsigned, (parity, r, s) = fields[:-3], fields[-3:]
    digest = keccak(b"\x02" + rlp.encode(unsigned))
    signature = r.rjust(32, b"\0") + s.rjust(32, b"\0") + parity.rjust(1, b"\0")
    key = coincurve.PublicKey.from_signature_and_message(signature, digest, None)
    sender = to_checksum_address(keccak(key.format(compressed=False)[1:])[-20:])
    chain_id, nonce, tip, max_fee, gas_limit = (
        int.from_bytes(each, "big") for each in unsigned[:5]
    )
    to, value, data, access_list = unsigned[5:]
    assert (chain_id, access_list) == (CHAIN_ID, [])
    return Wire(
        hash="0x" + keccak(raw).hex(),
        digest=digest,
        sender=sender,
        nonce=nonce,
        tip=tip,
        max_fee=max_fee,
        gas_limit=gas_limit,
        to=to_checksum_address(to),
        data=data,
        value=int.from_bytes(value, "big"),
    )


def foreign(sender: str, nonce: int, max_fee: int) -> Wire:
    """Return what somebody else signed with our key: nothing to oneself."""
    name = keccak(b"foreign" + nonce.to_bytes(8, "big"))
    return Wire(
        "0x" + name.hex(), b"", sender, nonce, max_fee, max_fee, 21_000, sender, b"\xf0"
    )
