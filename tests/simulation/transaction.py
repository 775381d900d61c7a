"""Decodes signed transactions with only RLP and libsecp256k1, as a node does."""

from dataclasses import dataclass
from functools import cache, lru_cache

import bitcurve
import rlp
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from signer.ports.chain import Log
from tests.fixtures.scripted_vault import PAY, read_pay


CHAIN_ID = 31337
TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
VAULT = "0x0165878A594ca255338adfa4d48449f69242Eb8F"
DECIMALS = 6

_TRANSFER = keccak(text="transfer(address,uint256)")[:4]
_TRANSFER_EVENT = keccak(text="Transfer(address,address,uint256)")
_PADDING = bytes(12)


@dataclass(frozen=True, slots=True)
class Transaction:
    """
    One signed transaction; fees in wei per gas.

    ``digest`` is what was signed; it is empty for a foreign transaction.
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
        """Sender and nonce, for which only one transaction can be mined."""
        return self.sender, self.nonce

    @property
    def is_foreign(self) -> bool:
        """Whether it was signed elsewhere with our key."""
        return not self.digest

    @property
    def payment(self) -> tuple[str, int] | None:
        """Recipient and amount in base units; None if it moves no token."""
        if self.to != TOKEN or self.data[:4] != _TRANSFER:
            return None
        return checksummed(self.data[16:36]), int.from_bytes(self.data[36:68], "big")

    @property
    def is_batch(self) -> bool:
        """Whether it calls ``pay`` of the vault."""
        return self.to == VAULT and self.data[:4] == PAY

    @property
    def asked(self) -> tuple[tuple[str, int], ...]:
        """Recipient and amount of each payment that it asks for, in their order."""
        if self.is_batch:
            _, items = read_pay(self.data)
            return tuple((each.recipient, each.amount) for each in items)
        return () if self.payment is None else (self.payment,)

    def outbids(self, other: "Transaction") -> bool:
        """Whether geth's pool lets it replace *other*: both fees are 10 % higher."""
        return (
            self.max_fee * 10 >= other.max_fee * 11 and self.tip * 10 >= other.tip * 11
        )

    def logs(self) -> tuple[Log, ...]:
        """Return the Transfer event."""
        if self.payment is None:
            return ()
        sender = bytes.fromhex(self.sender[2:])
        topics = (_TRANSFER_EVENT, _PADDING + sender, self.data[4:36])
        return (Log(TOKEN, topics, self.data[36:68]),)


@cache
def checksummed(raw: bytes) -> str:
    """Return an address as wallets show it."""
    return to_checksum_address(raw)


@lru_cache(maxsize=256)
def decode(raw: bytes) -> Transaction:
    """Decode *raw*: EIP-1559 on this chain, without an access list."""
    assert raw[0] == 2
    fields = rlp.decode(raw[1:])
    unsigned, (parity, r, s) = fields[:-3], fields[-3:]
    digest = keccak(b"\x02" + rlp.encode(unsigned))
    signature = r.rjust(32, b"\0") + s.rjust(32, b"\0") + parity.rjust(1, b"\0")
    key = bitcurve.PublicKey.from_signature_and_message(signature, digest, None)
    sender = checksummed(keccak(key.format(compressed=False)[1:])[-20:])
    chain_id, nonce, tip, max_fee, gas_limit = (
        int.from_bytes(each, "big") for each in unsigned[:5]
    )
    to, value, data, access_list = unsigned[5:]
    assert (chain_id, access_list) == (CHAIN_ID, [])
    return Transaction(
        hash="0x" + keccak(raw).hex(),
        digest=digest,
        sender=sender,
        nonce=nonce,
        tip=tip,
        max_fee=max_fee,
        gas_limit=gas_limit,
        to=checksummed(to),
        data=data,
        value=int.from_bytes(value, "big"),
    )


def foreign(sender: str, nonce: int, max_fee: int) -> Transaction:
    """Return a foreign transaction that sends nothing to its own sender."""
    name = keccak(b"foreign" + nonce.to_bytes(8, "big"))
    return Transaction(
        "0x" + name.hex(), b"", sender, nonce, max_fee, max_fee, 21_000, sender, b"\xf0"
    )
