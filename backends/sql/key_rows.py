"""How one row of the key ring is read and changed, as a part of a transaction."""

from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, bindparam, insert, select, text, update

from backends.sql.schema import keys
from signer.errors import ConflictError, RotationInProgressError, StaleStateError
from signer.model.key import ROTATION_HOLD, Key


_CHANGING = (
    "key_id",
    "state",
    "updated_at",
    "epoch",
    "requested_by",
    "held_until",
    "blocked_by",
    "version",
)

ACTIVE = select(keys).where(text("state = 'active'"))

_PENDING = select(keys).where(text("state = 'pending'"))

_BY_ADDRESS = select(keys).where(keys.c.address == bindparam("of_address"))

_BY_ID = select(keys).where(
    keys.c.backend == bindparam("of_backend"), keys.c.key_id == bindparam("of_key")
)

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


def one(connection: Connection, wanted: Select[Any], **given: str) -> Key | None:
    """Return the one key that is *wanted*, if there is one."""
    row = connection.execute(wanted, given).one_or_none()
    return None if row is None else Key(*row)


def pending_key(connection: Connection, now: datetime) -> Key | None:
    """
    Return the pending key, if there is one, which nobody holds any more.

    Raises:
        RotationInProgressError: Somebody does.
    """
    pending = one(connection, _PENDING)
    if pending is not None and _is_held(pending, now):
        raise RotationInProgressError("another rotation is under way")
    return pending


def named(connection: Connection, backend: str, key_id: str) -> Key | None:
    """Return the key that is pinned to *key_id*, if there is one."""
    return one(connection, _BY_ID, of_backend=backend, of_key=key_id)


def known(connection: Connection, key: Key) -> Key | None:
    """
    Return the row of *key*, if there is one.

    Raises:
        ConflictError: Its id belongs to another address, or the other way round.
    """
    found = one(connection, _BY_ADDRESS, of_address=key.address)
    if found != named(connection, key.backend, key.key_id):
        raise ConflictError(
            "the ring knows this key's id, or its address, of another key"
        )
    return found


def put(connection: Connection, before: Key | None, key: Key, **changes: Any) -> Key:
    """Insert *key*, or change the row that it has already; *changes* are on top."""
    if before is None:
        added = replace(key, **changes)
        connection.execute(_NEW, asdict(added))
        return added
    asked = {"requested_by": key.requested_by, "blocked_by": None, **changes}
    return change(connection, before, key.updated_at, **asked)


def change(connection: Connection, key: Key, at: datetime, **changes: Any) -> Key:
    """
    Make *changes* to the row of *key*, and return it as it stands then.

    Raises:
        StaleStateError: The stored version is not that of *key*.
    """
    after = replace(key, **changes, updated_at=at, version=key.version + 1)
    given = {f"new_{name}": getattr(after, name) for name in _CHANGING}
    of_key = {"of_address": key.address, "before": key.version}
    if connection.execute(_CHANGE, {**given, **of_key}).rowcount != 1:
        raise StaleStateError("the key has changed")
    return after


def _is_held(pending: Key, now: datetime) -> bool:
    until = pending.held_until
    # Far ahead it was dated by a clock that was wrong.
    return until is not None and now < until <= now + 2 * ROTATION_HOLD
