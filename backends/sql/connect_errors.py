"""
Why a connection to PostgreSQL failed, and what to do about it.

libpq reports no SQLSTATE for a connection that was never established
(``PQconnectPoll``), only a message that contains the user, the host and the database.
The message is matched here against known causes, and is never passed on.
"""

import re


_CAUSES = {
    r"password authentication failed": (
        "it rejected the user name or password; correct them in DATABASE_URL"
    ),
    r"no password supplied": "it requires a password; add one to DATABASE_URL",
    r'role ".*" does not exist': (
        "the user does not exist; correct DATABASE_URL, or create the role"
    ),
    r'role ".*" is not permitted to log in': (
        "the user may not log in; run ALTER ROLE ... LOGIN"
    ),
    r'database ".*" does not exist': (
        "the database does not exist; correct DATABASE_URL, or create it"
    ),
    r"permission denied for database": (
        "the user may not connect to the database; run GRANT CONNECT"
    ),
    r"is not currently accepting connections": (
        "the database accepts no connections; run ALTER DATABASE ... ALLOW_CONNECTIONS"
    ),
    r"pg_hba\.conf": (
        "its pg_hba.conf has no entry for this host; add one, or use TLS (sslmode)"
    ),
    r"server does not support SSL": (
        "it does not support TLS, which sslmode in DATABASE_URL requires; turn it on"
    ),
    r"certificate": (
        "a certificate was rejected; check DATABASE_URL (sslmode, sslrootcert)"
    ),
    r"(translate host name|resolve host)": (
        "its host name cannot be resolved; correct DATABASE_URL"
    ),
    r"(Connection refused|No such file or directory)": (
        "no server is listening there; start it, or correct DATABASE_URL"
    ),
    r"(timeout|timed out)": (
        "it does not answer; check host and port in DATABASE_URL, and firewalls"
    ),
    r"(too many (clients|connections)|remaining connection slots)": (
        "all of its connections are in use; see docs/how-to/database-down.md"
    ),
    r"the database system is": (
        "it is starting, stopping or recovering; wait until it is up"
    ),
    # Only libpq's own complaints: a server's answer can be "invalid" as well.
    r"invalid (\"?\w+\"? value\b|connection option|URI query parameter|port number"
    r"|percent-encoded token|SSL protocol version range)|definition of service": (
        "DATABASE_URL has a parameter that libpq does not accept; correct it"
    ),
}


def explain_connect_error(message: str) -> str | None:
    """Return the cause in libpq's *message*, and its cure; None if it is unknown."""
    for pattern, cause in _CAUSES.items():
        if re.search(pattern, message):
            return cause
    return None
