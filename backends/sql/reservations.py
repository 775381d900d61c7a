"""
Reservations: how queued refunds get the next nonces of their wallet.

All refunds of a batch get theirs in one transaction.  The conditions are part of each
statement, so a refund that no longer fulfils them gets no nonce and leaves no gap.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Connection, bindparam, exists, select, text

from backends.sql.advisory_locks import lock_chain_and_keys
from backends.sql.database import Tables
from backends.sql.holds import find_forbidding, is_blocked, is_stopped
from backends.sql.key_rows import KeyRows
from backends.sql.refund_approvals import find_approved
from backends.sql.schema import attempts, keys, refunds, sightings, wallets
from backends.sql.spending import Spendings
from backends.sql.statements import (
    INSERT_AUDIT_RECORD,
    INSERT_MOVE,
    RESERVED,
    UNCHANGED,
    Values,
    names_stopped_token,
    parameter,
    parameters,
    record_values,
    values,
)
from backends.sql.validation import is_address
from backends.sql.wallet_rows import find_wallet, next_nonce
from backends.sql.write_path import all_or_each
from signer.errors import (
    HotWalletError,
    KeyRotatedError,
    LimitReachedError,
    PolicyViolationError,
    StaleStateError,
)
from signer.model.audit_record import Record
from signer.model.hold import Hold
from signer.model.payment_totals import PaymentTotals
from signer.model.refund import PaymentPurpose, Refund, Status
from signer.model.spending_limits import Spent
from signer.model.wallet import Wallet
from signer.ports.refund_store import Reservation
from signer.row_macs import RowMACs


_Reserved = tuple[int, Record | None]
"""A nonce, and the audit record of the intent to sign."""


def _may_reserve() -> tuple[Any, ...]:
    """
    Return the conditions under which a nonce may be reserved.

    The process checked them before; the statement checks them again, since they may
    have changed.
    """
    chain_id, sender = parameter(refunds, "chain_id"), parameter(refunds, "sender")
    counted = bindparam("counted", type_=refunds.c.nonce.type)
    mark = bindparam("mark", type_=sightings.c.mark.type)
    not_paused = exists().where(
        wallets.c.chain_id == chain_id,
        wallets.c.sender == sender,
        wallets.c.paused_by.is_(None),
    )
    paid = exists().where(sightings.c.chain_id == chain_id, sightings.c.mark == mark)
    tenant = parameter(refunds, "tenant")
    # A refund is paid by the active key, a sweep by a former one.
    current = "keys.state = 'active' AND NOT :sweeps"
    former = "keys.state IN ('draining', 'retired') AND :sweeps"
    sweeps = bindparam("sweeps", type_=Boolean)
    may_pay = text(f"({current} OR {former})").bindparams(sweeps)
    # A failover may have pinned the same address to another key id.
    pinned = keys.c.key_id == parameter(refunds, "key_id")
    active = exists().where(keys.c.address == sender, pinned, may_pay)
    # A sweep is reserved only while its recipient is still the active key.
    recipients = keys.alias("recipients")
    is_active = (
        recipients.c.address == parameter(refunds, "recipient"),
        text("recipients.state = 'active'"),
    )
    pays_active = exists().where(*is_active) | ~sweeps
    not_behind = next_nonce(chain_id, sender) >= counted
    # A changed row could ask for a second nonce; signed bytes are never deleted.
    signed = exists().where(attempts.c.refund_id == parameter(refunds, "id"))
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
        ~signed,
    )


_RESERVE = UNCHANGED.where(refunds.c.status == Status.QUEUED, *_may_reserve()).values(
    {
        **parameters(refunds, RESERVED),
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
    rows: Sequence[Values],
    hour: int | None,
) -> Mapping[str, _Reserved | HotWalletError]:
    """
    Assign nonces in the transaction of *connection*, under the lock of the chain.

    *reservations* have one chain and one sender, and *rows* are their parameters.  If
    the lock were missing, the unique constraint on nonces would still hold.

    Returns:
        By refund id, the nonce and the intent, or what forbids it; nothing for a refund
        whose conditions do not hold.

    Raises:
        SigningStoppedError: An operator stopped the chain.
        RowNotAuthenticError: Another program changed a stop of everything or the chain,
            or the wallet.
    """
    chain_id = reservations[0].refund.chain_id
    lock_chain_and_keys(connection, chain_id)
    # The statement has the same conditions, and cannot verify MACs.
    holds = find_forbidding(connection, macs, [each.refund for each in reservations])
    wallet = find_wallet(connection, macs, chain_id, rows[0]["refunds_sender"])
    if wallet is not None and not wallet.is_authentic:
        raise wallet.error()
    required = {digest for each in reservations for digest in each.approvals}
    approved = find_approved(connection, macs, required)
    spendings = Spendings(connection, macs, [r.refund for r in reservations], hour)
    forbidden = _count_all(spendings, reservations, holds, approved)
    allowed = [row for row in rows if row["refunds_id"] not in forbidden]
    nonces = {} if wallet is None else _assign(connection, allowed, wallet)
    if (
        len(reservations) > 1
        and len(nonces) < len(allowed)
        and any(each.permit for each in reservations)
    ):
        # The totals of later refunds count one that gets no nonce: take each alone.
        raise StaleStateError("a refund of the batch was changed meanwhile")
    spendings.save(nonces)
    reserved = [row for row in allowed if row["refunds_id"] in nonces]
    if reserved:
        connection.execute(INSERT_MOVE, reserved)
    intents = _record_intents(connection, macs, reservations, nonces)
    assigned = {id_: (nonce, intents.get(id_)) for id_, nonce in nonces.items()}
    return forbidden | assigned


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
        found = connection.execute(_RESERVE_ONE, rows[0])
        return {row.id: row.nonce for row in found}
    # One statement after the other: each sees the nonces of those before it.
    connection.execute(_RESERVE, rows)
    found = connection.execute(_NONCES, {**rows[0], "first": wallet.next_nonce})
    return {row.id: row.nonce for row in found}


def _record_intents(
    connection: Connection,
    macs: RowMACs,
    reservations: Sequence[Reservation],
    nonces: Mapping[str, int],
) -> Mapping[str, Record]:
    """Write the intents to sign, and return them by refund id."""
    intents = {
        each.refund.id: each.draft_intent(nonces[each.refund.id])
        for each in reservations
        if each.draft_intent is not None and each.refund.id in nonces
    }
    if intents:
        rows = [record_values(macs, intent) for intent in intents.values()]
        connection.execute(INSERT_AUDIT_RECORD, rows)
    return intents


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
    ) -> Sequence[Refund | HotWalletError]:
        if not is_address(sender):
            raise ValueError("sender is not an address with an EIP-55 checksum")
        if len({each.refund.chain_id for each in reservations}) > 1:
            raise ValueError("the refunds are of several chains")
        after = {
            each.refund.id: each.refund.with_status(
                Status.RESERVED,
                at,
                sender=sender,
                key_id=key_id,
                gas_limit=each.gas_limit,
            )
            for each in reservations
        }

        def reserve(some: Sequence[Reservation]) -> Sequence[Refund | HotWalletError]:
            rows = [self._row(each, after[each.refund.id], counted) for each in some]
            found = self._database.transaction(
                lambda c: reserve_together(
                    c, self._macs, some, rows, self._database.hour()
                )
            )
            return [self._result(each, after, found) for each in some]

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

    def _row(self, reservation: Reservation, after: Refund, counted: int) -> Values:
        before = reservation.refund
        self._macs.require(before)
        return {
            **values(before, after),
            "counted": counted,
            "mark": before.mark,
            "sweeps": before.purpose is PaymentPurpose.SWEEP,
        }

    def _result(
        self,
        reservation: Reservation,
        after: Mapping[str, Refund],
        found: Mapping[str, _Reserved | HotWalletError],
    ) -> Refund | HotWalletError:
        reserved = after[reservation.refund.id]
        result = found.get(reserved.id)
        if isinstance(result, tuple):
            nonce, intent = result
            return replace(reserved, nonce=nonce, intent=intent)
        return result or self._find_reason(reserved)

    def _find_reason(self, reserved: Refund) -> StaleStateError:
        """Return why the conditions of a reservation do not hold."""
        active = self._database.run(lambda c: KeyRows(c, self._macs).active())
        is_swept = reserved.purpose is PaymentPurpose.SWEEP
        address = reserved.recipient if is_swept else reserved.sender
        if active is None or active.address != address:
            return KeyRotatedError("another key is active now")
        if not is_swept and active.key_id != reserved.key_id:
            return KeyRotatedError("the active key was moved to its replica meanwhile")
        return StaleStateError(f"refund {reserved.id} or its wallet has changed")
