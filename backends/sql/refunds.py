"""The refunds of the ledger: accept, claim, save, postpone, cancel, read."""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from backends.sql import queries
from backends.sql.advisory_locks import lock_chain, lock_tenants
from backends.sql.approvals import DECIDED, propose
from backends.sql.audit_rows import write
from backends.sql.claim_order import (
    CLAIM_QUEUED,
    CLAIM_TRANSACTIONS,
    DUE,
    DUE_ELSEWHERE,
    DUE_SWEEPS,
    NEW_QUEUED,
    PART,
    postponing,
    share,
)
from backends.sql.columns import UTCDateTime
from backends.sql.database import Database, Tables
from backends.sql.group_commit import savepoint
from backends.sql.hold_checks import find_blocks
from backends.sql.prepared import execute
from backends.sql.refund_rows import (
    NONCE,
    PAYING_GIVEN,
    REFUNDS,
    Nonce,
    nonce_of,
    read_refund,
    read_refunds,
    read_transactions,
    require_authentic,
    with_members,
    with_payments,
)
from backends.sql.statements import (
    RESERVE_TRANSACTION,
    Values,
    accepted_values,
    fields_of,
)
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
    insert_refunds,
    writes_of,
)
from signer.errors import (
    HotWalletError,
    InvalidInputError,
    OpenRefundsLimitError,
    StaleStateError,
)
from signer.model.acceptance import Acceptance, SignedRequest
from signer.model.audit_record import Record
from signer.model.payment import PaymentPurpose
from signer.model.refund import UNRESERVED, InFlight, Move, Queue, Refund, Status
from signer.model.sealed_fields import from_row
from signer.model.transaction import (
    Kind,
    SignedTransaction,
    Transaction,
    count_own,
)
from signer.ports.refund_store import ANY_PLACES, Change, Places
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
        sa.text(f"{_IS_CANCELLABLE} AND cancel_requested_at IS NOT NULL"),
        refunds.c.id > sa.bindparam("after"),
    )
    .order_by(refunds.c.id)
    .limit(sa.bindparam("at_most"))
)

_REQUEST = (
    sa.update(refunds)
    .where(
        refunds.c.id == sa.bindparam("refund_id"),
        sa.text(f"{_IS_CANCELLABLE} AND cancel_requested_at IS NULL"),
    )
    .values(cancel_requested_at=sa.bindparam("at", type_=UTCDateTime))
)


@dataclass(frozen=True, slots=True)
class _New:
    """What ``accept_all`` was given, its rows, and whether to count open refunds."""

    given: Acceptance
    refund: Refund
    values: Values
    is_counted: bool

    @property
    def is_asked(self) -> bool:
        """Whether its tenant asks for it, which a block forbids."""
        return self.refund.bound_sender is None and not self.given.is_restored

    @property
    def is_one_statement(self) -> bool:
        """Whether one statement of PostgreSQL stores it with others, without a lock."""
        is_refund = self.refund.purpose is PaymentPurpose.REFUND
        return is_refund and not self.is_counted and self.given.proposed is None


class RefundTables(Tables):
    """Refunds of ``RefundStore``: their moves and signed bytes."""

    def __init__(self, database: Database, macs: RowMACs | None = None) -> None:
        super().__init__(database, macs)
        # By tenant: how many refunds were open, and when.
        self._open: dict[str, tuple[int, float]] = {}
        # By chain and vault: what each composition that is not mined pays, by token.
        self._paid: dict[tuple[int, str | None], dict[str, Counter[str]]] = {}

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
        key = {"chain_id": chain_id, "sender": sender, "nonce": nonce}

        def read(connection: sa.Connection) -> Sequence[Transaction]:
            found = read_transactions(connection.execute(queries.BY_NONCE, key))
            return with_members(connection, found)

        return next(iter(self._database.run(read)), None)

    def accept_all(
        self, acceptances: Sequence[Acceptance]
    ) -> Sequence[tuple[Refund, bool] | HotWalletError]:
        results: dict[int, tuple[Refund, bool] | HotWalletError] = {}
        new: dict[int, _New] = {}
        for index, given in enumerate(acceptances):
            try:
                new[index] = self._new(given)
            except InvalidInputError as e:
                results[index] = e
        tenants = {each.refund.tenant for each in new.values()}
        done = self._database.together(
            self._accept,
            [(each, each.is_one_statement) for each in new.values()],
            key=" ".join(sorted(tenants)),
        )
        results.update(zip(new, done, strict=True))
        return [results[index] for index in range(len(acceptances))]

    def signed_request(self, refund_id: str) -> SignedRequest | None:
        rows = self._rows(queries.SIGNED_REQUEST, refund_id)
        return SignedRequest(*rows[0]) if rows else None

    def require_authentic(self, moving: Refund | Transaction) -> None:
        if (
            isinstance(moving, Refund)
            and moving.transaction is not None
            and not moving.reserved().is_composed
        ):
            # The transaction has more payments, or others.
            whole = self.find_transaction(*nonce_of(moving))
            if whole is not None and moving.id in whole.payment_ids:
                self._macs.require(moving)
                moving = whole
        require_authentic(self._macs, moving)

    def find_earlier(self, refund: Refund, tenants: Collection[str]) -> Refund | None:
        require_texts(refund)
        return self._database.run(lambda c: queries.find_earlier(c, refund, tenants))

    def earlier_nonces(self, refund_id: str) -> Sequence[Nonce]:
        return [(*row,) for row in self._rows(queries.EARLIER_NONCES, refund_id)]

    def get(self, refund_id: str) -> Refund | None:
        rows = self._rows(queries.BY_ID, refund_id)
        return read_refund(rows[0]) if rows else None

    def find_advanced(
        self, refund_ids: Collection[str], statuses: Collection[Status]
    ) -> Sequence[Refund]:
        parts = queries.advanced([*refund_ids], [*statuses])
        rows = [self._database.rows(queries.ADVANCED, **part) for part in parts]
        return read_refunds(chain.from_iterable(rows))

    def claim(
        self,
        now: datetime,
        until: datetime,
        limit: int,
        *,
        unclaimed: int = 0,
        places: Places = ANY_PLACES,
    ) -> Sequence[Refund | Transaction]:
        window = {"now": now, "far": now + _MAX_DELAY, "until": until}
        for _ in range(_TRIES):
            ids, nonces = self._due(now, limit, places)
            if not (ids or nonces):
                break
            if len(ids) <= unclaimed and not nonces:
                rows = self._database.rows(NEW_QUEUED, ids=ids)
                if len(rows) == len(ids):
                    return [from_row(Refund, row) for row in rows]
            params = {**window, "ids": ids, "nonces": nonces}
            work = partial(_claim, params=params)
            if claimed := self._database.transaction(work):
                return claimed
        return ()

    def _due(
        self, now: datetime, limit: int, places: Places
    ) -> tuple[list[str], list[Nonce]]:
        """Return the ids of due refunds, and the nonces of due transactions."""
        statement: sa.Executable = DUE
        queued = limit if places.free is None else min(limit, places.free)
        params: dict[str, Any] = {"at_most": limit, "ahead": limit // 2}
        if places.free == 0:
            statement, queued = DUE_SWEEPS, limit
        elif places.full:
            statement, params["full"] = DUE_ELSEWHERE, list(places.full)
        params |= {"now": now, "far": now + _MAX_DELAY, "places": queued}
        rows = self._database.rows(statement, **params)
        shared = share([(tuple(row), row.turn) for row in rows])
        ids = [id_ for id_, *_ in shared if id_ is not None]
        return ids, [(*nonce,) for id_, *nonce, _ in shared if id_ is None]

    def in_flight(
        self, limit: int, after: Transaction | None = None
    ) -> Sequence[InFlight]:
        last: Nonce = (0, "", 0) if after is None else nonce_of(after)
        params = {**dict(zip(NONCE, last, strict=True)), "at_most": limit}

        def read(connection: sa.Connection) -> Sequence[InFlight]:
            rows = connection.execute(queries.FLYING, params)
            flying = [from_row(Transaction, row) for row in rows]
            sent: dict[Nonce, dict[str, Kind]]
            sent = {nonce_of(transaction): {} for transaction in flying}
            for *nonce, tx_hash, kind in (
                connection.execute(queries.HASHES, params) if flying else ()
            ):
                sent.get((*nonce,), {})[tx_hash] = kind
            return tuple(_in_flight(each, sent[nonce_of(each)]) for each in flying)

        return self._database.run(read)

    def with_payments(
        self, transactions: Sequence[Transaction]
    ) -> Sequence[Transaction]:
        nonces = [nonce_of(each) for each in transactions]
        return read_transactions(self._database.rows(PAYING_GIVEN, nonces=nonces))

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

    def unmined_amounts(
        self, chain_id: int, vault: str | None, token_address: str
    ) -> Mapping[str, int]:
        of_vault = chain_id, vault
        known = {**self._paid.get(of_vault, {})}
        rows = self._database.rows(queries.UNMINED, chain_id=chain_id, vault=vault)
        new = [(chain_id, *nonce) for *nonce, made in rows if made not in known]
        payments = defaultdict[tuple[str, int], list[Sequence[Any]]](list)
        for sender, nonce, *payment in (
            self._database.rows(queries.AMOUNTS, nonces=new) if new else ()
        ):
            payments[sender, nonce].append(payment)
        amounts = Counter[str]()
        for sender, nonce, composition in rows:
            paid = known.get(composition)
            if paid is None:
                found = payments[sender, nonce]
                count = count_own((id_ for id_, *_ in found), composition)
                # Without a match all count: rather wait than pay above the cap.
                paid = Counter[str]()
                for _, token, amount in found[:count]:
                    paid[token] += amount
                if count is not None:
                    known[composition] = paid
            if paid[token_address]:
                amounts[sender] += paid[token_address]
        self._paid[of_vault] = {made: known[made] for *_, made in rows if made in known}
        return amounts

    def find_reverted(self, refund_ids: Collection[str]) -> frozenset[str]:
        rows = self._database.rows(queries.REVERTED, ids=[*refund_ids])
        return frozenset(payment_id for (payment_id,) in rows)

    def adopt(self, before: Refund, after: Refund) -> Refund:
        if before.transaction is not None:
            raise StaleStateError(f"refund {before.id} has a transaction")
        self._macs.require(before)
        transaction = self._macs.sealed(after.reserved())
        adopted = after.inside(transaction)
        self._apply([Change(before, adopted)])
        return adopted

    def adopt_batch(self, payments: Sequence[Refund], draft: Transaction) -> None:
        for each in payments:
            if each.transaction is not None:
                raise StaleStateError(f"refund {each.id} has a transaction")
            self._macs.require(each)
        row = self._macs.sealed(draft)
        self._apply(
            [
                Change(each, each.assigned(row, position))
                for position, each in enumerate(payments)
            ]
        )

    def fill(self, transaction: Transaction) -> None:
        values = fields_of(transactions, self._macs.sealed(transaction))

        def work(connection: sa.Connection) -> None:
            # Without it, two processes could both find the nonce free.
            lock_chain(connection, transaction.chain_id)
            nonce = dict(zip(NONCE, nonce_of(transaction), strict=True))
            if connection.execute(queries.BY_NONCE, nonce).first() is not None:
                raise StaleStateError(f"nonce {transaction.nonce} is taken")
            execute(connection, RESERVE_TRANSACTION, [values])

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

    def has_open(self) -> bool:
        return bool(self._database.rows(queries.HAS_OPEN)[0][0])

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

        def work(connection: sa.Connection) -> bool:
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

    def _new(self, given: Acceptance) -> _New:
        """Return the rows of *given*; raises ``InvalidInputError``."""
        require_new(given.refund, is_proposed=given.proposed is not None)
        refund = self._macs.sealed(given.refund)
        values = accepted_values(self._macs, refund, given.record, given.signed)
        return _New(given, refund, values, self._may_exceed(given))

    def _accept(
        self, connection: sa.Connection, new: Sequence[_New]
    ) -> Sequence[tuple[Refund, bool] | HotWalletError]:
        """Accept refunds of any tenants, in the transaction of *connection*."""
        if not all(each.is_one_statement for each in new):
            lock_tenants(connection, {each.refund.tenant for each in new})
        asking = {each.refund.tenant for each in new if each.is_asked}
        blocks = find_blocks(connection, self._macs, asking)
        results: dict[int, tuple[Refund, bool] | HotWalletError] = {
            index: blocks[each.refund.tenant].error()
            for index, each in enumerate(new)
            if each.is_asked and each.refund.tenant in blocks
        }
        left = [index for index in range(len(new)) if index not in results]
        room = self._find_room(connection, [new[index] for index in left])
        near = [index for index in left if new[index].refund.tenant in room]
        others = [index for index in left if new[index].refund.tenant not in room]
        inserted = self._insert(connection, [new[index] for index in others])
        results.update(zip(others, inserted, strict=True))
        for index in near:
            results[index] = self._insert_within(connection, new[index], room)
        return [results[index] for index in range(len(new))]

    def _may_exceed(self, given: Acceptance) -> bool:
        if given.max_open is None:
            return False
        count, at = self._open.get(given.refund.tenant, (0, -math.inf))
        is_recent = time.monotonic() - at < _COUNTED_FOR_SECONDS
        return not is_recent or count + _NEW_REFUNDS > given.max_open

    def _find_room(
        self, connection: sa.Connection, new: Sequence[_New]
    ) -> dict[str, int]:
        """Return how many more refunds a tenant may have, if *new* could exceed it."""
        limits: dict[str, int] = {}
        for each in new:
            if each.is_counted and self._may_exceed(each.given):
                limits[each.refund.tenant] = each.given.max_open or 0
        of_tenant = Counter(each.refund.tenant for each in new)
        room: dict[str, int] = {}
        for tenant, max_open in limits.items():
            at = time.monotonic()
            count = queries.count_open(connection, tenant, max_open + 1)
            self._open[tenant] = count + of_tenant[tenant], at
            if count + of_tenant[tenant] > max_open:
                room[tenant] = max_open - count
        return room

    def _insert(
        self, connection: sa.Connection, new: Sequence[_New]
    ) -> Sequence[tuple[Refund, bool] | HotWalletError]:
        if not new:
            return ()
        rows = [(each.refund, each.values) for each in new]
        found = insert_refunds(connection, rows)
        results: list[tuple[Refund, bool] | HotWalletError] = []
        for each in new:
            if each.refund.id in found:
                if each.given.proposed is not None:
                    propose(connection, self._macs, each.given.proposed)
                results.append((each.refund, True))
                continue
            try:
                earlier = queries.find_conflict(connection, each.refund)
            except HotWalletError as e:
                results.append(e)
            else:
                results.append((earlier, False))
        return results

    def _insert_within(
        self, connection: sa.Connection, new: _New, room: dict[str, int]
    ) -> tuple[Refund, bool] | HotWalletError:
        """Insert *new* if its tenant has *room*: a repeated request needs none."""
        tenant, max_open = new.refund.tenant, new.given.max_open
        try:
            with savepoint(connection):
                [result] = self._insert(connection, [new])
                if isinstance(result, tuple) and result[1]:
                    if max_open is not None and room[tenant] <= 0:
                        raise queries.too_many_open(max_open)
                    room[tenant] -= 1
        except OpenRefundsLimitError as e:
            return e
        return result

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

    def _rows(self, statement: sa.Select[Any], refund_id: str) -> Sequence[Any]:
        if not is_storable(refund_id):
            return ()
        return self._database.rows(statement, refund_id=refund_id)


def _claim(
    connection: sa.Connection, params: Mapping[str, Any]
) -> Sequence[Refund | Transaction]:
    """Claim what no other process claims of the ids and nonces, and return it."""
    claimed: list[Refund | Transaction] = []
    if params["nonces"]:
        rows = connection.execute(CLAIM_TRANSACTIONS, params).all()
        found = (from_row(Transaction, row) for row in rows)
        claimed += with_payments(connection, found)
    if params["ids"]:
        rows = connection.execute(CLAIM_QUEUED, params).all()
        queued = (from_row(Refund, row) for row in rows)
        claimed += sorted(queued, key=attrgetter("id"))
    return claimed


def _in_flight(transaction: Transaction, sent: Mapping[str, Kind]) -> InFlight:
    # An adopted transaction has a hash and no signed bytes.
    known = dict.fromkeys([*sent, transaction.tx_hash or ""])
    noops = frozenset(each for each, kind in sent.items() if kind is Kind.NOOP)
    # Nodes reject a request for a text that is no hash, with all others in its batch.
    return InFlight(transaction, tuple(filter(is_transaction_hash, known)), noops)
