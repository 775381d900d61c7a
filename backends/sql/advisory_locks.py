"""Turns at a chain: whoever reserves, pauses a wallet or writes sightings is alone."""

import hashlib

from sqlalchemy import Connection, bindparam, func, select
from sqlalchemy.types import BigInteger

from backends.sql.urls import POSTGRESQL


_CHAIN = func.pg_advisory_xact_lock(bindparam("chain", type_=BigInteger))
_KEYS = bindparam("keys", type_=BigInteger)
_SHARED = func.pg_advisory_xact_lock_shared(_KEYS)

_HOLD_CHAIN = select(_CHAIN)
_HOLD_CHAIN_AND_KEY = select(_SHARED, _CHAIN)
_HOLD_KEYS = {True: select(_SHARED), False: select(func.pg_advisory_xact_lock(_KEYS))}


def hold_keys(connection: Connection, *, shared: bool) -> None:
    """
    Keep the active key what it is until this transaction ends.

    Those who sign share the lock; whoever changes the active key has it alone, and so
    waits for them and finds that nobody signs with the old one when it commits.
    """
    if connection.dialect.name == POSTGRESQL:
        connection.execute(_HOLD_KEYS[shared], {"keys": _ACTIVE_KEY})


def hold_chain_and_key(connection: Connection, chain_id: int) -> None:
    """Take ``hold_chain``'s lock and a share of ``hold_keys``', in one round trip."""
    if connection.dialect.name == POSTGRESQL:
        given = {"chain": _number(chain_id), "keys": _ACTIVE_KEY}
        connection.execute(_HOLD_CHAIN_AND_KEY, given)


def hold_chain(connection: Connection, chain_id: int) -> None:
    """
    Keep every other transaction away from the chain's nonces until this one ends.

    A wallet's nonces would need no more than a lock of the wallet; what may be spent
    is for all wallets together.

    SQLite's transactions hold the whole database already.  On PostgreSQL the lock is
    a statement of its own: the next one then takes its snapshot when the lock is
    held, and sees what the last holder committed.  It needs no row, leaves no dead one
    behind, and goes with the transaction or the connection.
    """
    if connection.dialect.name == POSTGRESQL:
        connection.execute(_HOLD_CHAIN, {"chain": _number(chain_id)})


def _number(chain_id: int) -> int:
    return _named(f"hotwallet nonces {chain_id}")


def _named(name: str) -> int:
    """Return 64 bits for *name*; a collision is a needless wait."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


_ACTIVE_KEY = _named("hotwallet active key")
