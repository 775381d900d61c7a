"""Reads and changes single rows of the key ring, inside a transaction; checks MACs."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from backends.sql.tables import keys
from backends.sql.versioned_rows import SealedRows
from signer.errors import ConflictError, RotationInProgressError
from signer.model.key import ROTATION_HOLD, Key
from signer.row_macs import RowMACs


_ACTIVE = sa.select(keys).where(sa.text("state = 'active'"))

_PENDING = sa.select(keys).where(sa.text("state = 'pending'"))

_BY_ADDRESS = sa.select(keys).where(keys.c.address == sa.bindparam("of_address"))

_ALL = sa.select(keys).order_by(keys.c.epoch.desc().nulls_last(), keys.c.created_at)

_NEXT_EPOCH = sa.select(sa.func.coalesce(sa.func.max(keys.c.epoch), 0) + 1)

_VERSION = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(keys.c.version), 0))

_BY_ID = sa.select(keys).where(
    keys.c.backend == sa.bindparam("of_backend"),
    keys.c.key_id == sa.bindparam("of_key"),
)


class KeyRows(SealedRows[Key]):
    """The rows of the ring in one transaction."""

    def __init__(self, connection: sa.Connection, macs: RowMACs) -> None:
        super().__init__(connection, macs, keys, Key)

    def all(self) -> Sequence[Key]:
        """Return every key: the latest epoch first, then those never activated."""
        return self.select(_ALL)

    def version(self) -> tuple[int, int]:
        """Return the number of keys and the sum of their versions, which only rise."""
        count, total = self._connection.execute(_VERSION).one()
        return count, int(total)

    def active(self) -> Key | None:
        """Return the active key, or None before the first key is enrolled."""
        return self.find(_ACTIVE)

    def next_epoch(self) -> int:
        """Return one more than the highest epoch of a row."""
        return int(self._connection.execute(_NEXT_EPOCH).scalar_one())

    def find_released_pending(self, now: datetime) -> Key | None:
        """
        Return the pending key, whose hold must have expired, or None.

        Raises:
            RotationInProgressError: The hold on the pending key has not expired.
        """
        pending = self.find(_PENDING)
        if pending is not None and _is_held(pending, now):
            raise RotationInProgressError("another rotation is in progress")
        return pending

    def find_by_id(self, backend: str, key_id: str) -> Key | None:
        """Return the key that is pinned to *key_id*, or None."""
        return self.find(_BY_ID, of_backend=backend, of_key=key_id)

    def find_by_address(self, address: str) -> Key | None:
        return self.find(_BY_ADDRESS, of_address=address)

    def find_same(self, key: Key) -> Key | None:
        """
        Return the stored row of *key*, or None.

        Raises:
            ConflictError: Another key of the ring has its id or its address.
        """
        stored = self.find_by_address(key.address)
        if stored != self.find_by_id(key.backend, key.key_id):
            raise ConflictError("another key of the ring has this key's id or address")
        return stored

    def upsert(self, before: Key | None, key: Key, **changes: Any) -> Key:
        """
        Insert *key* with *changes*, or apply *changes* to its stored row *before*.

        Returns:
            The row as it is now.
        """
        if before is None:
            return self.insert(replace(key, **changes))
        reset = {"requested_by": key.requested_by, "blocked_by": None}
        return self.change(before, key.updated_at, **{**reset, **changes})

    def change(self, key: Key, at: datetime, **changes: Any) -> Key:
        """Apply *changes* at *at*, as ``update``."""
        return self.update(key, updated_at=at, **changes)


def _is_held(pending: Key, now: datetime) -> bool:
    until = pending.held_until
    # A hold that ends further in the future was written by a host with a wrong clock.
    return until is not None and now < until <= now + 2 * ROTATION_HOLD
