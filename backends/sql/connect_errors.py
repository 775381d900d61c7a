"""
Why PostgreSQL lets nobody in, and what to do about it.

libpq has no SQLSTATE for a connection that never was (``PQconnectPoll``), only words
with the user, the host and the database in them.  They are searched for what they are
about, and stay here.
"""

import re


_REASONS = (
    (
        r"password authentication failed",
        "it does not accept user and password; correct them in DATABASE_URL",
    ),
    (
        r"no password supplied",
        "it asks for a password; DATABASE_URL has none",
    ),
    (
        r'role ".*" does not exist',
        "it does not know the user; correct DATABASE_URL, or create the role",
    ),
    (
        r'role ".*" is not permitted to log in',
        "the user may not log in; ALTER ROLE ... LOGIN",
    ),
    (
        r'database ".*" does not exist',
        "it has no such database; correct DATABASE_URL, or create it",
    ),
    (
        r"permission denied for database",
        "the user may not connect to the database; GRANT CONNECT",
    ),
    (
        r"is not currently accepting connections",
        "it has closed the database; ALTER DATABASE ... ALLOW_CONNECTIONS true",
    ),
    (
        r"pg_hba\.conf",
        "its pg_hba.conf keeps this host out; have it let in, or use TLS (sslmode)",
    ),
    (
        r"server does not support SSL",
        "it has no TLS, and DATABASE_URL demands it (sslmode); switch TLS on there",
    ),
    (
        r"certificate",
        "the certificates do not fit; check sslmode and sslrootcert of DATABASE_URL",
    ),
    (
        r"(translate host name|resolve host)",
        "its host name means nothing here; correct DATABASE_URL",
    ),
    (
        r"(Connection refused|No such file or directory)",
        "nobody listens there; start it, or correct host and port in DATABASE_URL",
    ),
    (
        r"(timeout|timed out)",
        "it does not answer; is there a firewall between?",
    ),
    (
        r"(too many (clients|connections)|remaining connection slots)",
        "it has no connection to spare; docs/how-to/database-down.md",
    ),
    (
        r"the database system is",
        "it is starting, stopping or recovering; wait for it",
    ),
    (
        r"(invalid|definition of service)",
        "DATABASE_URL has something in it that libpq does not take",
    ),
)


def reason(said: str) -> str | None:
    """Return what libpq *said*, in our words; None for what we have none for."""
    found = (ours for theirs, ours in _REASONS if re.search(theirs, said))
    return next(found, None)
