"""PostgreSQL's advisory locks, observed and held by another connection."""

import psycopg

from backends.sql.advisory_locks import _ACTIVE_KEY
from tests.support.waiting import eventually


def share_the_key(connection: psycopg.Connection) -> None:
    """Hold the lock that precedes every signature."""
    connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", [_ACTIVE_KEY])


def until_waiting(url: str) -> list[int]:
    """Wait until processes wait for an advisory lock; return their ids."""
    query = b"SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with psycopg.connect(url, autocommit=True) as connection:
        pids = eventually(lambda: [pid for (pid,) in connection.execute(query)])
    assert pids, "no process waits for a lock"
    return pids
