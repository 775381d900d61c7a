"""The transaction: what one nonce of a wallet does; and its signed attempts."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Self, TypeVar

from signer.model.row import PrimaryKey, Small, Storage, Uint256, Unprotected, sealed


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

HOLD = timedelta(seconds=10)
"""How long a process keeps the claim of what it moved or claimed last."""


class TransactionKind(StrEnum):
    """What the attempts of a transaction do, unless a no-op is mined."""

    TRANSFER = "transfer"
    COIN = "coin"
    CALL = "call"
    FILLER = "filler"


class TransactionStatus(StrEnum):
    """The status of a transaction; ``docs/explanation/refunds.md`` draws them."""

    RESERVED = "reserved"
    SIGNED = "signed"
    BROADCAST = "broadcast"
    MINED = "mined"
    CONFIRMED = "confirmed"
    FAILED = "failed"


# A transaction goes back from mined when a reorganisation removes its block, and from
# broadcast when it is signed again with higher fees.  After a restore from a backup,
# one that the ledger has lost is found mined.
TRANSACTION_MOVES: dict[TransactionStatus, frozenset[TransactionStatus]] = {
    TransactionStatus.RESERVED: frozenset(
        {TransactionStatus.SIGNED, TransactionStatus.MINED, TransactionStatus.FAILED}
    ),
    TransactionStatus.SIGNED: frozenset({TransactionStatus.BROADCAST}),
    TransactionStatus.BROADCAST: frozenset(
        {TransactionStatus.SIGNED, TransactionStatus.MINED, TransactionStatus.FAILED}
    ),
    TransactionStatus.MINED: frozenset(
        {
            TransactionStatus.BROADCAST,
            TransactionStatus.CONFIRMED,
            TransactionStatus.FAILED,
        }
    ),
    TransactionStatus.CONFIRMED: frozenset(),
    TransactionStatus.FAILED: frozenset(),
}


_T = TypeVar("_T")

Moved = Annotated[
    _T, Unprotected("it changes with each step; legal moves and triggers limit it")
]


@sealed("transaction")
@dataclass(frozen=True, slots=True)
class Transaction:
    """
    What one nonce of a wallet does: the row that a worker claims and moves.

    ``composition`` is the digest of the payments that it makes, in their order
    (``compose``).  It has them for life.  Gas is in units of gas.

    ``version`` counts the changes: each is a compare-and-set on it.  A worker may claim
    the transaction from ``due_at`` on; until then another process has it.  ``attempts``
    counts the failures since the last move; ``blocked_by`` is the last error's code.
    ``tx_hash`` is that of the attempt that was signed last, or that was mined.
    """

    chain_id: PrimaryKey[int]
    sender: PrimaryKey[str]
    nonce: PrimaryKey[int]
    kind: TransactionKind
    composition: str
    key_id: str = field(repr=False)
    gas_limit: int
    created_at: datetime
    status: Moved[TransactionStatus]
    updated_at: Moved[datetime]
    version: Moved[Small] = 0
    due_at: Moved[datetime] = EPOCH
    attempts: Moved[Small] = 0
    blocked_by: Moved[str | None] = None
    tx_hash: Moved[str | None] = None
    block_number: Moved[int | None] = None
    block_hash: Moved[str | None] = None
    mac: str | None = field(default=None, compare=False, repr=False)

    def with_status(
        self,
        status: TransactionStatus,
        at: datetime,
        *,
        due_at: datetime,
        **changes: Any,
    ) -> Self:
        """
        Return a copy with *status* and *changes*, one version later, due at *due_at*.

        Raises:
            ValueError: The move is not in ``TRANSACTION_MOVES``, which is a programming
                error.
        """
        if status not in TRANSACTION_MOVES[self.status]:
            raise ValueError(f"a transaction cannot go from {self.status} to {status}")
        return replace(
            self,
            status=status,
            updated_at=at,
            version=self.version + 1,
            due_at=due_at,
            attempts=0,
            blocked_by=None,
            **changes,
        )


def compose(payment_ids: Iterable[str]) -> str:
    """Return the SHA-256 of the ids of payments, in the order of their positions."""
    return hashlib.sha256("\n".join(payment_ids).encode()).hexdigest()


class Kind(StrEnum):
    """
    What an attempt does with the nonce.

    A no-op sends nothing to the wallet itself.  It consumes the nonce of payments that
    can never be made, so that higher nonces can be mined.
    """

    TRANSFER = "transfer"
    NOOP = "noop"


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """
    A signed attempt of a transaction, stored before it is broadcast.

    ``attempt`` numbers the attempts of one nonce from 0.  Fees are in wei per gas.
    """

    tx_hash: PrimaryKey[str]
    attempt: Small
    kind: Kind
    chain_id: int
    sender: str
    nonce: int
    max_fee_per_gas: Uint256
    max_priority_fee_per_gas: Uint256
    gas_limit: int
    raw: bytes = field(repr=False)
    signed_at: datetime


@dataclass(frozen=True, slots=True)
class Membership:
    """A payment of a transaction, and its position; it is never taken out again."""

    payment_id: PrimaryKey[str]
    chain_id: PrimaryKey[int]
    sender: PrimaryKey[str]
    nonce: PrimaryKey[int]
    position: Annotated[int, Storage.SMALL]
