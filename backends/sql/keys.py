"""The key ring's rows: which key signs, and what the others did."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    text,
    update,
)

from backends.sql.audit import write
from backends.sql.columns import UTCDateTime
from backends.sql.database import Database
from backends.sql.locks import hold_keys
from backends.sql.schema import (
    IS_OPEN,
    keys,
    refund_moves,
    refunds,
    transactions,
    wallets,
)
from signer.audit.record import Record
from signer.errors import ConflictError, RotationInProgressError, StaleStateError
from signer.keys import FORMER, ROTATION_HOLD, Key, KeyState
from signer.refunds.refund import Status


_CHANGING = (
    "state",
    "updated_at",
    "epoch",
    "requested_by",
    "held_until",
    "blocked_by",
    "version",
)

_FIXED = frozenset({KeyState.ACTIVE, KeyState.BLOCKED})

_ALL = select(keys).order_by(keys.c.epoch.desc().nulls_last(), keys.c.created_at)

_ACTIVE = select(keys).where(text("state = 'active'"))

_PENDING = select(keys).where(text("state = 'pending'"))

_BY_ADDRESS = select(keys).where(keys.c.address == bindparam("of_address"))

_BY_ID = select(keys).where(
    keys.c.backend == bindparam("of_backend"), keys.c.key_id == bindparam("of_key")
)

_NEXT_EPOCH = select(func.coalesce(func.max(keys.c.epoch), 0) + 1)

_NEW = insert(keys)

_CHANGE = (
    update(keys)
    .where(
        keys.c.address == bindparam("of_address"),
        keys.c.version == bindparam("before"),
    )
    .values(
        {name: bindparam(f"new_{name}", type_=keys.c[name].type) for name in _CHANGING}
    )
)

_IDLE = (
    select(keys)
    .where(
        text("state = 'draining'"),
        keys.c.address.in_(bindparam("settled", expanding=True)),
        ~select(wallets.c.sender)
        .where(wallets.c.sender == keys.c.address, wallets.c.paused_by.is_not(None))
        .exists(),
        ~select(refunds.c.id)
        .where(text(IS_OPEN), refunds.c.sender == keys.c.address)
        .exists(),
    )
    .order_by(keys.c.epoch)
)


_GIVEN_UP = (
    update(refunds)
    .where(
        refunds.c.sender == bindparam("of_address"),
        refunds.c.status == Status.RESERVED,
        ~select(transactions.c.refund_id)
        .where(transactions.c.refund_id == refunds.c.id)
        .exists(),
    )
    .values(
        status=Status.QUEUED,
        version=refunds.c.version + 1,
        updated_at=bindparam("at", type_=UTCDateTime),
        due_at=bindparam("at", type_=UTCDateTime),
        attempts=0,
        blocked_by=None,
        sender=None,
        key_id=None,
        nonce=None,
        gas_limit=None,
    )
    .returning(refunds.c.id, refunds.c.version)
)

_STRANDED = (
    select(refunds.c.id)
    .where(
        text(IS_OPEN),
        refunds.c.sender + literal_column("''") == bindparam("of_address"),
    )
    .order_by(refunds.c.id)
    .limit(bindparam("at_most"))
)


class KeyTables:
    """The methods of ``KeyStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keys(self) -> Sequence[Key]:
        """Return every key: the latest epoch first, then those that never served."""
        rows = self._database.run(lambda c: c.execute(_ALL).all())
        return tuple(Key(*row) for row in rows)

    def active_key(self) -> Key | None:
        """Return the key that signs; None before the first one was enrolled."""
        return self._database.run(lambda c: _one(c, _ACTIVE))

    def enrol(self, key: Key) -> Key:
        """
        Make *key* the active one, unless there is an active key.

        Returns:
            The active key, whoever enrolled it.
        """

        def work(connection: Connection) -> Key:
            hold_keys(connection, shared=False)
            active = _one(connection, _ACTIVE)
            if active is not None:
                return active
            known = _known(connection, key)
            epoch = connection.execute(_NEXT_EPOCH).scalar_one()
            return _put(connection, known, key, state=KeyState.ACTIVE, epoch=epoch)

        return self._database.transaction(work)

    def begin_rotation(self, key: Key, now: datetime) -> Key:
        """
        Make *key* the pending one, or take up its rotation again.

        A pending key whose hold is over is not in the way; another one becomes what it
        was before.

        Raises:
            RotationInProgressError: Somebody holds the pending key.
            StaleStateError: *key* is the active one, or blocked.
        """

        def work(connection: Connection) -> Key:
            hold_keys(connection, shared=False)
            pending = _one(connection, _PENDING)
            if pending is not None and _is_held(pending, now):
                raise RotationInProgressError("another rotation is under way")
            if pending is not None and pending.address != key.address:
                _change(connection, pending, now, **_ended(pending, "abandoned"))
            known = _known(connection, key)
            if known is not None and known.state in _FIXED:
                raise StaleStateError(f"the key is {known.state}")
            return _put(
                connection,
                known,
                key,
                state=KeyState.PENDING,
                held_until=now + ROTATION_HOLD,
            )

        return self._database.transaction(work)

    def wait_for(self, key: Key, blocked_by: str, at: datetime) -> Key:
        """
        Keep a pending *key* pending, and let go of it; *blocked_by* says why.

        Raises:
            StaleStateError: The stored version is not that of *key*.
        """
        waiting = {"held_until": None, "blocked_by": blocked_by}
        return self._database.transaction(lambda c: _change(c, key, at, **waiting))

    def reject(self, key: Key, reason: str, at: datetime) -> Key:
        """
        End the rotation to a pending *key*: rejected, or draining as it was before.

        Raises:
            StaleStateError: The stored version is not that of *key*.
        """
        return self._database.transaction(
            lambda c: _change(c, key, at, **_ended(key, reason))
        )

    def activate(
        self, key: Key, at: datetime, record: Record, *, block: bool = False
    ) -> Key:
        """
        Make a pending *key* the active one, and the active one draining or blocked.

        Once this returns, no reservation with the old key is under way either.  With
        *block*, refunds that it has a nonce for and never signed are queued again.
        *record* is written with it.

        Raises:
            StaleStateError: The stored version is not that of *key*.
        """
        old_state = KeyState.BLOCKED if block else KeyState.DRAINING

        def work(connection: Connection) -> Key:
            hold_keys(connection, shared=False)
            active = _one(connection, _ACTIVE)
            if active is not None:
                _change(connection, active, at, state=old_state)
            if active is not None and block:
                _requeue(connection, active.address, at)
            epoch = connection.execute(_NEXT_EPOCH).scalar_one()
            changed = _change(
                connection,
                key,
                at,
                state=KeyState.ACTIVE,
                epoch=epoch,
                held_until=None,
                blocked_by=None,
            )
            write(connection, record)
            return changed

        return self._database.transaction(work)

    def block(self, key: Key, at: datetime, record: Record) -> Key:
        """
        Give up a former *key* as compromised: it signs nothing any more.

        Refunds that it never signed are queued again, as ``activate`` does it.

        Raises:
            StaleStateError: The stored version is not that of *key*, or it is neither
                draining nor retired.
        """
        if key.state not in FORMER:
            raise StaleStateError(f"the key is {key.state}")

        def work(connection: Connection) -> Key:
            hold_keys(connection, shared=False)
            changed = _change(connection, key, at, state=KeyState.BLOCKED)
            _requeue(connection, key.address, at)
            write(connection, record)
            return changed

        return self._database.transaction(work)

    def stranded(self, address: str, limit: int) -> Sequence[str]:
        """Return the ids of open refunds with nonces of *address*, oldest first."""
        given = {"of_address": address, "at_most": limit}
        rows = self._database.run(lambda c: c.execute(_STRANDED, given).all())
        return tuple(id_ for (id_,) in rows)

    def retire(
        self, settled: Sequence[str], at: datetime, draft: Callable[[Key], Record]
    ) -> Sequence[tuple[Key, Record]]:
        """
        Retire the draining keys that no open refund has, and no paused wallet.

        Only those with an address in *settled*.

        Returns:
            Each with the record that *draft* made of it, and that was written with it.
        """
        given = {"settled": list(settled)}
        if not settled:
            return ()
        if not self._database.run(lambda c: c.execute(_IDLE, given).all()):
            return ()

        def work(connection: Connection) -> Sequence[tuple[Key, Record]]:
            hold_keys(connection, shared=False)
            retired = []
            for row in connection.execute(_IDLE, given).all():
                key = _change(connection, Key(*row), at, state=KeyState.RETIRED)
                retired.append((key, draft(key)))
                write(connection, retired[-1][1])
            return retired

        return self._database.transaction(work)


def _one(connection: Connection, wanted: Select[Any], **given: str) -> Key | None:
    row = connection.execute(wanted, given).one_or_none()
    return None if row is None else Key(*row)


def _known(connection: Connection, key: Key) -> Key | None:
    """
    Return the row of *key*, if there is one.

    Raises:
        ConflictError: Its id belongs to another address, or the other way round.
    """
    known = _one(connection, _BY_ADDRESS, of_address=key.address)
    named = _one(connection, _BY_ID, of_backend=key.backend, of_key=key.key_id)
    if known != named:
        raise ConflictError(
            "the ring knows this key's id, or its address, of another key"
        )
    return known


def _put(connection: Connection, known: Key | None, key: Key, **changes: Any) -> Key:
    """Insert *key*, or change the row that it has already; *changes* are on top."""
    if known is None:
        added = replace(key, **changes)
        connection.execute(_NEW, asdict(added))
        return added
    asked = {"requested_by": key.requested_by, "blocked_by": None, **changes}
    return _change(connection, known, key.updated_at, **asked)


def _change(connection: Connection, key: Key, at: datetime, **changes: Any) -> Key:
    after = replace(key, **changes, updated_at=at, version=key.version + 1)
    given = {f"new_{name}": getattr(after, name) for name in _CHANGING}
    of_key = {"of_address": key.address, "before": key.version}
    if connection.execute(_CHANGE, {**given, **of_key}).rowcount != 1:
        raise StaleStateError("the key has changed")
    return after


def _requeue(connection: Connection, address: str, at: datetime) -> None:
    # Whoever is signing one of them at this moment finds its version gone, and the
    # bytes that nobody recorded go nowhere.
    given_up = connection.execute(_GIVEN_UP, {"of_address": address, "at": at}).all()
    moves = [
        {"refund_id": id_, "version": version, "status": Status.QUEUED, "at": at}
        for id_, version in given_up
    ]
    if moves:
        connection.execute(insert(refund_moves), moves)


def _is_held(pending: Key, now: datetime) -> bool:
    until = pending.held_until
    # Far ahead it was dated by a clock that was wrong.
    return until is not None and now < until <= now + 2 * ROTATION_HOLD


def _ended(key: Key, reason: str) -> dict[str, Any]:
    state = KeyState.REJECTED if key.epoch is None else KeyState.DRAINING
    return {"state": state, "held_until": None, "blocked_by": reason}
