"""Bring a database to this program's schema."""

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, text

from backends.sql.database import Database
from backends.sql.health import NEWER
from backends.sql.urls import SQLITE
from signer.errors import StoreError


PATIENCE_SECONDS = 60.0
"""How long one migration waits for another, or for the statements under way."""

_LOCK = 0x686F7477616C6C65  # "hotwalle"; every program of ours takes the same.


def migrate(database: Database) -> None:
    """
    Bring an empty or older database to this program's schema, or do nothing.

    All of it is one transaction under one lock: whoever comes second finds the
    work done, and whoever is killed leaves nothing half done.

    Raises:
        StoreError: The database is newer than the program, or cannot be changed.
    """
    database.migration(_upgrade, timeout=PATIENCE_SECONDS)


def _upgrade(connection: Connection) -> None:
    _lock(connection)
    config = Config()
    config.set_main_option("script_location", "backends.sql:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError:
        problem = StoreError(NEWER)
    else:
        return _require_references(connection)
    raise problem


def _lock(connection: Connection) -> None:
    if connection.dialect.name == SQLITE:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")


def _require_references(connection: Connection) -> None:
    # SQLite did not look while tables were rebuilt.
    if connection.dialect.name == SQLITE:
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
        if broken is not None:
            raise StoreError("the upgrade would leave rows that refer to nothing")
