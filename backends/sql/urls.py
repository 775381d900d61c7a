"""Which values of DATABASE_URL are supported."""

import os
import ssl
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from signer.errors import ConfigurationError, Refusal


SQLITE = "sqlite"
POSTGRESQL = "postgresql"

_POSTGRESQL = frozenset({"postgresql", "postgres", "postgresql+psycopg"})

_MAX_LABEL = 63  # Of a host name: RFC 1035, section 2.3.4.


def parse_url(text: str) -> sa.URL:
    """
    Return the URL, with the driver that this package uses.

    libpq's ``sslrootcert=system`` becomes the file of the host's certificates, because
    the OpenSSL in psycopg's wheel looks for them in a folder that no host has.

    Raises:
        ConfigurationError: ``database-misconfigured``: the URL is invalid, or for
            another kind of database, or the host has no file of certificates.  The
            message omits the URL.
    """
    try:
        url = sa.make_url(text)
    except (ArgumentError, ValueError):  # ValueError: the port is not a number.
        url = sa.URL.create("unknown")
    if url.drivername in _POSTGRESQL and _is_resolvable(url.host or ""):
        return _with_system_certificates(url.set(drivername="postgresql+psycopg"))
    if url.drivername == SQLITE and _is_file(url):
        return url.set(database=str(Path(str(url.database)).absolute()))
    raise ConfigurationError(
        Refusal(
            "database-misconfigured",
            "DATABASE_URL must be postgresql://... or sqlite:///path/to/file",
        )
    )


def _with_system_certificates(url: sa.URL) -> sa.URL:
    root = url.query.get("sslrootcert", os.environ.get("PGSSLROOTCERT"))
    if root != "system":
        return url
    paths = ssl.get_default_verify_paths()
    # libpq takes no folder; Debian's has a file of all certificates.
    candidates = (paths.cafile, f"{paths.capath}/ca-certificates.crt")
    for file in candidates:
        if file and Path(file).is_file():
            # As with ``system``, libpq then verifies the host's name in any case.
            query = {"sslrootcert": file, "sslmode": "verify-full"}
            return url.update_query_dict(query)
    raise ConfigurationError(
        Refusal(
            "database-misconfigured",
            "DATABASE_URL has sslrootcert=system, and this host has no file of trusted"
            " certificates: install ca-certificates, or set SSL_CERT_FILE",
        )
    )


def _is_resolvable(host: str) -> bool:
    # For a longer label, Python's resolver raises an error that quotes the host.
    return all(len(label) <= _MAX_LABEL for label in host.split("."))


def _is_file(url: sa.URL) -> bool:
    # With an in-memory database, every connection would have a ledger of its own.
    name = url.database or ""
    return bool(name) and not (
        url.host or url.query or name.startswith((":memory:", "file:"))
    )
