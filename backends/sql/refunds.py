"""The refunds of the ledger: accept, claim, save, read."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, Executable, Select

from backends.sql import queries
from backends.sql.database import Tables
from backends.sql.due_refunds import CLAIM, DUE, share
from backends.sql.holds import require_unblocked
from backends.sql.refund_approvals import propose
from backends.sql.savepoints import Work
from backends.sql.statements import (
    Step,
    Values,
    event_values,
    record_values,
    signed_values,
    values,
)
from backends.sql.validation import (
    is_storable,
    is_transaction_hash,
    require_new,
    require_step,
    require_texts,
)
from backends.sql.write_path import (
    all_or_each,
    apply_step,
    apply_together,
    insert_refund,
)
from signer.errors import HotWalletError, InvalidInputError, StaleStateError
from signer.model.acceptance import Acceptance
from signer.model.audit_record import Record
from signer.model.refund import (
    InFlight,
    Kind,
    Move,
    Refund,
    SignedTransaction,
    Status,
)
from signer.model.signed_request import SignedRequest
from signer.ports.refund_store import Change


# Longer than any claim or delay lasts.
_MAX_DELAY = timedelta(minutes=2)

_TRIES = 5
"""How often a process finds refunds that others claim at the same moment."""


class RefundTables(Tables):
    """Refunds of ``RefundStore``: their moves and signed bytes."""

    def find(self, tenant: str, idempotency_key: str) -> Refund | None:
        if not (is_storable(tenant) and is_storable(idempotency_key)):
            return None
        rows = self._database.rows(
            queries.BY_KEY, of_tenant=tenant, key=idempotency_key
        )
        return Refund(*rows[0]) if rows else None

    def find_reference(self, tenant: str, reference: str) -> Refund | None:
        if not (is_storable(tenant) and is_storable(reference)):
            return None
        rows = self._database.rows(
            queries.BY_REFERENCE, of_tenant=tenant, name=reference
        )
        return Refund(*rows[0]) if rows else None

    def find_nonce(self, chain_id: int, sender: str, nonce: int) -> Refund | None:
        wallet = {"chain_id": chain_id, "sender": sender}
        rows = self._database.rows(queries.BY_NONCE, nonce=nonce, **wallet)
        return Refund(*rows[0]) if rows else None

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

    def require_authentic(self, refund: Refund) -> None:
        self._macs.require(refund)

    def find_earlier(self, refund: Refund, tenants: Collection[str]) -> Refund | None:
        require_texts(refund)
        return self._database.run(lambda c: queries.find_earlier(c, refund, tenants))

    def get(self, refund_id: str) -> Refund | None:
        rows = self._rows(queries.BY_ID, refund_id)
        return Refund(*rows[0]) if rows else None

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
            Refund(*row)
            for row in rows
            if row.status not in statuses or row.blocked_by is not None
        )

    def find_only_due(self, now: datetime) -> Refund | None:
        due = self._due(now, at_most=2, ahead=1)
        refund = self.get(due[0]) if len(due) == 1 else None
        return refund if refund is not None and refund.version == 0 else None

    def claim(self, now: datetime, until: datetime, limit: int) -> Sequence[Refund]:
        window = {"now": now, "far": now + _MAX_DELAY, "until": until}
        for _ in range(_TRIES):
            due = self._due(now, at_most=limit, ahead=limit // 2)
            if not due:
                break
            claim = partial(_execute, statement=CLAIM, params={**window, "ids": due})
            if rows := self._database.write(claim):
                return sorted((Refund(*row) for row in rows), key=lambda each: each.id)
        return ()

    def _due(self, now: datetime, **counts: int) -> Sequence[str]:
        params = {"now": now, "far": now + _MAX_DELAY, **counts}
        return share([(row.id, row.turn) for row in self._database.rows(DUE, **params)])

    def in_flight(self, limit: int, after: str | None = None) -> Sequence[InFlight]:
        params = {"after": after or "", "at_most": limit}

        def read(connection: Connection) -> Sequence[InFlight]:
            flying = [Refund(*r) for r in connection.execute(queries.FLYING, params)]
            sent: dict[str, dict[str, Kind]] = {refund.id: {} for refund in flying}
            ids = {"refund_ids": list(sent)}
            for refund_id, tx_hash, kind in (
                connection.execute(queries.HASHES, ids) if flying else ()
            ):
                sent[refund_id][tx_hash] = kind
            return tuple(_in_flight(refund, sent[refund.id]) for refund in flying)

        return self._database.run(read)

    def open_below(
        self, chain_id: int, sender: str, nonce: int, limit: int
    ) -> Sequence[Refund]:
        rows = self._database.rows(
            queries.BELOW, chain_id=chain_id, sender=sender, nonce=nonce, at_most=limit
        )
        return tuple(Refund(*row) for row in rows)

    def open_calls(self, chain_id: int) -> Sequence[Refund]:
        rows = self._database.rows(queries.OPEN_CALLS, chain_id=chain_id)
        return tuple(Refund(*row) for row in rows)

    def adopt(self, before: Refund, after: Refund) -> None:
        self.require_authentic(before)
        step = Step.HOLD if after.status is Status.RESERVED else Step.ADOPT
        if apply_step(self._database, step, values(before, after)) is None:
            raise _stale(before)

    def save(
        self,
        before: Refund,
        after: Refund,
        transaction: SignedTransaction | None = None,
        record: Record | None = None,
    ) -> None:
        self._save(Change(before, after, transaction, record))

    def save_all(self, changes: Sequence[Change]) -> Sequence[HotWalletError | None]:
        def save(some: Sequence[Change]) -> Sequence[None]:
            if len(some) == 1:
                self._save(some[0])
            else:
                apply_together(self._database, [self._step(each) for each in some])
            return [None] * len(some)

        return all_or_each(changes, save)

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

    def _accept(self, given: Acceptance) -> tuple[Refund, bool] | HotWalletError:
        # Without a limit no lock is needed, and PostgreSQL saves two round trips.
        lock = given.max_open is not None
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
        params = {
            **self._values(None, new, record=given.record),
            **signed_values(refund, given.signed),
        }

        def work(connection: Connection) -> tuple[Refund, bool]:
            if refund.bound_sender is None and not given.is_restored:
                require_unblocked(connection, self._macs, refund.tenant)
            if insert_refund(connection, given, params, lock=lock) is not None:
                if given.proposed is not None:
                    propose(connection, self._macs, given.proposed)
                return new, True
            return queries.find_conflict(connection, refund), False

        return work

    def _save(self, change: Change) -> None:
        step, params = self._step(change)
        if apply_step(self._database, step, params) is None:
            raise _stale(change.before)

    def _step(self, change: Change) -> tuple[Step, Values]:
        """Return the step that *change* is, and its parameters; raises as ``save``."""
        before, after, transaction = change.before, change.after, change.transaction
        require_step(before, after, transaction)
        step = Step.SAVE if transaction is None else Step.RECORD
        if transaction is None and after.status is before.status:
            step = Step.POSTPONE
        else:
            self.require_authentic(before)
        return step, self._values(before, after, transaction, change.record)

    def _values(
        self,
        before: Refund | None,
        after: Refund,
        transaction: SignedTransaction | None = None,
        record: Record | None = None,
    ) -> Values:
        params = {
            **values(before, after, transaction),
            **event_values(self._macs, before, after),
        }
        if record is None:
            return params
        return {**params, **record_values(self._macs, record)}

    def _rows(self, statement: Select[Any], refund_id: str) -> Sequence[Any]:
        if not is_storable(refund_id):
            return ()
        return self._database.rows(statement, refund_id=refund_id)


def _execute(
    connection: Connection, statement: Executable, params: Mapping[str, Any]
) -> Sequence[Any]:
    return connection.execute(statement, params).all()


def _stale(refund: Refund) -> StaleStateError:
    return StaleStateError(f"refund {refund.id} was changed meanwhile")


def _in_flight(refund: Refund, sent: Mapping[str, Kind]) -> InFlight:
    # An adopted refund has a hash and no signed bytes.
    known = dict.fromkeys([*sent, refund.tx_hash or ""])
    noops = frozenset(each for each, kind in sent.items() if kind is Kind.NOOP)
    # Nodes reject a request for a text that is no hash, with all others in its batch.
    return InFlight(refund, tuple(filter(is_transaction_hash, known)), noops)
