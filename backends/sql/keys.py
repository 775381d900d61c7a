"""The key ring: its rows, and what a change of the active key does to refunds."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from backends.sql.advisory_locks import lock_keys
from backends.sql.approvals import use_approval
from backends.sql.audit_rows import write
from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.key_rows import KeyRows
from backends.sql.refund_rows import PAID, same_nonce
from backends.sql.tables import (
    IS_MOVABLE,
    IS_OPEN,
    attempts,
    keys,
    refund_moves,
    refunds,
    transaction_payments,
    transactions,
    wallets,
)
from backends.sql.wallet_rows import pause_wallets
from signer.errors import ConflictError, KeyRotatedError, StaleStateError
from signer.model.approval import ApprovalUse
from signer.model.audit_record import Record
from signer.model.key import ROTATION_HOLD, SIGNING, Key, KeyState
from signer.model.payment import PaymentPurpose, PaymentState
from signer.model.refund import Status
from signer.model.transaction import TransactionStatus
from signer.row_macs import RowMACs


_FIXED = frozenset({KeyState.ACTIVE, KeyState.BLOCKED})

_IDLE = (
    sa.select(keys)
    .where(
        sa.text("state = 'draining'"),
        keys.c.address.in_(sa.bindparam("settled", expanding=True)),
        ~sa.select(wallets.c.sender)
        .where(wallets.c.sender == keys.c.address, wallets.c.paused_by.is_not(None))
        .exists(),
        ~sa.select(transactions.c.nonce)
        .where(sa.text(IS_MOVABLE), transactions.c.sender == keys.c.address)
        .exists(),
    )
    .order_by(keys.c.epoch)
)


_ended = refunds.alias("ended")

# Nothing was signed with them.
_UNSIGNED = (
    transactions.c.sender == sa.bindparam("of_address"),
    transactions.c.status == TransactionStatus.RESERVED,
    ~sa.select(attempts.c.tx_hash).where(same_nonce(attempts, transactions)).exists(),
    # Another program ended a refund: no worker signs for it, and it never changes.
    ~sa.select(_ended.c.id)
    .where(
        same_nonce(_ended, transactions),
        _ended.c.state != PaymentState.ASSIGNED,
    )
    .exists(),
)

# In the order in which workers change a batch, so that a revocation cannot deadlock.
_LOCK_UNSIGNED = (
    sa.select(transactions.c.nonce)
    .where(*_UNSIGNED)
    .order_by(transactions.c.chain_id, transactions.c.nonce)
    .with_for_update(of=transactions)
)

_REQUEUE = (
    sa.update(refunds)
    .where(same_nonce(refunds, transactions), *_UNSIGNED)
    .values(
        state=PaymentState.QUEUED,
        # Above each revision that it had with its transaction.
        version=refunds.c.version + transactions.c.version + 1,
        updated_at=sa.bindparam("at", type_=UTCDateTime),
        due_at=sa.bindparam("at", type_=UTCDateTime),
        attempts=0,
        blocked_by=None,
        sender=None,
        nonce=None,
        position=None,
    )
    .returning(refunds.c.id, refunds.c.version)
)

# A process that restores a nonce meanwhile keeps it.
_FREED = (
    *_UNSIGNED,
    ~sa.select(refunds.c.id).where(same_nonce(refunds, transactions)).exists(),
)

_FORGET = (
    sa.delete(transaction_payments).where(
        sa.select(transactions.c.nonce)
        .where(same_nonce(transactions, transaction_payments), *_FREED)
        .exists()
    ),
    sa.delete(transactions).where(*_FREED),
)

# A signed sweep may still be mined; no other refund pays a key of the ring.
_PAYS_IT = (
    (refunds.c.purpose == PaymentPurpose.SWEEP)
    & (refunds.c.recipient == sa.bindparam("of_address"))
    & transactions.c.tx_hash.is_not(None)
)

_STRANDED = (
    PAID.with_only_columns(refunds.c.id)
    .where(
        sa.text(IS_OPEN),
        (refunds.c.sender + sa.literal_column("''") == sa.bindparam("of_address"))
        | _PAYS_IT,
    )
    .order_by(refunds.c.id)
    .limit(sa.bindparam("at_most"))
)


_PROVE = (
    sa.update(keys)
    .where(keys.c.address == sa.bindparam("of_address"), sa.text("state = 'active'"))
    .values(proved_at=sa.bindparam("at", type_=UTCDateTime))
)


class KeyTables(Tables):
    """Implements ``signer.ports.KeyStore``."""

    def keys(self) -> Sequence[Key]:
        return self._database.run(lambda c: self._ring(c).all())

    def ring_version(self) -> tuple[int, int]:
        return self._database.run(lambda c: self._ring(c).version())

    def active_key(self) -> Key | None:
        return self._database.run(lambda c: self._ring(c).active())

    def enrol(self, key: Key) -> Key:
        def work(connection: sa.Connection) -> Key:
            lock_keys(connection, shared=False)
            rows = self._ring(connection)
            active = rows.active()
            if active is not None:
                return active
            before = rows.find_same(key)
            epoch = rows.next_epoch()
            return rows.upsert(before, key, state=KeyState.ACTIVE, epoch=epoch)

        return self._database.transaction(work)

    def begin_rotation(
        self, key: Key, now: datetime, hold: timedelta = ROTATION_HOLD
    ) -> Key:
        def work(connection: sa.Connection) -> Key:
            lock_keys(connection, shared=False)
            rows = self._ring(connection)
            pending = rows.find_released_pending(now)
            if pending is not None and pending.address != key.address:
                rows.change(pending, now, **_end_rotation(pending, "abandoned"))
            before = rows.find_same(key)
            if before is not None and before.state in _FIXED:
                raise StaleStateError(f"the key is {before.state}")
            return rows.upsert(
                before,
                key,
                state=KeyState.PENDING,
                held_until=now + hold,
            )

        return self._database.transaction(work)

    def wait_for(self, key: Key, blocked_by: str, at: datetime) -> Key:
        waiting = {"held_until": None, "blocked_by": blocked_by}
        return self._database.transaction(
            lambda c: self._ring(c).change(key, at, **waiting)
        )

    def reject(self, key: Key, reason: str, at: datetime) -> Key:
        return self._database.transaction(
            lambda c: self._ring(c).change(key, at, **_end_rotation(key, reason))
        )

    def activate(
        self,
        key: Key,
        at: datetime,
        record: Record,
        *,
        replacing: Key | None,
        block: bool = False,
        use: ApprovalUse | None = None,
    ) -> Key:
        old_state = KeyState.BLOCKED if block else KeyState.DRAINING

        def work(connection: sa.Connection) -> Key:
            lock_keys(connection, shared=False)
            rows = self._ring(connection)
            active = rows.active()
            if _activation(active) != _activation(replacing):
                raise KeyRotatedError("another key is active now")
            if active is not None:
                rows.change(active, at, state=old_state)
            if active is not None and block:
                _revoke(connection, self._macs, active.address, at)
            epoch = rows.next_epoch()
            changed = rows.change(
                key,
                at,
                state=KeyState.ACTIVE,
                epoch=epoch,
                held_until=None,
                blocked_by=None,
            )
            use_approval(connection, self._macs, use)
            write(connection, self._macs, record)
            return changed

        return self._database.transaction(work)

    def block(
        self, key: Key, at: datetime, record: Record, use: ApprovalUse | None = None
    ) -> Key:
        if not key.is_former:
            raise StaleStateError(f"the key is {key.state}")
        ended = {"state": KeyState.BLOCKED, "held_until": None, "blocked_by": None}

        def work(connection: sa.Connection) -> Key:
            lock_keys(connection, shared=False)
            rows = self._ring(connection)
            if key.state is KeyState.PENDING:
                rows.find_released_pending(at)
            changed = rows.change(key, at, **ended)
            _revoke(connection, self._macs, key.address, at)
            use_approval(connection, self._macs, use)
            write(connection, self._macs, record)
            return changed

        return self._database.transaction(work)

    def reinstate(
        self, key: Key, at: datetime, record: Record, use: ApprovalUse | None = None
    ) -> Key:
        if key.state is not KeyState.BLOCKED:
            raise StaleStateError(f"the key is {key.state}")

        def work(connection: sa.Connection) -> Key:
            lock_keys(connection, shared=False)
            changed = self._ring(connection).change(key, at, state=KeyState.DRAINING)
            # The wallets of a revoked key are compared only up to that time.
            pause_wallets(connection, self._macs, key.address, at)
            use_approval(connection, self._macs, use)
            write(connection, self._macs, record)
            return changed

        return self._database.transaction(work)

    def relocate(self, key: Key, key_id: str, at: datetime, record: Record) -> Key:
        if key.state not in SIGNING:
            raise StaleStateError(f"the key is {key.state}")

        def work(connection: sa.Connection) -> Key:
            lock_keys(connection, shared=False)
            rows = self._ring(connection)
            rows.find_released_pending(at)
            if rows.find_by_id(key.backend, key_id) is not None:
                raise ConflictError("a key of the ring already has this key id")
            changed = rows.change(key, at, key_id=key_id)
            write(connection, self._macs, record)
            return changed

        return self._database.transaction(work)

    def prove(self, address: str, at: datetime) -> None:
        params = {"of_address": address, "at": at}
        self._database.write(lambda c: c.execute(_PROVE, params))

    def stranded(self, address: str, limit: int) -> Sequence[str]:
        rows = self._database.rows(_STRANDED, of_address=address, at_most=limit)
        return tuple(id_ for (id_,) in rows)

    def retire(
        self, settled: Sequence[str], at: datetime, draft: Callable[[Key], Record]
    ) -> Sequence[tuple[Key, Record]]:
        params = {"settled": list(settled)}
        if not settled or not self._database.rows(_IDLE, **params):
            return ()

        def work(connection: sa.Connection) -> Sequence[tuple[Key, Record]]:
            lock_keys(connection, shared=False)
            rows = self._ring(connection)
            retired = []
            for idle in rows.select(_IDLE, **params):
                key = rows.change(idle, at, state=KeyState.RETIRED)
                retired.append((key, draft(key)))
                write(connection, self._macs, retired[-1][1])
            return retired

        return self._database.transaction(work)

    def _ring(self, connection: sa.Connection) -> KeyRows:
        return KeyRows(connection, self._macs)


def _revoke(
    connection: sa.Connection, macs: RowMACs, address: str, at: datetime
) -> None:
    # A process that is signing one of these transactions now fails on its version, and
    # does not send the unrecorded bytes.  A ledger restored from a backup may have lost
    # bytes that were sent, so the wallets are paused until they are reconciled.
    params = {"of_address": address, "at": at}
    connection.execute(_LOCK_UNSIGNED, params)
    requeued = connection.execute(_REQUEUE, params).all()
    for statement in _FORGET:
        connection.execute(statement, params)
    # The next reconciliation with the chain, which may have transactions that the
    # ledger lost, must precede the next nonce.
    pause_wallets(connection, macs, address, at)
    moves = [
        {"refund_id": id_, "version": version, "status": Status.QUEUED, "at": at}
        for id_, version in requeued
    ]
    if moves:
        connection.execute(sa.insert(refund_moves), moves)


def _activation(key: Key | None) -> tuple[str, int | None] | None:
    # Without the key id: a failover to a replica is not a rotation.
    return None if key is None else (key.address, key.epoch)


def _end_rotation(key: Key, reason: str) -> dict[str, Any]:
    state = KeyState.REJECTED if key.epoch is None else KeyState.DRAINING
    return {"state": state, "held_until": None, "blocked_by": reason}
