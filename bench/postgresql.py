"""A PostgreSQL server that keeps what it commits, as in production."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.fixtures.postgresql import PostgreSQL


# The defaults, durability included, but for the socket.
_SETTINGS = {"listen_addresses": "", "shared_buffers": "128MB"}


@contextlib.contextmanager
def postgresql_server() -> Iterator[PostgreSQL]:
    """Run a server and yield it."""
    # The path of its socket must be short (man 7 unix).
    with (
        tempfile.TemporaryDirectory(prefix="bench-pg-") as folder,
        PostgreSQL(Path(folder), _SETTINGS) as server,
    ):
        yield server


@contextlib.contextmanager
def postgresql_database() -> Iterator[str]:
    """Run a server and yield the URL of an empty database."""
    with postgresql_server() as server:
        yield server.url(server.create())
