"""The queries on refunds.  Each uses an index."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    bindparam,
    func,
    literal_column,
    select,
    text,
    union_all,
)

from backends.sql.columns import UTCDateTime
from backends.sql.schema import (
    IS_OPEN,
    attempts,
    refund_moves,
    refunds,
    request_signatures,
    status_in,
)
from signer.errors import (
    OpenRefundsLimitError,
    StoreError,
)
from signer.model.idempotency import find_repeated
from signer.model.refund import IN_FLIGHT, OPEN, Refund, Status


_RETRY_OPEN_SECONDS = 30  # About the time in which refunds become final.

ADVANCED = select(refunds).where(
    refunds.c.id.in_(bindparam("refund_ids", expanding=True)),
    refunds.c.status.not_in(bindparam("statuses", expanding=True))
    | refunds.c.blocked_by.is_not(None),
)

BY_ID = select(refunds).where(refunds.c.id == bindparam("refund_id"))

FLYING = (
    select(refunds)
    .where(text(IS_OPEN), text(status_in(IN_FLIGHT)), refunds.c.id > bindparam("after"))
    .order_by(refunds.c.id)
    .limit(bindparam("at_most"))
)

HASHES = (
    select(attempts.c.refund_id, attempts.c.tx_hash, attempts.c.kind)
    .where(attempts.c.refund_id.in_(bindparam("refund_ids", expanding=True)))
    .order_by(attempts.c.refund_id, attempts.c.attempt.desc())
)

OPEN_CALLS = (
    select(refunds)
    .where(
        text(IS_OPEN),
        refunds.c.chain_id == bindparam("chain_id"),
        refunds.c.calldata.is_not(None),
    )
    .order_by(refunds.c.id)
)

# The expressions keep SQLite from the index of nonces, which has the whole history.
BELOW = (
    select(refunds)
    .where(
        text(IS_OPEN),
        refunds.c.chain_id + 0 == bindparam("chain_id"),
        refunds.c.sender + literal_column("''") == bindparam("sender"),
        refunds.c.nonce + 0 < bindparam("nonce"),
    )
    .order_by(refunds.c.nonce)
    .limit(bindparam("at_most"))
)


SIGNED_REQUEST = select(*request_signatures.columns[1:]).where(
    request_signatures.c.refund_id == bindparam("refund_id")
)

TRANSACTIONS = (
    select(attempts)
    .where(attempts.c.refund_id == bindparam("refund_id"))
    .order_by(attempts.c.attempt)
)

_LAST_CONFIRMED = (
    select(refunds.c.tx_hash)
    .where(
        refunds.c.chain_id == bindparam("chain_id"),
        refunds.c.sender == bindparam("sender"),
        refunds.c.nonce.is_not(None),
        refunds.c.status == Status.CONFIRMED,
    )
    .order_by(refunds.c.nonce.desc())
    .limit(bindparam("at_most"))
    .subquery()
)

MAX_FEES = (
    select(attempts.c.max_fee_per_gas)
    .join(_LAST_CONFIRMED, attempts.c.tx_hash == _LAST_CONFIRMED.c.tx_hash)
    .where(attempts.c.signed_at >= bindparam("since", type_=UTCDateTime))
)

HISTORY = (
    select(refund_moves)
    .where(refund_moves.c.refund_id == bindparam("refund_id"))
    .order_by(refund_moves.c.version)
)

BY_KEY = select(refunds).where(
    refunds.c.tenant == bindparam("of_tenant"),
    refunds.c.idempotency_key == bindparam("key"),
)

BY_REFERENCE = select(refunds).where(
    refunds.c.tenant == bindparam("of_tenant"),
    refunds.c.reference == bindparam("name"),
)

BY_NONCE = select(refunds).where(
    refunds.c.chain_id == bindparam("chain_id"),
    refunds.c.sender == bindparam("sender"),
    refunds.c.nonce == bindparam("nonce"),
)

_OF_ANY = refunds.c.tenant.in_(bindparam("of_tenants", expanding=True))


def _earlier() -> Select[Any]:
    """
    Return the query for the refunds that have the key or the reference of a new one.

    One statement has one snapshot: of two, only the second may see a refund that
    another process stores meanwhile, and it would be taken for another request's.
    """
    parts = (
        select(refunds).where(_OF_ANY, refunds.c.idempotency_key == bindparam("key")),
        select(refunds).where(_OF_ANY, refunds.c.reference == bindparam("name")),
    )
    either = union_all(*parts).subquery()
    return select(either).order_by(either.c.id)


EARLIER = _earlier()

_open = (
    select(literal_column("1"))
    .select_from(refunds)
    .where(
        refunds.c.tenant == bindparam("of_tenant"),
        # Parameters keep SQLite from the index of all tenants' open refunds.
        refunds.c.status.in_(sorted(OPEN)),
    )
    .limit(bindparam("at_most"))
    .subquery()
)

COUNT_OPEN = select(func.count()).select_from(_open)


def find_conflict(connection: Connection, refund: Refund) -> Refund:
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
    connection: Connection, refund: Refund, tenants: Collection[str]
) -> Refund | None:
    """Return the refund of one of *tenants* that *refund* repeats, or None."""
    params = {
        "of_tenants": sorted(tenants),
        "key": refund.idempotency_key,
        "name": refund.reference,
    }
    found = connection.execute(EARLIER, params)
    return find_repeated(refund, (Refund(*row) for row in found))


def require_open_at_most(connection: Connection, tenant: str, max_open: int) -> None:
    """Raise ``OpenRefundsLimitError`` if *tenant* has more than *max_open*."""
    params = {"of_tenant": tenant, "at_most": max_open + 1}
    if connection.execute(COUNT_OPEN, params).scalar_one() > max_open:
        raise OpenRefundsLimitError(
            f"there are {max_open} open refunds, the most that the tenant may have",
            retry_after=_RETRY_OPEN_SECONDS,
        )
