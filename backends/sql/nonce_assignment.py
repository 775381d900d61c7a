"""
Reservations: assigns the next nonces of a wallet to queued refunds.

All refunds of a claim get theirs in one transaction, under the lock of the chain: they
are counted once.  Those that a vault pays share a nonce.  The conditions are part of
each statement.  If a refund no longer fulfils them, the transaction is repeated without
it, so it leaves no gap.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from backends.sql.advisory_locks import lock_chain_and_keys
from backends.sql.approvals import find_approved
from backends.sql.database import Tables
from backends.sql.hold_checks import find_holds_of, is_blocked, is_stopped
from backends.sql.key_rows import KeyRows
from backends.sql.prepared import execute, parameter
from backends.sql.queries import count_in_flight
from backends.sql.spending import Spendings
from backends.sql.statements import (
    ASSIGNED,
    HAS_OTHERS,
    INSERT_AUDIT_RECORD,
    INSERT_MEMBERSHIP,
    INSERT_MOVES,
    RESERVE_TRANSACTION,
    Values,
    fields_of,
    had_others_than,
    names_stopped_token,
    record_values,
    refund_values,
    update_unchanged,
)
from backends.sql.tables import keys, refunds, transactions, unrecorded, wallets
from backends.sql.validation import is_address
from backends.sql.wallet_rows import find_wallet
from backends.sql.write_path import all_or_each, find_reason
from signer.errors import (
    HotWalletError,
    KeyRotatedError,
    LimitReachedError,
    PolicyViolationError,
    RowNotAuthenticError,
    StaleStateError,
    StoreError,
    TooManyInFlightError,
)
from signer.model.hold import Hold
from signer.model.payment import PaymentPurpose, PaymentState
from signer.model.refund import Refund
from signer.model.sealed_fields import changed
from signer.model.spending_limits import PaymentTotals, Spent
from signer.model.transaction import Transaction
from signer.ports.refund_store import Reservation
from signer.row_macs import RowMACs


def _may_reserve() -> tuple[Any, ...]:
    """
    Return the conditions under which a nonce may be reserved.

    The process checked them before; the statement checks them again, since they may
    have changed.
    """
    chain_id, sender = parameter(refunds, "chain_id"), parameter(refunds, "sender")
    memo = sa.bindparam("memo", type_=unrecorded.c.memo.type)
    not_paused = sa.exists().where(
        wallets.c.chain_id == chain_id,
        wallets.c.sender == sender,
        wallets.c.paused_by.is_(None),
    )
    paid = sa.exists().where(
        unrecorded.c.chain_id == chain_id, unrecorded.c.memo == memo
    )
    tenant = parameter(refunds, "tenant")
    sweeps = sa.bindparam("sweeps", type_=sa.Boolean)
    # A refund is paid by the active key, a sweep by a former one.
    current = sa.text("keys.state = 'active'") & ~sweeps
    former = sa.text("keys.state IN ('draining', 'retired')") & sweeps
    # A failover may have pinned the same address to another key id.
    pinned = keys.c.key_id == parameter(transactions, "key_id")
    active = sa.exists().where(keys.c.address == sender, pinned, current | former)
    # A sweep is reserved only while its recipient is still the active key.
    recipients = keys.alias("recipients")
    is_active = (
        recipients.c.address == parameter(refunds, "recipient"),
        sa.text("recipients.state = 'active'"),
    )
    pays_active = sa.exists().where(*is_active) | ~sweeps
    return (
        active,
        pays_active,
        not_paused,
        ~is_stopped(chain_id),
        ~names_stopped_token(),
        ~is_blocked(tenant),
        ~paid,
        refunds.c.cancel_requested_at.is_(None),
        ~had_others_than(sa.bindparam("earlier", type_=sa.Integer)),
    )


_RESERVE = update_unchanged(
    refunds,
    (*ASSIGNED, "nonce"),
    refunds.c.state == PaymentState.QUEUED,
    *_may_reserve(),
)


class _UnreservedError(StaleStateError):
    """The conditions of the refunds *ids* do not hold: the others wait for none."""

    def __init__(self, ids: Collection[str]) -> None:
        super().__init__("refunds of the batch were changed meanwhile")
        self.ids = ids


def reserve_together(
    connection: sa.Connection,
    macs: RowMACs,
    reservations: Sequence[Reservation],
    draft: Callable[[Sequence[Reservation], int], Transaction],
    *,
    counted: int,
    hour: int | None,
    window: int | None,
    per_batch: int,
) -> Mapping[str, Transaction | HotWalletError]:
    """
    Assign nonces of one wallet in the transaction of *connection*.

    It has the lock of the chain, which all *reservations* have in common.  If the lock
    were missing, the unique constraint on nonces would still hold.  *draft* returns
    the transaction that pays some of them with a nonce.

    Returns:
        By refund id, its transaction or what forbids it.

    Raises:
        SigningStoppedError: An operator stopped the chain.
        RowNotAuthenticError: Another program changed a stop of everything or the chain,
            or the wallet.
        _UnreservedError: The conditions of some refunds do not hold.
    """
    chain_id = reservations[0].refund.chain_id
    sender = draft(reservations[:1], 0).sender
    lock_chain_and_keys(connection, chain_id)
    # The statement has the same conditions, and cannot verify MACs.
    holds = find_holds_of(connection, macs, [each.refund for each in reservations])
    wallet = find_wallet(connection, macs, chain_id, sender)
    if wallet is not None and not wallet.is_authentic:
        raise wallet.error()
    required = {digest for each in reservations for digest in each.approvals}
    approved = find_approved(connection, macs, required)
    spendings = Spendings(connection, macs, [r.refund for r in reservations], hour)
    places = len(reservations)
    if window is not None:
        places = window - count_in_flight(connection, sender).get(chain_id, 0)
    batches = _Batches(places, per_batch)
    forbidden = _count_all(spendings, reservations, holds, approved, batches)
    if not batches.composed:
        return forbidden
    if wallet is None or wallet.next_nonce < counted:
        raise _UnreservedError([r.refund.id for some in batches.composed for r in some])
    reserved = [
        _sealed(macs, draft(some, wallet.next_nonce + place), some)
        for place, some in enumerate(batches.composed)
    ]
    inserted = [
        {**fields_of(transactions, each), "payments": len(each.payments)}
        for each in reserved
    ]
    rows = [
        {**values, **_row(macs, each, after)}
        for some, transaction, values in zip(
            batches.composed, reserved, inserted, strict=True
        )
        for each, after in zip(some, transaction.payments, strict=True)
    ]
    # In the order in which workers save them.
    rows.sort(key=itemgetter("refunds_id"))
    done = execute(connection, _RESERVE, rows).scalars().all()
    if len(done) != len(rows):
        raise _UnreservedError({row["refunds_id"] for row in rows} - {*done})
    spendings.save()
    execute(connection, RESERVE_TRANSACTION, inserted)
    execute(connection, INSERT_MEMBERSHIP, rows)
    execute(connection, INSERT_MOVES, inserted)
    # All of a batch would draft the same record.
    drafts = [some[0].draft_intent for some in batches.composed]
    reserved = [
        each if draft_intent is None else changed(each, intent=draft_intent(each))
        for each, draft_intent in zip(reserved, drafts, strict=True)
    ]
    intents = [each.intent for each in reserved if each.intent is not None]
    if intents:
        records = [record_values(macs, intent) for intent in intents]
        execute(connection, INSERT_AUDIT_RECORD, records)
    return forbidden | {
        payment.id: each for each in reserved for payment in each.payments
    }


def _row(macs: RowMACs, reservation: Reservation, after: Refund) -> Values:
    """Return the parameters of a refund in ``_RESERVE`` and in the inserts."""
    before = reservation.refund
    return {
        **refund_values(macs, before, after),
        "memo": before.memo,
        "sweeps": before.purpose is PaymentPurpose.SWEEP,
        "earlier": reservation.earlier,
    }


def _sealed(
    macs: RowMACs, draft: Transaction, paying: Sequence[Reservation]
) -> Transaction:
    """Return *draft* with its MAC and its payments."""
    row = macs.sealed(draft)
    return row.paying(
        each.refund.assigned(row, position) for position, each in enumerate(paying)
    )


@dataclass(slots=True)
class _Batch:
    """What one transaction pays, and its gas limit."""

    paying: list[Reservation] = field(default_factory=list)
    gas: int = 0

    def added_gas(self, reservation: Reservation) -> int:
        """Return the gas that *reservation* adds to what is signed."""
        return reservation.gas_limit if self.paying else find_gas([reservation])


class _Batches:
    """
    Composes transactions: up to *places*, each of up to *per_batch* refunds.

    Those of each further attempt have half as many: a node may have refused the first
    for its gas, or one refund may have reverted it.
    """

    def __init__(self, places: int, per_batch: int) -> None:
        self.composed: list[list[Reservation]] = []
        self._places = places
        self._per_batch = per_batch
        self._open: dict[tuple[str, str, int], _Batch] = {}

    def find(self, reservation: Reservation) -> _Batch | None:
        """Return the batch that *reservation* would get; None if there is no place."""
        # Commands that look at the ledger load no library of transactions.
        from signer.crypto.transactions import MAX_GAS  # noqa: PLC0415

        batch = self._open.get(_kind_of(reservation))
        if (
            batch is not None
            and reservation.vault is not None
            and len(batch.paying) < self._per_batch >> reservation.earlier
            and batch.gas + batch.added_gas(reservation) <= MAX_GAS
        ):
            return batch
        return _Batch() if len(self.composed) < self._places else None

    def add(self, reservation: Reservation, batch: _Batch) -> None:
        """Add *reservation* to *batch*, which ``find`` has returned for it."""
        if not batch.paying:
            self.composed.append(batch.paying)
            self._open[_kind_of(reservation)] = batch
        batch.gas += batch.added_gas(reservation)
        batch.paying.append(reservation)


def _kind_of(reservation: Reservation) -> tuple[str, str, int]:
    """Return what the refunds of a batch have in common."""
    token = reservation.refund.token_address
    return reservation.vault or "", token, reservation.earlier


def find_gas(paying: Sequence[Reservation]) -> int:
    """Return the gas limit of the transaction of *paying*."""
    from signer.chain.vault import batch_gas  # noqa: PLC0415  As above.

    limits = [each.gas_limit for each in paying]
    return limits[0] if paying[0].vault is None else batch_gas(limits)


def _count_all(
    spendings: Spendings,
    reservations: Sequence[Reservation],
    holds: Mapping[str, Hold],
    approved: Collection[str],
    batches: _Batches,
) -> dict[str, HotWalletError]:
    """
    Count what may be reserved; return what forbids the others, by refund id.

    The first ones that nothing forbids are in *batches* then.
    """
    forbidden: dict[str, HotWalletError] = {}
    for each in reservations:
        refund, batch = each.refund, batches.find(each)
        if refund.id in holds:
            forbidden[refund.id] = holds[refund.id].error()
        elif not each.approvals.issubset(approved):
            forbidden[refund.id] = StaleStateError(
                f"the approval of the refund {refund.id} has changed"
            )
        elif batch is None:
            forbidden[refund.id] = TooManyInFlightError(
                "as many transactions as are allowed have no receipt"
            )
        else:
            try:
                if refund.bound_sender is None:
                    spendings.add(each, batch.added_gas(each))
                batches.add(each, batch)
            except (LimitReachedError, PolicyViolationError) as e:
                forbidden[refund.id] = e
    return forbidden


class ReservationTables(Tables):
    """The reservations of ``signer.ports.RefundStore``."""

    def reserve_all(
        self,
        reservations: Sequence[Reservation],
        *,
        sender: str,
        key_id: str,
        counted: int,
        at: datetime,
        window: int | None = None,
        per_batch: int = 1,
    ) -> Sequence[Transaction | HotWalletError]:
        if not is_address(sender):
            raise ValueError("sender is not an address with an EIP-55 checksum")
        if len({each.refund.chain_id for each in reservations}) > 1:
            raise ValueError("the refunds are of several chains")

        def draft(paying: Sequence[Reservation], nonce: int) -> Transaction:
            return Transaction.draft(
                [each.refund for each in paying],
                at,
                sender=sender,
                nonce=nonce,
                key_id=key_id,
                gas_limit=find_gas(paying),
                vault=paying[0].vault,
            )

        def reserve(
            some: Sequence[Reservation],
        ) -> Sequence[Transaction | HotWalletError]:
            return self._reserve(
                some, draft, counted=counted, window=window, per_batch=per_batch
            )

        return all_or_each(reservations, reserve)

    def count_in_flight(self, sender: str) -> Mapping[int, int]:
        return self._database.run(lambda c: count_in_flight(c, sender))

    def spent(self, refund: Refund) -> tuple[Spent, Spent]:
        hour = self._database.hour()
        return self._database.run(
            lambda c: Spendings(c, self._macs, [refund], hour).of(refund)
        )

    def payment_totals(self, refund: Refund) -> PaymentTotals:
        hour = self._database.hour()
        return self._database.run(
            lambda c: Spendings(c, self._macs, [refund], hour).totals(refund)
        )

    def _reserve(
        self,
        reservations: Sequence[Reservation],
        draft: Callable[[Sequence[Reservation], int], Transaction],
        *,
        counted: int,
        window: int | None,
        per_batch: int,
    ) -> Sequence[Transaction | HotWalletError]:
        """Reserve in one transaction, and in another one without what cannot be."""
        for each in reservations:
            self._macs.require(each.refund)

        def reserve(
            some: Sequence[Reservation],
        ) -> Mapping[str, Transaction | HotWalletError]:
            return self._database.transaction(
                lambda c: reserve_together(
                    c,
                    self._macs,
                    some,
                    draft,
                    counted=counted,
                    hour=self._database.hour(),
                    window=window,
                    per_batch=per_batch,
                )
            )

        unreserved: Collection[str] = ()
        try:
            found = reserve(reservations)
        except _UnreservedError as e:
            unreserved = e.ids
            others = [r for r in reservations if r.refund.id not in unreserved]
            found = reserve(others) if others else {}
        return [
            self._find_reason(each, draft([each], counted))
            if each.refund.id in unreserved
            else found[each.refund.id]
            for each in reservations
        ]

    def _find_reason(self, given: Reservation, draft: Transaction) -> StoreError:
        """Return why the conditions of a reservation do not hold."""
        before = given.refund
        active = self._database.run(lambda c: KeyRows(c, self._macs).active())
        is_swept = before.purpose is PaymentPurpose.SWEEP
        address = before.recipient if is_swept else draft.sender
        if active is None or active.address != address:
            return KeyRotatedError("another key is active now")
        if not is_swept and active.key_id != draft.key_id:
            return KeyRotatedError("the active key was moved to its replica meanwhile")
        had = {
            "refunds_id": before.id,
            "refunds_before": before.version,
            "earlier": given.earlier,
        }
        reason = self._database.run(lambda c: find_reason(c, before))
        is_forged = isinstance(reason, RowNotAuthenticError)
        if not is_forged and self._database.rows(HAS_OTHERS, **had)[0][0]:
            return RowNotAuthenticError(
                f"the refund {before.id} was given transactions of which its row does"
                " not know: another program changed it"
            )
        return reason
