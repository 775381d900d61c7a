"""The transaction: what one nonce of a wallet does; and its signed attempts."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import compress
from operator import not_
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from signer.model.audit_record import Record
from signer.model.payment import PaymentState
from signer.model.sealed_fields import (
    NotStored,
    PrimaryKey,
    Small,
    Storage,
    TextEnum,
    Uint256,
    Unprotected,
    changed,
    sealed,
)


if TYPE_CHECKING:
    from signer.model.refund import Refund


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

CLAIM_TIME = timedelta(seconds=10)
"""How long a process keeps the claim of what it moved or claimed last."""


class TransactionKind(TextEnum):
    """
    What the attempts of a transaction do, unless a no-op is mined.

    A batch calls ``pay`` of a vault, which holds the tokens; the others pay from the
    wallet's own address, one refund each.

    A filler makes no payments.  It consumes a nonce that a restored ledger does not
    know: a forgotten transaction may wait in a node's pool, above a gap that no count
    shows.  Either that is mined or a no-op, and both are seen before anything new is
    paid.
    """

    TRANSFER = "transfer"
    COIN = "coin"
    CALL = "call"
    BATCH = "batch"
    FILLER = "filler"


class TransactionStatus(TextEnum):
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


# How its payments may end, each on its own, if a vault pays them.
BATCH_ENDS: dict[TransactionStatus, frozenset[PaymentState]] = {
    TransactionStatus.CONFIRMED: frozenset(
        {PaymentState.CONFIRMED, PaymentState.FAILED, PaymentState.QUEUED}
    ),
    TransactionStatus.FAILED: frozenset({PaymentState.FAILED, PaymentState.QUEUED}),
}


_T = TypeVar("_T")

Moved = Annotated[
    _T, Unprotected("it changes with each step; legal moves and triggers limit it")
]


@dataclass(frozen=True, slots=True)
class PaymentEnd:
    """
    How one payment of a batch ends: confirmed, failed or queued again.

    *failure* has ``failure_code`` and ``failure_detail``.  What is queued again waits
    until *due_at* for *blocked_by*.  A worker takes a time that is more than two
    minutes away for that of a wrong clock, and the payment for due.
    """

    state: PaymentState
    failure: Mapping[str, Any] = field(default_factory=dict)
    due_at: datetime | None = None
    blocked_by: str | None = None


@sealed("transaction")
@dataclass(frozen=True)
class Transaction:
    """
    What one nonce of a wallet does: the row that a worker claims and moves.

    ``composition`` is the digest of the payments that it makes, in their order
    (``compose``).  It has them for life.  Gas is in units of gas.  ``vault`` is the
    address that a batch calls; the other kinds have none.

    ``version`` counts the changes: each is a compare-and-set on it.  A worker may claim
    the transaction from ``due_at`` on; until then another process has it.  ``attempts``
    counts the failures since the last move; ``blocked_by`` is the last error's code.
    ``tx_hash`` is that of the attempt that was signed last, or that was mined.

    ``payments`` are the refunds that it pays, in the order of their positions; a filler
    has none.  Each has this transaction as its own, which has no payments there.
    ``strangers`` are refunds that another program pointed to it.  ``members`` are the
    ids of all its payments, if some are queued again since it is final.
    """

    chain_id: PrimaryKey[int]
    sender: PrimaryKey[str]
    nonce: PrimaryKey[int]
    network: str
    kind: TransactionKind
    composition: str
    key_id: str = field(repr=False)
    gas_limit: int
    created_at: datetime
    status: Moved[TransactionStatus]
    updated_at: Moved[datetime]
    vault: str | None = None
    version: Moved[Small] = 0
    due_at: Moved[datetime] = EPOCH
    attempts: Moved[Small] = 0
    blocked_by: Moved[str | None] = None
    tx_hash: Moved[str | None] = None
    block_number: Moved[int | None] = None
    block_hash: Moved[str | None] = None
    mac: str | None = field(default=None, compare=False, repr=False)
    payments: NotStored["tuple[Refund, ...]"] = ()
    strangers: NotStored["tuple[Refund, ...]"] = ()
    members: NotStored[tuple[str, ...]] = field(default=(), compare=False)
    # Not stored.  Only the process that reserved the nonce has the audit record of the
    # intent to sign, which it wrote.  A process that continues later writes a new one.
    intent: NotStored[Record | None] = field(default=None, compare=False, repr=False)

    @classmethod
    def draft(
        cls,
        payments: Sequence["Refund"],
        at: datetime,
        *,
        sender: str,
        nonce: int,
        key_id: str,
        gas_limit: int,
        vault: str | None = None,
        status: TransactionStatus = TransactionStatus.RESERVED,
        **outcome: Any,
    ) -> Self:
        """
        Return a new transaction that will make *payments*; several need a *vault*.

        Its *status* is mined, with its *outcome*, if the ledger had lost it.
        """
        first = payments[0]
        return cls(
            first.chain_id,
            sender,
            nonce,
            first.network,
            first.kind if vault is None else TransactionKind.BATCH,
            compose(each.id for each in payments),
            key_id,
            gas_limit,
            at,
            status,
            at,
            vault=vault,
            due_at=at + CLAIM_TIME,
            **outcome,
        )

    @property
    def id(self) -> str:
        """A name for logs, and among what a batch moves."""
        return f"{self.chain_id}/{self.sender}/{self.nonce}"

    @property
    def names(self) -> Mapping[str, str]:
        """What logs call it: the refund that it pays alone, or itself."""
        if len(self.payments) == 1:
            return {"refund_id": self.payments[0].id}
        return {"transaction": self.id}

    @property
    def named(self) -> str:
        """What ``Hold.forbids`` looks for a stopped token in."""
        return " ".join(each.named for each in self.payments)

    @property
    def payment(self) -> "Refund":
        """
        Its only payment.

        Raises:
            ValueError: It has none or several, which is a programming error.
        """
        (payment,) = self.payments
        return payment

    @property
    def payment_ids(self) -> tuple[str, ...]:
        """The ids of the payments that it has for life."""
        return self.members or tuple(each.id for each in self.payments)

    @property
    def is_composed(self) -> bool:
        """Whether it has the payments that were reserved for it, in their order."""
        ids = dict(enumerate(self.payment_ids))
        inside = (each for each in self.payments if each.nonce is not None)
        places = {each.position: each.id for each in inside}
        may_lack_some = not TRANSACTION_MOVES[self.status]
        fits = places.items() <= ids.items() if may_lack_some else places == ids
        return fits and compose(ids.values()) == self.composition

    def paying(self, payments: Iterable["Refund"]) -> Self:
        """Return a copy that makes *payments*, each of which is in it."""
        row = changed(self, payments=(), strangers=(), members=(), intent=None)
        return changed(
            self,
            payments=tuple(
                # One that is queued again is not in it any more.
                each if each.nonce is None else changed(each, transaction=row)
                for each in payments
            ),
        )

    def paying_own(
        self, pointing: Sequence["Refund"], members: Sequence[str] = ()
    ) -> Self:
        """
        Return a copy that makes those payments of which it has the digest.

        They are the first of *pointing*, the refunds whose rows name it.  *members* are
        the ids of its memberships, by position: of them, the digest proves which it has
        for life, also if some of these refunds do not name it any more.  If none fit,
        it has all of *pointing*, and is not authentic.
        """
        pointing = sorted(pointing, key=lambda each: each.position or 0)
        count = count_own((each.id for each in pointing), self.composition)
        if count is not None:
            strangers = tuple(pointing[count:])
            return changed(self.paying(pointing[:count]), strangers=strangers)
        count = count_own(members, self.composition)
        if not count:
            return self.paying(pointing)
        own = tuple(members[:count])
        placed = dict(enumerate(own))
        is_own = [placed.get(each.position or 0) == each.id for each in pointing]
        return changed(
            self.paying(compress(pointing, is_own)),
            strangers=tuple(compress(pointing, map(not_, is_own))),
            members=own,
        )

    def with_status(
        self,
        status: TransactionStatus,
        at: datetime,
        *,
        due_at: datetime | None = None,
        failure: Mapping[str, Any] | None = None,
        ends: Mapping[str, PaymentEnd] | None = None,
        **changes: Any,
    ) -> Self:
        """
        Return a copy with *status* and *changes*, one version later.

        The process that makes the move keeps its claim until *due_at*, by default for
        ``CLAIM_TIME``.  *failure* is why its payments fail, or will.  They end with it,
        or each as *ends* has it by its id.

        Raises:
            ValueError: The move is not in ``TRANSACTION_MOVES``, or *ends* are not in
                ``BATCH_ENDS`` or not those of its payments; a programming error.
        """
        if status not in TRANSACTION_MOVES[self.status]:
            raise ValueError(f"a transaction cannot go from {self.status} to {status}")
        if ends is not None:
            self._require_ends(status, ends)
        due_at = due_at or at + CLAIM_TIME
        moved = changed(
            self,
            status=status,
            updated_at=at,
            version=self.version + 1,
            due_at=due_at,
            attempts=0,
            blocked_by=None,
            intent=None,
            **changes,
        )
        return moved.paying(
            each.following(status, at, due_at, failure or {})
            if ends is None
            else each.ended(ends[each.id], at)
            for each in self.payments
        )

    def _require_ends(
        self, status: TransactionStatus, ends: Mapping[str, PaymentEnd]
    ) -> None:
        if self.kind is not TransactionKind.BATCH or ends.keys() != {*self.payment_ids}:
            raise ValueError(
                "each payment of a batch, and of no other kind, has an end"
            )
        states = {each.state for each in ends.values()}
        if not states <= BATCH_ENDS.get(status, frozenset()):
            raise ValueError(f"no payment of a batch that is {status} ends like that")

    def with_due_at(
        self, due_at: datetime, *, attempts: int = 0, blocked_by: str | None = None
    ) -> Self:
        """Return a copy that is due at *due_at*, one version later."""
        later = changed(
            self,
            version=self.version + 1,
            due_at=due_at,
            attempts=attempts,
            blocked_by=blocked_by,
            intent=None,
        )
        return later.paying(self.payments)


def compose(payment_ids: Iterable[str]) -> str:
    """Return the SHA-256 of the ids of payments, in the order of their positions."""
    return hashlib.sha256("\n".join(payment_ids).encode()).hexdigest()


def count_own(payment_ids: Iterable[str], composition: str) -> int | None:
    """Return how many of *payment_ids*, the first ones, have the *composition*."""
    ids = [*payment_ids]
    if compose(ids) == composition:
        return len(ids)  # Nearly always: to compare each prefix takes far longer.
    for count, each in enumerate(_compositions(ids)):
        if each == composition:
            return count
    return None


def _compositions(payment_ids: Iterable[str]) -> Iterator[str]:
    """Yield that of no payment, that of the first, that of the first two, and so on."""
    digest = hashlib.sha256()
    yield digest.hexdigest()
    for count, payment_id in enumerate(payment_ids):
        digest.update(f"\n{payment_id}".encode() if count else payment_id.encode())
        yield digest.hexdigest()


class Kind(TextEnum):
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
