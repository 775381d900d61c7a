"""
A wallet on one chain, its pauses, and transactions that the ledger has no record of.

The ledger knows a nonce by the refund that holds it, or by an *unrecorded
transaction*: a final transaction that the chain had and the ledger did not.  Either a
backup of the ledger was restored, or someone else has the key.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Pause(StrEnum):
    """Why a wallet assigns no new nonces; refunds that have one continue."""

    UNKNOWN_HISTORY = "unknown-history"
    CHAIN_AHEAD = "chain-ahead"
    FOREIGN_TRANSACTION = "foreign-transaction"


@dataclass(frozen=True, slots=True)
class Wallet:
    """
    One address on one chain.

    ``next_nonce`` is one more than the highest nonce in the ledger, and at least
    ``first_nonce``, where the ledger starts.  ``version`` counts the changes: each is a
    compare-and-set on it.
    """

    chain_id: int
    sender: str
    first_nonce: int
    next_nonce: int
    paused_by: Pause | None = None
    paused_at: datetime | None = None
    version: int = 0

    @property
    def is_paused(self) -> bool:
        """Whether the wallet assigns no new nonces."""
        return self.paused_by is not None


@dataclass(frozen=True, slots=True)
class UnrecordedTransaction:
    """
    A final transaction of one of our wallets that the ledger did not know.

    ``mark`` names the refund that it paid (``Refund.mark``); None means that it is
    *foreign*: this service did not make it.  A foreign transaction keeps the wallet
    paused until an operator accepts it.  ``held_by`` is the refund that has the same
    nonce, and so cannot be paid any more.
    """

    chain_id: int
    sender: str
    nonce: int
    tx_hash: str
    mark: bytes | None
    gas_limit: int
    block_number: int
    block_hash: str
    seen_at: datetime
    accepted_at: datetime | None = None
    held_by: str | None = None
