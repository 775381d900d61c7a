"""
The facts of a run that the invariants judge, as plain values.

``read_chain.py`` and ``read_store.py`` read them with only JSON-RPC and SELECT.
Addresses and hashes are lower-case hex with ``0x``, amounts are in base units.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from tests.crash.journal import Entry


COIN = "0x" + "0" * 40
"""The token of coin, and of calls."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """
    A payment out of a wallet, on the canonical chain: a ``Transfer`` event, or a call.

    A call has its ``calldata`` in hex, the token ``COIN`` and an amount in wei.
    """

    tx_hash: str
    token: str
    recipient: str
    amount: int
    block_number: int
    block_hash: str
    calldata: str | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """A transaction of a wallet that the network has, in a block or in the pool."""

    tx_hash: str
    nonce: int
    digest: str


@dataclass(frozen=True, slots=True)
class Row:
    """A refund as the store has it."""

    id: str
    key: str
    token: str
    recipient: str
    amount: int
    status: str
    version: int
    chain_id: int
    sender: str | None
    nonce: int | None
    tx_hash: str | None
    block_number: int | None
    block_hash: str | None
    calldata: str | None = None


@dataclass(frozen=True, slots=True)
class Signed:
    """
    Signed bytes as the store has them.

    ``raw_*`` and ``digest`` are decoded from the bytes, the others are columns.
    """

    tx_hash: str
    refund_id: str
    chain_id: int
    sender: str
    nonce: int
    raw_hash: str
    raw_chain_id: int
    raw_nonce: int
    digest: str


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a refund's history."""

    refund_id: str
    version: int
    status: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """
    A record of the audit, as the store has it; *fields* are those of its body.

    ``hash`` (hex) and ``sequence`` are None until the record is sealed.
    """

    id: str
    body: str
    sequence: int | None
    hash: str | None
    fields: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, id_: str, body: str, sequence: int | None, seal: bytes | None) -> Self:
        """Return the record with this row."""
        return cls(
            id_, body, sequence, None if seal is None else seal.hex(), json.loads(body)
        )

    @property
    def at(self) -> float:
        """When it was drafted, on the monotonic clock of this machine."""
        return float(self.fields["monotonic_us"]) / 1_000_000

    @property
    def owner(self) -> tuple[str, str]:
        """
        The refund's id, or the nonce of a batch, and the key's address in lower case.
        """
        address = str(self.fields.get("address")).lower()
        if "composition" in (self.fields.get("details") or {}):
            return name_batch(self.fields["details"]["nonce"]), address
        return str(self.fields.get("refund_id")), address

    @property
    def milliseconds(self) -> int:
        """When it was drafted, in milliseconds since 1970, by its id."""
        return int(self.id[3:15], 16)


def name_batch(nonce: int | None) -> str:
    """Return what the owner of an intent for several refunds is called."""
    return f"the batch with nonce {nonce}"


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key of the ring as the store has it; *address* is lower-case."""

    address: str
    state: str
    epoch: int | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    Everything that is known of one run.

    ``spent`` is the loss of the wallets since the start, per token; that of ``COIN`` is
    without fees.  ``used`` has the
    digests that the device was asked to sign, where a proxy sees the requests, with the
    time of the first request on the monotonic clock.

    With a vault, ``batches`` has the sender and the nonce of each of its transactions,
    ``skipped`` refund, sender and nonce of what such a transaction has not paid,
    ``marks`` those of the items that the vault says it has paid, and ``blocked`` the
    recipients that the token refused at any time.  ``is_reorganised``: blocks with
    transactions have left the chain.
    """

    decimals: int
    journal: tuple[Entry, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    sent: tuple[Sent, ...] = ()
    rows: tuple[Row, ...] = ()
    signed: tuple[Signed, ...] = ()
    steps: tuple[Step, ...] = ()
    spent: Mapping[str, int] = field(default_factory=dict)
    used: Mapping[str, float] = field(default_factory=dict)
    audit: tuple[Recorded, ...] = ()
    keys: tuple[KeyRow, ...] = ()
    batches: frozenset[tuple[str | None, int | None]] = frozenset()
    skipped: frozenset[tuple[str, str, int]] = frozenset()
    marks: tuple[str, ...] = ()
    blocked: frozenset[str] = frozenset()
    is_reorganised: bool = False
