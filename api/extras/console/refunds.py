"""Finds refunds by what an operator typed, with SQL; shows all that is known of one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from eth_utils.address import to_checksum_address

from api.container import Container
from api.extras.console.rendering import format_amount
from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.refund_reports import id_at
from backends.sql.refund_rows import REFUNDS, STATUS, read_refunds
from backends.sql.tables import IS_OF_TENANT, refund_moves, refunds
from backends.sql.validation import is_storable
from signer.chain.erc20 import decode_transfer
from signer.chain.vault import Item, decode_pay
from signer.crypto.transactions import AnyTransaction, SignedBytes
from signer.deadline import Deadlines
from signer.errors import (
    ChainUnavailableError,
    EncodingError,
    HotWalletError,
    InvalidInputError,
    RowNotAuthenticError,
)
from signer.model.refund import COIN_ADDRESS, UNRESERVED, Refund, Status, is_refund_id
from signer.model.transaction import Kind, SignedTransaction, Transaction
from signer.ports.ledger import Ledger
from signer.ports.refund_reports import RefundFilter
from signer.refunds.explanation import Explanation
from signer.refunds.payload import transfer_of


_accepted = (
    REFUNDS.with_only_columns(STATUS.label("status"))
    .where(
        refunds.c.id >= sa.bindparam("first"),
        refunds.c.id < sa.bindparam("last"),
        IS_OF_TENANT,
    )
    .limit(sa.bindparam("at_most"))
    .subquery()
)

RESULTS = sa.select(_accepted.c.status, sa.func.count()).group_by(_accepted.c.status)

_move = refund_moves.c

# Grouped in the order of the primary key, so the limit ends the scan.
FIRST_BROADCASTS = (
    sa.select(_move.refund_id, sa.func.min(_move.at, type_=UTCDateTime))
    .where(
        _move.refund_id >= sa.bindparam("first"),
        _move.refund_id < sa.bindparam("last"),
        _move.status == Status.BROADCAST,
    )
    .group_by(_move.refund_id)
    .order_by(_move.refund_id.desc())
    .limit(sa.bindparam("at_most"))
)


def _all_tenants() -> Any:
    """
    Return the query for the names of all tenants that have refunds.

    It skips through the index from one tenant to the next (a loose index scan), because
    ``DISTINCT`` reads every refund.
    """
    tenants = sa.select(sa.func.min(refunds.c.tenant).label("tenant")).cte(
        "tenants", recursive=True
    )
    following = (
        sa.select(sa.func.min(refunds.c.tenant))
        .where(refunds.c.tenant > tenants.c.tenant)
        .scalar_subquery()
    )
    return tenants.union_all(sa.select(following).where(tenants.c.tenant.is_not(None)))


_TENANTS = _all_tenants()

BY_REFERENCE = (
    REFUNDS.join(
        _TENANTS,
        sa.and_(
            refunds.c.tenant == _TENANTS.c.tenant,
            refunds.c.reference == sa.bindparam("name"),
        ),
    )
    .order_by(refunds.c.id.desc())
    .limit(sa.bindparam("at_most"))
)


class ConsoleTables(Tables):
    """Finds and counts refunds; each method uses an index."""

    def results_between(
        self, since: datetime, until: datetime, limit: int
    ) -> Mapping[Status, int]:
        """
        Return how many refunds have each status now, of those accepted in a period.

        *until* does not belong to it.  It looks at *limit* refunds at most, and counts
        neither sweeps nor fillers.
        """
        rows = self._database.rows(RESULTS, at_most=limit, **_ids(since, until))
        return {row[0]: row[1] for row in rows}

    def broadcast_seconds(
        self, since: datetime, until: datetime, limit: int
    ) -> Sequence[float]:
        """
        Return the seconds from acceptance to first broadcast, the fastest first.

        These are the newest *limit* refunds that were accepted from *since* to before
        *until* and broadcast.
        """
        params = {**_ids(since, until), "at_most": limit}
        rows = self._database.rows(FIRST_BROADCASTS, **params)
        return sorted(
            max(0.0, at.timestamp() - int(id_[3:15], 16) / 1000) for id_, at in rows
        )

    def find_by_reference(self, reference: str, limit: int) -> Sequence[Refund]:
        """Return up to *limit* refunds of any tenants that have *reference*."""
        if not is_storable(reference):
            return ()
        rows = self._database.rows(BY_REFERENCE, name=reference, at_most=limit)
        return read_refunds(rows)


def _ids(since: datetime, until: datetime) -> Mapping[str, str]:
    return {"first": id_at(since), "last": id_at(until)}


PAGE_SIZE = 50

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


@dataclass(frozen=True, slots=True)
class Found:
    """
    The refunds of one page, and where the next one begins.

    ``until`` is the acceptance time of the oldest refund that was looked at; None if
    all were.
    """

    refunds: Sequence[Refund]
    next_cursor: str | None = None
    until: datetime | None = None


def recipient_in(text: str | None) -> str | None:
    is_address = text is not None and _ADDRESS.fullmatch(text)
    return to_checksum_address(text) if text is not None and is_address else None


def search(
    ledger: Ledger, text: str | None, wanted: RefundFilter, *, cursor: str | None
) -> Found:
    """
    Return the *wanted* refunds with *text* as id or reference, newest first.

    Without *text*, or if it is the recipient of *wanted*, all of them are found.
    """
    if text is None or wanted.recipient is not None:
        page = ledger.search_refunds(wanted, limit=PAGE_SIZE, cursor=cursor)
        following = page.next_cursor
        until = None if following is None else _time_of(following)
        return Found(page.refunds, following, until)
    if is_refund_id(text):
        refund = ledger.get(text)
        matches: Sequence[Refund] = () if refund is None else (refund,)
    else:
        matches = ledger.tables(ConsoleTables).find_by_reference(text, PAGE_SIZE)
    return Found([each for each in matches if wanted.allows(each)])


def _time_of(refund_id: str) -> datetime:
    milliseconds = int(refund_id.removeprefix("rf_")[:12], 16)
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


_EXPLAIN_SECONDS = 4.0
_AT_ONCE = 4


class RefundDetailsReader:
    """Reads refunds for their pages; waits a few seconds for nodes, and no longer."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._deadlines = Deadlines(_AT_ONCE)

    def read(self, refund: Refund) -> Mapping[str, object]:
        """
        Return what the page shows; StoreError if the ledger does not answer.

        The explanation is None if it took too long; ``problem`` is the code of the
        reason.  ``is_authentic`` is whether the MAC of what it pays is valid.
        """
        store = self._container.store
        explanation, problem = self._explain(refund)
        stored = store.transactions(refund.id)
        return {
            "refund": refund,
            "batch": self._find_batch(refund),
            "is_authentic": self._is_authentic(refund),
            "is_cancellable": refund.status in UNRESERVED,
            "moves": store.history(refund.id),
            "transactions": [(each, *_describe(each, refund)) for each in stored],
            "explanation": explanation,
            "problem": problem,
        }

    def _explain(self, refund: Refund) -> tuple[Explanation | None, str | None]:
        try:
            return self._deadlines.within(
                _EXPLAIN_SECONDS,
                lambda: self._container.explainer.explain(refund),
                name="explain",
                late=ChainUnavailableError,
            ), None
        except HotWalletError as e:
            return None, e.code

    def _find_batch(self, refund: Refund) -> Transaction | None:
        """Return the batch that pays *refund* with others; None if it has none."""
        own = refund.transaction
        if own is None or own.vault is None:
            return None
        return self._container.store.find_transaction(
            own.chain_id, own.sender, own.nonce
        )

    def _is_authentic(self, refund: Refund) -> bool:
        try:
            self._container.store.require_authentic(refund)
        except RowNotAuthenticError:
            return False
        return True


def _describe(stored: SignedTransaction, refund: Refund) -> tuple[str, bool | None]:
    """
    Return what the signed bytes do, and whether they pay exactly what *refund* says.

    That is None for a no-op, which pays nothing.
    """
    try:
        transaction = SignedBytes.decode(stored.raw).transaction
        if stored.kind is Kind.NOOP:
            return "sends nothing to the wallet itself, and uses the nonce up", None
        if refund.transaction is not None and refund.transaction.vault is not None:
            return _describe_item(transaction, refund, refund.transaction.vault)
        is_payment = transfer_of(refund).is_of(transaction)
        to, amount = _read_payment(transaction, refund)
    except (EncodingError, InvalidInputError):
        return "cannot be decoded: another program may have changed the row", False
    whole = format_amount(amount, refund.decimals)
    does = f"pays {whole} {refund.token} to {to_checksum_address(to)}"
    if refund.calldata:
        does += f", and calls it with {len(transaction.data)} bytes"
    return does, is_payment


def _describe_item(
    transaction: AnyTransaction, refund: Refund, vault: str
) -> tuple[str, bool]:
    """
    Return what the item of *refund* in a batch does, and whether that pays it.

    Raises:
        EncodingError: The transaction is no batch, or has no such item.
    """
    token, items = decode_pay(transaction.data)
    position = refund.position or 0
    if position >= len(items):
        raise EncodingError("the batch has fewer items")
    found = items[position]
    own = Item(refund.recipient.lower(), refund.amount, refund.memo)
    is_call = (transaction.to, transaction.value) == (vault, 0)
    is_payment = is_call and token == refund.token_address.lower() and found == own
    whole = format_amount(found.amount, refund.decimals)
    to = to_checksum_address(found.recipient)
    does = f"lets the vault pay {len(items)} refunds: in place {position + 1},"
    return f"{does} {whole} {refund.token} to {to}", is_payment


def _read_payment(transaction: AnyTransaction, refund: Refund) -> tuple[str, int]:
    """
    Return whom *transaction* pays, and the amount.

    Raises:
        EncodingError: It pays nothing.
    """
    if transaction.to is None:
        raise EncodingError("the transaction creates a contract")
    if refund.token_address == COIN_ADDRESS:
        return transaction.to, transaction.value
    recipient, amount, _ = decode_transfer(transaction.data)
    return recipient, amount
