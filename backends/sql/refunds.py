"""The refunds of the ledger: accept, claim, save, postpone, cancel, read."""

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Select, bindparam, text, update

from backends.sql import queries
from backends.sql.advisory_locks import lock_chain
from backends.sql.approvals import DECIDED, propose
from backends.sql.audit_rows import write
from backends.sql.claim_order import (
    CLAIM_QUEUED,
    CLAIM_TRANSACTIONS,
    DUE,
    PART,
    postponing,
    share,
)
from backends.sql.columns import UTCDateTime
from backends.sql.database import Database, Tables
from backends.sql.group_commit import Work
from backends.sql.hold_checks import require_tenant_unblocked
from backends.sql.refund_rows import (
    NONCE,
    REFUNDS,
    Nonce,
    nonce_of,
    read_refund,
    read_refunds,
    read_transactions,
    require_authentic,
    with_payments,
)
from backends.sql.statements import RESERVE_TRANSACTION, accepted_values, fields_of
from backends.sql.tables import refunds, state_in, transactions
from backends.sql.validation import (
    is_storable,
    is_transaction_hash,
    require_new,
    require_step,
    require_texts,
)
from backends.sql.write_path import (
    Write,
    all_or_each,
    apply_all,
    find_reason,
    insert_refund,
    writes_of,
)
from signer.errors import HotWalletError, InvalidInputError, StaleStateError
from signer.model.acceptance import Acceptance, SignedRequest
from signer.model.audit_record import Record
from signer.model.refund import UNRESERVED, InFlight, Move, Queue, Refund, Status
from signer.model.transaction import Kind, SignedTransaction, Transaction
from signer.ports.refund_store import Change
from signer.row_macs import RowMACs


# Longer than any claim or delay lasts.
_MAX_DELAY = timedelta(minutes=2)

_TRIES = 5
"""How often a process finds refunds that others claim at the same moment."""

_COUNTED_FOR_SECONDS, _NEW_REFUNDS = 1.0, 5_000
"""
How long a count of open refunds is used, if so many more are allowed.

All processes together accept fewer in that time.  To count is the most expensive part
of an acceptance while many refunds are open.
"""


# Literal text, so that both databases use the partial index.
_IS_CANCELLABLE = state_in(*(each.state for each in UNRESERVED))

REQUESTED = (
    REFUNDS.where(
        text(f"{_IS_CANCELLABLE} AND cancel_requested_at IS NOT NULL"),
        refunds.c.id > bindparam("after"),
    )
    .order_by(refunds.c.id)
    .limit(bindparam("at_most"))
)

_REQUEST = (
    update(refunds)
    .where(
        refunds.c.id == bindparam("refund_id"),
        text(f"{_IS_CANCELLABLE} AND cancel_requested_at IS NULL"),
    )
    .values(cancel_requested_at=bindparam("at", type_=UTCDateTime))
)


class RefundTables(Tables):
    """Refunds of ``RefundStore``: their moves and signed bytes."""

    def __init__(self, database: Database, macs: RowMACs | None = None) -> None:
        super().__init__(database, macs)
        # By tenant: how many refunds were open, and when.
        self._open: dict[str, tuple[int, float]] = {}

    def find(self, tenant: str, idempotency_key: str) -> Refund | None:
        if not (is_storable(tenant) and is_storable(idempotency_key)):
            return None
        rows = self._database.rows(
            queries.BY_KEY, of_tenant=tenant, key=idempotency_key
        )
        return read_refund(rows[0]) if rows else None

    def find_reference(self, tenant: str, reference: str) -> Refund | None:
        if not (is_storable(tenant) and is_storable(reference)):
            return None
        rows = self._database.rows(
            queries.BY_REFERENCE, of_tenant=tenant, name=reference
        )
        return read_refund(rows[0]) if rows else None

    def find_transaction(
        self, chain_id: int, sender: str, nonce: int
    ) -> Transaction | None:
        wallet = {"chain_id": chain_id, "sender": sender}
        rows = self._database.rows(queries.BY_NONCE, nonce=nonce, **wallet)
        return next(iter(read_transactions(rows)), None)

    def accept_all(
        self, acceptances: Sequence[Acceptance]
    ) -> Sequence[tuple[Refund, bool] | HotWalletError]:
        if len(acceptances) == 1:
            return [self._accept(*acceptances)]
        results: dict[int, tuple[Refund, bool] | HotWalletError] = {}
        works: dict[int, Work[tuple[Refund, bool]]] = {}
        for index, given in enumerate(acceptances):
            try:
                works[index] = self._acceptance(given, lock=True)
            except InvalidInputError as e:
                results[index] = e
        # Two lists that lock several tenants must do so in the same order.
        order = sorted(works, key=lambda index: acceptances[index].refund.tenant)
        done = self._database.transactions([works[index] for index in order])
        results.update(zip(order, done, strict=True))
        return [results[index] for index in range(len(acceptances))]

    def signed_request(self, refund_id: str) -> SignedRequest | None:
        rows = self._rows(queries.SIGNED_REQUEST, refund_id)
        return SignedRequest(*rows[0]) if rows else None

    def require_authentic(self, moving: Refund | Transaction) -> None:
        require_authentic(self._macs, moving)

    def find_earlier(self, refund: Refund, tenants: Collection[str]) -> Refund | None:
        require_texts(refund)
        return self._database.run(lambda c: queries.find_earlier(c, refund, tenants))

    def get(self, refund_id: str) -> Refund | None:
        rows = self._rows(queries.BY_ID, refund_id)
        return read_refund(rows[0]) if rows else None

    def find_advanced(
        self, refund_ids: Collection[str], statuses: Collection[Status]
    ) -> Sequence[Refund]:
        ids = list(refund_ids)
        if len(ids) == 1:  # A list is written into the statement, which takes time.
            rows = self._database.rows(queries.BY_ID, refund_id=ids[0])
        else:
            params = {"refund_ids": ids, "statuses": list(statuses)}
            rows = self._database.rows(queries.ADVANCED, **params)
        return tuple(
            refund
            for refund in read_refunds(rows)
            if refund.status not in statuses or refund.moving.blocked_by is not None
        )

    def claim(
        self, now: datetime, until: datetime, limit: int, *, lone: bool = False
    ) -> Sequence[Refund | Transaction]:
        window = {"now": now, "far": now + _MAX_DELAY, "until": until}
        for _ in range(_TRIES):
            ids, nonces = self._due(now, limit)
            if not (ids or nonces):
                break
            if lone and (len(ids), len(nonces)) == (1, 0) and limit > 1:
                refund = self.get(*ids)
                if refund is not None and refund.version == 0:
                    return [refund]
            params = {**window, "ids": ids, "nonces": nonces}
            work = partial(_claim, params=params)
            if claimed := self._database.transaction(work):
                return claimed
        return ()

    def _due(self, now: datetime, limit: int) -> tuple[list[str], list[Nonce]]:
        """Return the ids of due refunds, and the nonces of due transactions."""
        counts = {"at_most": limit, "ahead": limit // 2}
        rows = self._database.rows(DUE, now=now, far=now + _MAX_DELAY, **counts)
        shared = share([(tuple(row), row.turn) for row in rows])
        ids = [id_ for id_, *_ in shared if id_ is not None]
        return ids, [(*nonce,) for id_, *nonce, _ in shared if id_ is None]

    def in_flight(
        self, limit: int, after: Transaction | None = None
    ) -> Sequence[InFlight]:
        last: Nonce = (0, "", 0) if after is None else nonce_of(after)
        params = {**dict(zip(NONCE, last, strict=True)), "at_most": limit}

        def read(connection: Connection) -> Sequence[InFlight]:
            flying = read_transactions(connection.execute(queries.FLYING, params))
            sent: dict[Nonce, dict[str, Kind]]
            sent = {nonce_of(transaction): {} for transaction in flying}
            nonces = {"nonces": list(sent)}
            for chain_id, sender, nonce, tx_hash, kind in (
                connection.execute(queries.HASHES, nonces) if flying else ()
            ):
                sent[chain_id, sender, nonce][tx_hash] = kind
            return tuple(_in_flight(each, sent[nonce_of(each)]) for each in flying)

        return self._database.run(read)

    def open_below(
        self, chain_id: int, sender: str, nonce: int, limit: int
    ) -> Sequence[Transaction]:
        wallet = {"chain_id": chain_id, "sender": sender}
        at_most = limit
        while True:
            rows = self._database.rows(
                queries.BELOW, **wallet, nonce=nonce, at_most=at_most
            )
            found = read_transactions(rows)
            # An invented filler must not keep a wallet paused.
            genuine = [
                each
                for each in found
                if each.payments or self._macs.is_valid(each.mac, each)
            ]
            if len(genuine) >= limit or len(found) < at_most:
                return tuple(genuine[:limit])
            at_most *= 2

    def open_calls(self, chain_id: int) -> Sequence[Refund]:
        rows = self._database.rows(queries.OPEN_CALLS, chain_id=chain_id)
        return read_refunds(rows)

    def adopt(self, before: Refund, after: Refund) -> Refund:
        if before.transaction is not None:
            raise StaleStateError(f"refund {before.id} has a transaction")
        self._macs.require(before)
        transaction = self._macs.sealed(after.reserved())
        adopted = after.inside(transaction)
        self._apply([Change(before, adopted)])
        return adopted

    def fill(self, transaction: Transaction) -> None:
        values = fields_of(transactions, self._macs.sealed(transaction))

        def work(connection: Connection) -> None:
            # Without it, two processes could both find the nonce free.
            lock_chain(connection, transaction.chain_id)
            nonce = dict(zip(NONCE, nonce_of(transaction), strict=True))
            if connection.execute(queries.BY_NONCE, nonce).first() is not None:
                raise StaleStateError(f"nonce {transaction.nonce} is taken")
            connection.execute(RESERVE_TRANSACTION, values)

        self._database.transaction(work)

    def save(
        self,
        before: Refund | Transaction,
        after: Refund | Transaction,
        attempt: SignedTransaction | None = None,
        record: Record | None = None,
    ) -> None:
        self._apply([Change(before, after, attempt, record)])

    def save_all(self, changes: Sequence[Change]) -> Sequence[HotWalletError | None]:
        def save(some: Sequence[Change]) -> Sequence[None]:
            self._apply(some)
            return [None] * len(some)

        return all_or_each(changes, save)

    def attempts(self, transaction: Transaction) -> Sequence[SignedTransaction]:
        values = {name: getattr(transaction, name) for name in NONCE}
        rows = self._database.rows(queries.ATTEMPTS_OF, **values)
        return tuple(SignedTransaction(*row) for row in rows)

    def transactions(self, refund_id: str) -> Sequence[SignedTransaction]:
        rows = self._rows(queries.TRANSACTIONS, refund_id)
        return tuple(SignedTransaction(*row) for row in rows)

    def recent_max_fees(
        self, chain_id: int, sender: str, since: datetime, limit: int
    ) -> Sequence[int]:
        params = {"chain_id": chain_id, "sender": sender, "since": since}
        rows = self._database.rows(queries.MAX_FEES, **params, at_most=limit)
        return tuple(row.max_fee_per_gas for row in rows)

    def history(self, refund_id: str) -> Sequence[Move]:
        return tuple(Move(*row) for row in self._rows(queries.HISTORY, refund_id))

    def postpone_queue(
        self, queue: Queue, *, now: datetime, until: datetime, code: str
    ) -> int:
        change = postponing(*queue.names)
        params = {
            **{f"of_{name}": value for name, value in queue.names.items()},
            "now": now,
            "until": until,
            "code": code,
            "at_most": PART,
        }
        postponed, part = 0, PART
        while part == PART:
            part = self._database.write(lambda c: c.execute(change, params).rowcount)
            postponed += part
        return postponed

    def decided_refunds(
        self, now: datetime, since: datetime, limit: int
    ) -> Sequence[Refund]:
        rows = self._database.rows(DECIDED, now=now, since=since, at_most=limit)
        return read_refunds(rows)

    def request_cancellation(
        self, refund: Refund, at: datetime, record: Record
    ) -> bool:
        self._macs.require(refund)
        params = {"refund_id": refund.id, "at": at}

        def work(connection: Connection) -> bool:
            if connection.execute(_REQUEST, params).rowcount != 1:
                return False
            write(connection, self._macs, record)
            return True

        return self._database.transaction(work)

    def cancellation_requests(
        self, limit: int, after: str | None = None
    ) -> Sequence[Refund]:
        rows = self._database.rows(REQUESTED, after=after or "", at_most=limit)
        return read_refunds(rows)

    def _accept(self, given: Acceptance) -> tuple[Refund, bool] | HotWalletError:
        # Without a count no lock is needed, and PostgreSQL saves three round trips.
        lock = self._may_be_over_limit(given)
        is_one_statement = not lock and given.proposed is None
        database = self._database
        execute = database.write if is_one_statement else database.transaction
        try:
            return execute(self._acceptance(given, lock=lock))
        except HotWalletError as e:
            return e

    def _acceptance(
        self, given: Acceptance, *, lock: bool
    ) -> Work[tuple[Refund, bool]]:
        """Return what accepts a refund; raises ``InvalidInputError``."""
        refund = given.refund
        require_new(refund, is_proposed=given.proposed is not None)
        new = self._macs.sealed(refund)
        params = accepted_values(self._macs, new, given.record, given.signed)

        def work(connection: Connection) -> tuple[Refund, bool]:
            if refund.bound_sender is None and not given.is_restored:
                require_tenant_unblocked(connection, self._macs, refund.tenant)
            if insert_refund(connection, refund, params, lock=lock):
                # After the insertion: a repeated request is answered in any case.
                if lock and self._may_be_over_limit(given):
                    self._count_open(connection, given)
                if given.proposed is not None:
                    propose(connection, self._macs, given.proposed)
                return new, True
            return queries.find_conflict(connection, refund), False

        return work

    def _may_be_over_limit(self, given: Acceptance) -> bool:
        if given.max_open is None:
            return False
        count, at = self._open.get(given.refund.tenant, (0, -math.inf))
        is_recent = time.monotonic() - at < _COUNTED_FOR_SECONDS
        return not is_recent or count + _NEW_REFUNDS > given.max_open

    def _count_open(self, connection: Connection, given: Acceptance) -> None:
        at, tenant = time.monotonic(), given.refund.tenant
        count = queries.count_open(connection, tenant, given.max_open or 0)
        self._open[tenant] = count, at

    def _apply(self, changes: Sequence[Change]) -> None:
        writes = [write for each in changes for write in self._writes(each)]
        try:
            self._database.transaction(lambda c: apply_all(c, writes))
        except StaleStateError:
            if len(changes) > 1:
                raise
            moving = changes[0].before
            raise self._database.run(lambda c: find_reason(c, moving)) from None

    def _writes(self, change: Change) -> Iterator[Write]:
        """Return what stores *change*; raises as ``save``."""
        require_step(change)
        if change.before.status != change.after.status:
            require_authentic(self._macs, change.before)
        return writes_of(self._macs, change)

    def _rows(self, statement: Select[Any], refund_id: str) -> Sequence[Any]:
        if not is_storable(refund_id):
            return ()
        return self._database.rows(statement, refund_id=refund_id)


def _claim(
    connection: Connection, params: Mapping[str, Any]
) -> Sequence[Refund | Transaction]:
    """Claim what no other process claims of the ids and nonces, and return it."""
    claimed: list[Refund | Transaction] = []
    if params["nonces"]:
        rows = connection.execute(CLAIM_TRANSACTIONS, params).all()
        claimed += with_payments(connection, (Transaction(*row) for row in rows))
    if params["ids"]:
        rows = connection.execute(CLAIM_QUEUED, params).all()
        claimed += sorted((Refund(*row) for row in rows), key=attrgetter("id"))
    return claimed


def _in_flight(transaction: Transaction, sent: Mapping[str, Kind]) -> InFlight:
    # An adopted transaction has a hash and no signed bytes.
    known = dict.fromkeys([*sent, transaction.tx_hash or ""])
    noops = frozenset(each for each, kind in sent.items() if kind is Kind.NOOP)
    # Nodes reject a request for a text that is no hash, with all others in its batch.
    return InFlight(transaction, tuple(filter(is_transaction_hash, known)), noops)
