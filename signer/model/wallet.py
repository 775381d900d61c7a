"""
The wallet on one chain, and what is known of its nonces.

The ledger knows a nonce by the refund that holds it, or by a *sighting*: a final
transaction that the chain had and the ledger did not, because a backup was restored
or because somebody else has the key.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Pause(StrEnum):
    """Why no new nonce is given out; what has one goes on."""

    UNKNOWN_HISTORY = "unknown-history"
    CHAIN_AHEAD = "chain-ahead"
    FOREIGN_TRANSACTION = "foreign-transaction"


@dataclass(frozen=True, slots=True)
class Wallet:
    """
    One address on one chain.

    ``next_nonce`` is one past the highest that any row knows, and not less than
    ``first_nonce``, where this ledger began.  ``version`` counts the changes.
    """

    chain_id: int
    sender: str
    first_nonce: int
    next_nonce: int
    paused_by: Pause | None = None
    paused_at: datetime | None = None
    version: int = 0


@dataclass(frozen=True, slots=True)
class UnrecordedTransaction:
    """
    A final transaction of ours that the ledger did not know.

    ``mark`` names the refund that it paid (``Refund.mark``); None means that it is
    foreign: this service did not make it.  ``held_by`` is the refund that has the same
    nonce, and so cannot be paid any more.  Foreign ones block the wallet until somebody
    accepts them.
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
