"""
Locks that transactions hold on nonces, the active key, a tenant and old events.

On PostgreSQL they are advisory locks, which the end of the transaction releases.  On
SQLite they do nothing: a writing transaction has the whole database locked already.
"""

import hashlib
from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.types import BigInteger

from backends.sql.urls import POSTGRESQL


_EXCLUSIVE = sa.func.pg_advisory_xact_lock(sa.bindparam("lock", type_=BigInteger))
_KEYS = sa.bindparam("keys", type_=BigInteger)
_SHARED = sa.func.pg_advisory_xact_lock_shared(_KEYS)

_LOCK = sa.select(_EXCLUSIVE)
_TRY = sa.select(
    sa.func.pg_try_advisory_xact_lock(sa.bindparam("lock", type_=BigInteger))
)
_LOCK_CHAIN_AND_KEYS = sa.select(_SHARED, _EXCLUSIVE)
_LOCK_ALL = sa.text(
    "SELECT pg_advisory_xact_lock(number) FROM unnest(CAST(:locks AS bigint[])) number"
)
_SHARE = sa.select(_SHARED)
_LOCK_KEYS = {True: _SHARE, False: sa.select(sa.func.pg_advisory_xact_lock(_KEYS))}


def lock_keys(connection: sa.Connection, *, shared: bool) -> None:
    """
    Prevent a change of the active key until this transaction ends.

    Transactions that precede a signature share the lock.  One that changes the active
    key takes it exclusively: it waits for the others, and when it commits, none of them
    relies on the old key.
    """
    if connection.dialect.name == POSTGRESQL:
        connection.execute(_LOCK_KEYS[shared], {"keys": _ACTIVE_KEY})


def lock_chain_and_keys(connection: sa.Connection, chain_id: int) -> None:
    """Take both locks, that of the keys shared, in one round trip."""
    if connection.dialect.name == POSTGRESQL:
        params = {"lock": _chain_lock(chain_id), "keys": _ACTIVE_KEY}
        connection.execute(_LOCK_CHAIN_AND_KEYS, params)


def lock_chain(connection: sa.Connection, chain_id: int) -> None:
    """
    Keep other transactions from the chain's nonces until this one ends.

    The nonces would only need a lock per wallet, but spending limits apply to all
    wallets of a chain together.

    The lock is a statement of its own: the next statement then takes its snapshot while
    the lock is held, and sees what the previous holder committed.
    """
    if connection.dialect.name == POSTGRESQL:
        connection.execute(_LOCK, {"lock": _chain_lock(chain_id)})


def lock_tenants(connection: sa.Connection, tenants: Collection[str]) -> None:
    """Keep other acceptances of refunds of *tenants* out until this one ends."""
    if connection.dialect.name == POSTGRESQL:
        # In one order, so that two processes do not deadlock.
        connection.execute(_LOCK_ALL, {"locks": sorted(map(tenant_lock, tenants))})


def tenant_lock(tenant: str) -> int:
    """Return the number of the lock of *tenant*."""
    return _lock_number(f"hotwallet tenant {tenant}")


def share_events(connection: sa.Connection) -> None:
    """Keep old events from being deleted until this transaction ends."""
    if connection.dialect.name == POSTGRESQL:
        connection.execute(_SHARE, {"keys": _OLD_EVENTS})


def try_to_lock_events(connection: sa.Connection) -> bool:
    """Return whether this transaction may delete old events; others may not then."""
    if connection.dialect.name != POSTGRESQL:
        return True
    return bool(connection.execute(_TRY, {"lock": _OLD_EVENTS}).scalar())


def _chain_lock(chain_id: int) -> int:
    return _lock_number(f"hotwallet nonces {chain_id}")


def _lock_number(name: str) -> int:
    """Return 64 bits of a hash of *name*; a collision causes a needless wait."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


_ACTIVE_KEY = _lock_number("hotwallet active key")
_OLD_EVENTS = _lock_number("hotwallet old events")
