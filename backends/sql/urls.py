"""Which values of DATABASE_URL are supported."""

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from signer.errors import ConfigurationError, Refusal


SQLITE = "sqlite"
POSTGRESQL = "postgresql"

_POSTGRESQL = frozenset({"postgresql", "postgres", "postgresql+psycopg"})

_MAX_LABEL = 63  # Of a host name: RFC 1035, section 2.3.4.


def parse_url(text: str) -> URL:
    """
    Return the URL, with the driver that this package uses.

    Raises:
        ConfigurationError: ``database-misconfigured``: the URL is invalid, or for
            another kind of database.  The message omits the URL.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # ValueError: the port is not a number.
        url = URL.create("unknown")
    if url.drivername in _POSTGRESQL and _is_resolvable(url.host or ""):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername == SQLITE and _is_file(url):
        return url.set(database=str(Path(str(url.database)).absolute()))
    raise ConfigurationError(
        Refusal(
            "database-misconfigured",
            "DATABASE_URL must be postgresql://... or sqlite:///path/to/file",
        )
    )


def _is_resolvable(host: str) -> bool:
    # For a longer label, Python's resolver raises an error that quotes the host.
    return all(len(label) <= _MAX_LABEL for label in host.split("."))


def _is_file(url: URL) -> bool:
    # With an in-memory database, every connection would have a ledger of its own.
    name = url.database or ""
    return bool(name) and not (
        url.host or url.query or name.startswith((":memory:", "file:"))
    )
