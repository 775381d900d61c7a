"""Reads and changes single rows of the key ring, inside a transaction."""

from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, bindparam, insert, select, text, update

from backends.sql.schema import keys
from signer.errors import ConflictError, RotationInProgressError, StaleStateError
from signer.model.key import ROTATION_HOLD, Key


_MUTABLE = (
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

_UPDATE = (
    update(keys)
    .where(
        keys.c.address == bindparam("of_address"),
        keys.c.version == bindparam("before"),
    )
    .values(
        {name: bindparam(f"new_{name}", type_=keys.c[name].type) for name in _MUTABLE}
    )
)


def find_key(connection: Connection, query: Select[Any], **values: str) -> Key | None:
    """Return the only key that *query* selects, or None."""
    row = connection.execute(query, values).one_or_none()
    return None if row is None else Key(*row)


def find_released_pending(connection: Connection, now: datetime) -> Key | None:
    """
    Return the pending key, whose hold must have expired, or None.

    Raises:
        RotationInProgressError: The hold on the pending key has not expired.
    """
    pending = find_key(connection, _PENDING)
    if pending is not None and _is_held(pending, now):
        raise RotationInProgressError("another rotation is in progress")
    return pending


def find_by_id(connection: Connection, backend: str, key_id: str) -> Key | None:
    """Return the key that is pinned to *key_id*, or None."""
    return find_key(connection, _BY_ID, of_backend=backend, of_key=key_id)


def find_same(connection: Connection, key: Key) -> Key | None:
    """
    Return the stored row of *key*, or None.

    Raises:
        ConflictError: Another key of the ring has its id or its address.
    """
    stored = find_key(connection, _BY_ADDRESS, of_address=key.address)
    if stored != find_by_id(connection, key.backend, key.key_id):
        raise ConflictError("another key of the ring has this key's id or address")
    return stored


def upsert_key(
    connection: Connection, before: Key | None, key: Key, **changes: Any
) -> Key:
    """
    Insert *key* with *changes*, or apply *changes* to its stored row *before*.

    Returns:
        The row as it is now.
    """
    if before is None:
        new = replace(key, **changes)
        connection.execute(_NEW, asdict(new))
        return new
    reset = {"requested_by": key.requested_by, "blocked_by": None}
    return update_key(connection, before, key.updated_at, **{**reset, **changes})


def update_key(connection: Connection, key: Key, at: datetime, **changes: Any) -> Key:
    """
    Apply *changes* to the row of *key*, and return the row as it is now.

    Raises:
        StaleStateError: The stored version is not that of *key*.
    """
    after = replace(key, **changes, updated_at=at, version=key.version + 1)
    values = {f"new_{name}": getattr(after, name) for name in _MUTABLE}
    of_key = {"of_address": key.address, "before": key.version}
    if connection.execute(_UPDATE, {**values, **of_key}).rowcount != 1:
        raise StaleStateError("the key was changed meanwhile")
    return after


def _is_held(pending: Key, now: datetime) -> bool:
    until = pending.held_until
    # A hold that ends further in the future was written by a host with a wrong clock.
    return until is not None and now < until <= now + 2 * ROTATION_HOLD
