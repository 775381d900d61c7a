"""PostgreSQL's advisory locks, observed and held by another connection."""

import time

import psycopg


def share_the_key(connection: psycopg.Connection) -> None:
    """Hold the lock that precedes every signature."""
    from backends.sql.advisory_locks import _ACTIVE_KEY  # noqa: PLC0415  The lock under test.

    connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", [_ACTIVE_KEY])


def until_waiting(url: str) -> list[int]:
    """Wait until a process waits for an advisory lock; return its id."""
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(400):
            waiting = connection.execute(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            ).fetchall()
            if waiting:
                return [pid for (pid,) in waiting]
            time.sleep(0.01)
    raise AssertionError("nobody waits for a lock")
