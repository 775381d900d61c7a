"""The queries on refunds.  Each uses an index."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import repeat
from typing import TypeVar

import sqlalchemy as sa

from backends.sql.columns import UTCDateTime
from backends.sql.refund_rows import (
    ATTEMPTS,
    NONCE,
    PAYING,
    REFUNDS,
    STATUS,
    has_given_nonce,
    of_moving,
    pays_or_fills,
    read_refunds,
    same_nonce,
)
from backends.sql.tables import (
    IS_CLAIMABLE,
    IS_MOVABLE,
    IS_OPEN,
    attempts,
    keys,
    refund_moves,
    refunds,
    request_signatures,
    transaction_payments,
    transactions,
)
from signer.errors import OpenRefundsLimitError, StoreError
from signer.model.acceptance import find_repeated
from signer.model.key import KeyState
from signer.model.payment import OPEN_STATES, PaymentState
from signer.model.refund import IN_FLIGHT, Refund, Status
from signer.model.transaction import Kind, TransactionKind, TransactionStatus


T = TypeVar("T")

_RETRY_OPEN_SECONDS = 30  # About the time in which refunds become final.

# SQLAlchemy renders a list of unknown length again at each execution.
_IDS = [f"id_{number}" for number in range(16)]
_STATUSES = [f"status_{number}" for number in range(len(Status))]

ADVANCED = REFUNDS.where(
    refunds.c.id.in_([sa.bindparam(name) for name in _IDS]),
    STATUS.not_in([sa.bindparam(name) for name in _STATUSES])
    | of_moving("blocked_by").is_not(None),
)
"""Selects refunds that have left some statuses or are blocked; see ``advanced``."""


def advanced(
    refund_ids: Sequence[str], statuses: Sequence[Status]
) -> Iterator[Mapping[str, str]]:
    left = dict(zip(_STATUSES, _repeated(statuses), strict=False))
    for first in range(0, len(refund_ids), len(_IDS)):
        ids = _repeated(refund_ids[first : first + len(_IDS)])
        yield {**left, **dict(zip(_IDS, ids, strict=False))}


def _repeated(values: Sequence[T]) -> Iterator[T]:
    """Yield *values*, and the last one without end."""
    yield from values
    yield from repeat(values[-1])


BY_ID = REFUNDS.where(refunds.c.id == sa.bindparam("refund_id"))

_KEY = sa.tuple_(*transactions.primary_key)

_LAST = sa.tuple_(
    *(sa.bindparam(each.name, type_=each.type) for each in transactions.primary_key)
)

_sent = (
    sa.select(transactions)
    .where(
        sa.text(IS_MOVABLE),
        pays_or_fills(refunds.c.state == PaymentState.ASSIGNED),
        transactions.c.status.in_(sorted(TransactionStatus(s) for s in IN_FLIGHT)),
        _KEY > _LAST,
    )
    .order_by(*transactions.primary_key)
    .limit(sa.bindparam("at_most"))
    .subquery("sent")
)

FLYING = sa.select(_sent).order_by(*(_sent.c[name] for name in NONCE))
"""Selects transactions that were sent, after one."""

WITHOUT_RECEIPT = (
    sa.select(transactions.c.chain_id, sa.func.count().label("transactions"))
    # Literal text, so that both databases use the partial index.
    .where(
        sa.text(IS_MOVABLE),
        sa.text(IS_CLAIMABLE),
        transactions.c.sender == sa.bindparam("of_sender"),
    )
    .group_by(transactions.c.chain_id)
)
"""Counts the transactions of a sender without a receipt, by chain."""

HASHES = (
    sa.select(*attempts.c["chain_id", "sender", "nonce", "tx_hash", "kind"])
    .join_from(_sent, attempts, same_nonce(attempts, _sent))
    .order_by(attempts.c.attempt.desc())
)
"""Selects the attempts of what ``FLYING`` selects, and of what was sent since."""

ATTEMPTS_OF = (
    sa.select(attempts)
    .where(*(attempts.c[name] == sa.bindparam(name) for name in NONCE))
    .order_by(attempts.c.attempt)
)

HAS_OPEN = sa.select(
    sa.or_(
        sa.select(refunds.c.id).where(sa.text(IS_OPEN)).exists(),
        sa.select(transactions.c.nonce).where(sa.text(IS_MOVABLE)).exists(),
    )
)

OPEN_CALLS = REFUNDS.where(
    sa.text(IS_OPEN),
    refunds.c.chain_id == sa.bindparam("chain_id"),
    refunds.c.calldata.is_not(None),
).order_by(refunds.c.id)

_signing = sa.select(keys.c.address).where(keys.c.state != KeyState.BLOCKED)

UNMINED = sa.select(*transactions.c["sender", "nonce", "composition"]).where(
    sa.text(IS_MOVABLE),
    transactions.c.sender.in_(_signing),
    transactions.c.chain_id == sa.bindparam("chain_id"),
    transactions.c.vault.is_not_distinct_from(sa.bindparam("vault")),
    transactions.c.status != TransactionStatus.MINED,
)

AMOUNTS = (
    sa.select(*refunds.c["sender", "nonce", "id", "token_address", "amount"])
    .where(has_given_nonce(refunds))
    .order_by(refunds.c.position)
)
"""Selects what transactions with given nonces pay."""

_below = (
    sa.select(transactions)
    .where(
        sa.text(IS_MOVABLE),
        transactions.c.chain_id == sa.bindparam("chain_id"),
        transactions.c.sender == sa.bindparam("sender"),
        transactions.c.nonce < sa.bindparam("nonce"),
        pays_or_fills(),
    )
    .order_by(transactions.c.nonce)
    .limit(sa.bindparam("at_most"))
    .subquery("below")
)

BELOW = (
    sa.select(refunds, _below)
    .outerjoin_from(_below, refunds, same_nonce(refunds, _below))
    .order_by(_below.c.nonce)
)
"""Selects the first open transactions of a wallet, each with what it pays."""


SIGNED_REQUEST = sa.select(*request_signatures.columns[1:]).where(
    request_signatures.c.refund_id == sa.bindparam("refund_id")
)

TRANSACTIONS = ATTEMPTS.where(refunds.c.id == sa.bindparam("refund_id")).order_by(
    attempts.c.attempt
)

EARLIER_NONCES = (
    sa.select(*(transaction_payments.c[name] for name in NONCE))
    .where(transaction_payments.c.payment_id == sa.bindparam("refund_id"))
    .order_by(*(transaction_payments.c[name] for name in NONCE))
)

REVERTED = (
    sa.select(transaction_payments.c.payment_id)
    .join(transactions, same_nonce(transaction_payments, transactions))
    .join(attempts, attempts.c.tx_hash == transactions.c.tx_hash)
    .where(
        transaction_payments.c.payment_id.in_(sa.bindparam("ids", expanding=True)),
        transactions.c.status == TransactionStatus.FAILED,
        attempts.c.kind == Kind.TRANSFER,
    )
)

_LAST_CONFIRMED = (
    sa.select(transactions.c.tx_hash)
    .where(
        transactions.c.chain_id == sa.bindparam("chain_id"),
        transactions.c.sender == sa.bindparam("sender"),
        transactions.c.status == TransactionStatus.CONFIRMED,
        transactions.c.kind != TransactionKind.FILLER,
    )
    .order_by(transactions.c.nonce.desc())
    .limit(sa.bindparam("at_most"))
    .subquery()
)

MAX_FEES = (
    sa.select(attempts.c.max_fee_per_gas)
    .join(_LAST_CONFIRMED, attempts.c.tx_hash == _LAST_CONFIRMED.c.tx_hash)
    .where(attempts.c.signed_at >= sa.bindparam("since", type_=UTCDateTime))
)

HISTORY = (
    sa.select(refund_moves)
    .where(refund_moves.c.refund_id == sa.bindparam("refund_id"))
    .order_by(refund_moves.c.version)
)

BY_KEY = REFUNDS.where(
    refunds.c.tenant == sa.bindparam("of_tenant"),
    refunds.c.idempotency_key == sa.bindparam("key"),
)

BY_REFERENCE = REFUNDS.where(
    refunds.c.tenant == sa.bindparam("of_tenant"),
    refunds.c.reference == sa.bindparam("name"),
)

BY_NONCE = PAYING.where(*(transactions.c[name] == sa.bindparam(name) for name in NONCE))

_OF_ANY = refunds.c.tenant.in_(sa.bindparam("of_tenants", expanding=True))

# One statement has one snapshot: of two, only the second may see a refund that another
# process stores meanwhile, and it would be taken for another request's.
EARLIER = REFUNDS.where(
    refunds.c.id.in_(
        sa.union_all(
            sa.select(refunds.c.id).where(
                _OF_ANY, refunds.c.idempotency_key == sa.bindparam("key")
            ),
            sa.select(refunds.c.id).where(
                _OF_ANY, refunds.c.reference == sa.bindparam("name")
            ),
        )
    )
).order_by(refunds.c.id)
"""The refunds that have the key or the reference of a new one."""

_open = (
    sa.select(sa.literal_column("1"))
    .select_from(refunds)
    .where(
        refunds.c.tenant == sa.bindparam("of_tenant"),
        # Parameters keep SQLite from the index of all tenants' open refunds.
        refunds.c.state.in_(sorted(OPEN_STATES)),
    )
    .limit(sa.bindparam("at_most"))
    .subquery()
)

COUNT_OPEN = sa.select(sa.func.count()).select_from(_open)


def find_conflict(connection: sa.Connection, refund: Refund) -> Refund:
    """
    Return the stored refund that prevented the insertion of *refund*.

    Raises:
        IdempotencyMismatchError: The key was used for another request.
        ConflictError: The reference was used with another key.
    """
    found = find_earlier(connection, refund, [refund.tenant])
    if found is None:
        raise StoreError("the new refund's id is already in use")
    return found


def find_earlier(
    connection: sa.Connection, refund: Refund, tenants: Collection[str]
) -> Refund | None:
    """Return the refund of one of *tenants* that *refund* repeats, or None."""
    params = {
        "of_tenants": sorted(tenants),
        "key": refund.idempotency_key,
        "name": refund.reference,
    }
    found = connection.execute(EARLIER, params)
    return find_repeated(refund, read_refunds(found))


def count_in_flight(connection: sa.Connection, sender: str) -> Mapping[int, int]:
    """Return by chain id how many transactions of *sender* have no receipt."""
    rows = connection.execute(WITHOUT_RECEIPT, {"of_sender": sender})
    return {row.chain_id: row.transactions for row in rows}


def count_open(connection: sa.Connection, tenant: str, at_most: int) -> int:
    """Return how many open refunds *tenant* has, or *at_most*."""
    params = {"of_tenant": tenant, "at_most": at_most}
    count: int = connection.execute(COUNT_OPEN, params).scalar_one()
    return count


def too_many_open(max_open: int) -> OpenRefundsLimitError:
    """Return the error of a refund that would be one more than *max_open*."""
    return OpenRefundsLimitError(
        f"there are {max_open} open refunds, the most that the tenant may have",
        retry_after=_RETRY_OPEN_SECONDS,
    )
