"""
The facts that the invariants judge, as plain values.

``read_chain.py`` and ``read_store.py`` gather them with nothing but JSON-RPC and
SELECT.  Addresses and hashes are lower-case hex with ``0x``, amounts are integers in
base units.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.crash.journal import Entry


@dataclass(frozen=True, slots=True)
class Transfer:
    """A ``Transfer`` event out of the wallet, on the canonical chain."""

    tx_hash: str
    token: str
    recipient: str
    amount: int
    block_number: int
    block_hash: str


@dataclass(frozen=True, slots=True)
class Sent:
    """
    A transaction that the wallet signed and the network has.

    ``block_number`` is None while it waits in the pool.
    """

    tx_hash: str
    nonce: int
    digest: str
    block_number: int | None


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


@dataclass(frozen=True, slots=True)
class Signed:
    """
    Signed bytes as the store has them.

    The columns are what the store says of them; ``raw_*`` and ``digest`` are what
    the bytes say themselves.
    """

    tx_hash: str
    refund_id: str
    kind: str
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
class Evidence:
    """
    Everything that is known of one run.

    ``spent`` maps each token to what the wallet has less of than at the start.
    ``intents`` are the digests whose signing was announced to the audit log;
    ``used`` are those that the device says it signed, where it keeps such a list.
    """

    wallet: str
    decimals: int
    journal: tuple[Entry, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    sent: tuple[Sent, ...] = ()
    rows: tuple[Row, ...] = ()
    signed: tuple[Signed, ...] = ()
    steps: tuple[Step, ...] = ()
    spent: Mapping[str, int] = field(default_factory=dict)
    intents: frozenset[str] = frozenset()
    used: frozenset[str] = frozenset()
