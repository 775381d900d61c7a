"""
Reservations: assigns the next nonces of a wallet to queued refunds.

All refunds of a batch get theirs in one transaction.  The conditions are part of each
statement, so a refund that no longer fulfils them gets no nonce and leaves no gap.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Connection, bindparam, exists, select, text

from backends.sql.advisory_locks import lock_chain_and_keys
from backends.sql.approvals import find_approved
from backends.sql.database import Tables
from backends.sql.hold_checks import find_holds_of, is_blocked, is_stopped
from backends.sql.key_rows import KeyRows
from backends.sql.prepared import execute
from backends.sql.spending import Spendings
from backends.sql.statements import (
    ASSIGNED,
    INSERT_AUDIT_RECORD,
    INSERT_MEMBERSHIP,
    INSERT_MOVE,
    RESERVE_TRANSACTION,
    UNCHANGED,
    Values,
    fields_of,
    had_transaction,
    names_stopped_token,
    parameter,
    parameters,
    record_values,
    refund_values,
)
from backends.sql.tables import keys, refunds, transactions, unrecorded, wallets
from backends.sql.validation import is_address
from backends.sql.wallet_rows import find_wallet, next_nonce
from backends.sql.write_path import all_or_each, find_reason
from signer.errors import (
    HotWalletError,
    KeyRotatedError,
    LimitReachedError,
    PolicyViolationError,
    StaleStateError,
    StoreError,
)
from signer.model.hold import Hold
from signer.model.payment import PaymentPurpose, PaymentState
from signer.model.refund import Refund
from signer.model.sealed_fields import changed
from signer.model.spending_limits import PaymentTotals, Spent
from signer.model.transaction import Transaction
from signer.model.wallet import Wallet
from signer.ports.refund_store import Reservation
from signer.row_macs import RowMACs


def _may_reserve() -> tuple[Any, ...]:
    """
    Return the conditions under which a nonce may be reserved.

    The process checked them before; the statement checks them again, since they may
    have changed.
    """
    chain_id, sender = parameter(refunds, "chain_id"), parameter(refunds, "sender")
    counted = bindparam("counted", type_=refunds.c.nonce.type)
    memo = bindparam("memo", type_=unrecorded.c.memo.type)
    not_paused = exists().where(
        wallets.c.chain_id == chain_id,
        wallets.c.sender == sender,
        wallets.c.paused_by.is_(None),
    )
    paid = exists().where(unrecorded.c.chain_id == chain_id, unrecorded.c.memo == memo)
    tenant = parameter(refunds, "tenant")
    # A refund is paid by the active key, a sweep by a former one.
    current = "keys.state = 'active' AND NOT :sweeps"
    former = "keys.state IN ('draining', 'retired') AND :sweeps"
    sweeps = bindparam("sweeps", type_=Boolean)
    may_pay = text(f"({current} OR {former})").bindparams(sweeps)
    # A failover may have pinned the same address to another key id.
    pinned = keys.c.key_id == parameter(transactions, "key_id")
    active = exists().where(keys.c.address == sender, pinned, may_pay)
    # A sweep is reserved only while its recipient is still the active key.
    recipients = keys.alias("recipients")
    is_active = (
        recipients.c.address == parameter(refunds, "recipient"),
        text("recipients.state = 'active'"),
    )
    pays_active = exists().where(*is_active) | ~sweeps
    not_behind = next_nonce(chain_id, sender) >= counted
    return (
        active,
        pays_active,
        not_paused,
        ~is_stopped(chain_id),
        ~names_stopped_token(),
        ~is_blocked(tenant),
        ~paid,
        refunds.c.cancel_requested_at.is_(None),
        not_behind,
        ~had_transaction(),
    )


_RESERVE = UNCHANGED.where(
    refunds.c.state == PaymentState.QUEUED, *_may_reserve()
).values(
    {
        **parameters(refunds, ASSIGNED),
        "nonce": next_nonce(
            parameter(refunds, "chain_id"), parameter(refunds, "sender")
        ),
    }
)

_RESERVE_ONE = _RESERVE.returning(refunds.c.id, refunds.c.nonce)

_NONCES = select(refunds.c.id, refunds.c.nonce).where(
    refunds.c.chain_id == parameter(refunds, "chain_id"),
    refunds.c.sender == parameter(refunds, "sender"),
    refunds.c.nonce >= bindparam("first", type_=refunds.c.nonce.type),
)


def reserve_together(
    connection: Connection,
    macs: RowMACs,
    reservations: Sequence[Reservation],
    drafts: Mapping[str, Refund],
    *,
    counted: int,
    hour: int | None,
) -> Mapping[str, Transaction | HotWalletError]:
    """
    Assign nonces in the transaction of *connection*, under the lock of the chain.

    *reservations* have one chain and one sender.  *drafts*, by refund id, are what
    they would become, but for the nonce.  If the lock were missing, the unique
    constraint on nonces would still hold.

    Returns:
        By refund id, its transaction or what forbids it; nothing for a refund whose
        conditions do not hold.

    Raises:
        SigningStoppedError: An operator stopped the chain.
        RowNotAuthenticError: Another program changed a stop of everything or the chain,
            or the wallet.
    """
    chain_id = reservations[0].refund.chain_id
    sender = str(drafts[reservations[0].refund.id].sender)
    lock_chain_and_keys(connection, chain_id)
    # The statement has the same conditions, and cannot verify MACs.
    holds = find_holds_of(connection, macs, [each.refund for each in reservations])
    wallet = find_wallet(connection, macs, chain_id, sender)
    if wallet is not None and not wallet.is_authentic:
        raise wallet.error()
    required = {digest for each in reservations for digest in each.approvals}
    approved = find_approved(connection, macs, required)
    spendings = Spendings(connection, macs, [r.refund for r in reservations], hour)
    forbidden = _count_all(spendings, reservations, holds, approved)
    allowed = [each for each in reservations if each.refund.id not in forbidden]
    rows = [_row(macs, each, drafts[each.refund.id], counted) for each in allowed]
    nonces = {} if wallet is None else _assign(connection, rows, wallet)
    if (
        len(reservations) > 1
        and len(nonces) < len(allowed)
        and any(each.permit for each in reservations)
    ):
        # The totals of later refunds count one that gets no nonce: take each alone.
        raise StaleStateError("a refund of the batch was changed meanwhile")
    spendings.save(nonces)
    reserved = {
        id_: _with_nonce(macs, drafts[id_], nonce) for id_, nonce in nonces.items()
    }
    intents = {
        each.refund.id: each.draft_intent(nonces[each.refund.id])
        for each in reservations
        if each.draft_intent is not None and each.refund.id in nonces
    }
    if reserved:
        rows = [
            {**refund_values(macs, each.refund, after)}
            | fields_of(transactions, after.transaction)
            for each in allowed
            if (after := reserved.get(each.refund.id)) is not None
        ]
        for statement in (RESERVE_TRANSACTION, INSERT_MEMBERSHIP, INSERT_MOVE):
            execute(connection, statement, rows)
    if intents:
        records = [record_values(macs, intent) for intent in intents.values()]
        execute(connection, INSERT_AUDIT_RECORD, records)
    return forbidden | {
        id_: changed(after.reserved(), intent=intents.get(id_))
        for id_, after in reserved.items()
    }


def _row(
    macs: RowMACs, reservation: Reservation, draft: Refund, counted: int
) -> Values:
    """Return the parameters of ``_RESERVE``."""
    before = reservation.refund
    return {
        **refund_values(macs, before, draft),
        **fields_of(transactions, draft.transaction),
        "counted": counted,
        "memo": before.memo,
        "sweeps": before.purpose is PaymentPurpose.SWEEP,
    }


def _with_nonce(macs: RowMACs, draft: Refund, nonce: int) -> Refund:
    transaction = changed(draft.reserved(), nonce=nonce)
    return draft.inside(macs.sealed(transaction))


def _count_all(
    spendings: Spendings,
    reservations: Sequence[Reservation],
    holds: Mapping[str, Hold],
    approved: Collection[str],
) -> dict[str, HotWalletError]:
    """Count what may be reserved; return what forbids the others, by refund id."""
    forbidden: dict[str, HotWalletError] = {}
    for each in reservations:
        refund = each.refund
        if refund.id in holds:
            forbidden[refund.id] = holds[refund.id].error()
        elif not each.approvals.issubset(approved):
            forbidden[refund.id] = StaleStateError(
                f"the approval of the refund {refund.id} has changed"
            )
        elif refund.bound_sender is None:
            try:
                spendings.add(each)
            except (LimitReachedError, PolicyViolationError) as e:
                forbidden[refund.id] = e
    return forbidden


def _assign(
    connection: Connection, rows: Sequence[Values], wallet: Wallet
) -> dict[str, int]:
    """Return the nonces that were assigned, by refund id."""
    if not rows:
        return {}
    if len(rows) == 1:
        found = execute(connection, _RESERVE_ONE, rows)
        return {row.id: row.nonce for row in found}
    # One statement after the other: each sees the nonces of those before it.
    execute(connection, _RESERVE, rows)
    found = connection.execute(_NONCES, {**rows[0], "first": wallet.next_nonce})
    return {row.id: row.nonce for row in found}


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
    ) -> Sequence[Transaction | HotWalletError]:
        if not is_address(sender):
            raise ValueError("sender is not an address with an EIP-55 checksum")
        if len({each.refund.chain_id for each in reservations}) > 1:
            raise ValueError("the refunds are of several chains")
        drafts = {
            each.refund.id: each.refund.assigned(
                each.refund.draft_transaction(
                    at,
                    sender=sender,
                    nonce=counted,
                    key_id=key_id,
                    gas_limit=each.gas_limit,
                )
            )
            for each in reservations
        }

        def reserve(
            some: Sequence[Reservation],
        ) -> Sequence[Transaction | HotWalletError]:
            for each in some:
                self._macs.require(each.refund)
            found = self._database.transaction(
                lambda c: reserve_together(
                    c,
                    self._macs,
                    some,
                    drafts,
                    counted=counted,
                    hour=self._database.hour(),
                )
            )
            return [
                found.get(each.refund.id)
                or self._find_reason(each.refund, drafts[each.refund.id])
                for each in some
            ]

        return all_or_each(reservations, reserve)

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

    def _find_reason(self, before: Refund, reserved: Refund) -> StoreError:
        """Return why the conditions of a reservation do not hold."""
        active = self._database.run(lambda c: KeyRows(c, self._macs).active())
        is_swept = reserved.purpose is PaymentPurpose.SWEEP
        address = reserved.recipient if is_swept else reserved.sender
        if active is None or active.address != address:
            return KeyRotatedError("another key is active now")
        if not is_swept and active.key_id != reserved.key_id:
            return KeyRotatedError("the active key was moved to its replica meanwhile")
        return self._database.run(lambda c: find_reason(c, before))
