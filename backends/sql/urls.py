"""Which URLs are databases of ours."""

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from signer.errors import ConfigurationError, Refusal


SQLITE = "sqlite"
POSTGRESQL = "postgresql"

_POSTGRESQL = frozenset({"postgresql", "postgres", "postgresql+psycopg"})

_LONGEST_LABEL = 64  # RFC 1035, section 2.3.4, has 63.


def parsed(text: str) -> URL:
    """
    Return the URL with the driver that we ship.

    Raises:
        ConfigurationError: It is not for a database that we know.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # The latter for a port that is no number.
        url = URL.create("unknown")
    if url.drivername in _POSTGRESQL and _is_name(url.host or ""):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername == SQLITE and _is_file(url):
        return url.set(database=str(Path(str(url.database)).absolute()))
    raise ConfigurationError(
        Refusal(
            "database-misconfigured",
            "DATABASE_URL must be postgresql://... or sqlite:///path/to/file",
        )
    )


def _is_name(host: str) -> bool:
    # Python's resolver refuses a label of 64 characters with an error that quotes it.
    return all(len(label) < _LONGEST_LABEL for label in host.split("."))


def _is_file(url: URL) -> bool:
    # In memory, every connection would have a ledger of its own.
    name = url.database or ""
    return bool(name) and not (
        url.host or url.query or name.startswith((":memory:", "file:"))
    )
