"""Turns at a chain: whoever reserves, pauses a wallet or writes sightings is alone."""

import hashlib

from sqlalchemy import Connection, bindparam, func, select
from sqlalchemy.types import BigInteger

from backends.sql.urls import POSTGRESQL


_LOCK = select(func.pg_advisory_xact_lock(bindparam("chain", type_=BigInteger)))


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
        connection.execute(_LOCK, {"chain": _number(chain_id)})


def _number(chain_id: int) -> int:
    """Return 64 bits that name the chain; a collision is a needless wait."""
    name = f"hotwallet nonces {chain_id}"
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
