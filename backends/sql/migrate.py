"""Bring a database to the schema of this program, and report what was done."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection, text

from backends.sql.database import Database
from backends.sql.health import schema_error
from backends.sql.holds import begin_register
from backends.sql.mac_renewal import renew_macs
from backends.sql.schema import FIRST, HEAD
from backends.sql.sqlite import require_alone
from backends.sql.urls import SQLITE
from signer.errors import ConfigurationError, Refusal, StoreError
from signer.row_macs import RowMACs


LOCK_TIMEOUT_SECONDS = 60.0
"""How long a migration waits for another one, or for statements in progress."""

_LOCK = 0x686F7477616C6C65  # "hotwalle"; every hotwallet program uses this number.


@dataclass(frozen=True, slots=True)
class SchemaUpgrade:
    """
    What ``migrate`` did.

    ``path`` is the SQLite file, or None for PostgreSQL, whose URL is a secret.
    ``before`` is the schema revision found, or None if the database had no tables.
    """

    path: Path | None
    before: str | None
    after: str

    @property
    def action(self) -> Literal["created", "upgraded", "unchanged"]:
        """Whether the ledger is new, was upgraded, or was already up to date."""
        if self.before is None:
            return "created"
        return "unchanged" if self.before == self.after else "upgraded"


def migrate(
    database: Database, macs: RowMACs | None, *, create: bool, alone: bool
) -> SchemaUpgrade:
    """
    Bring an empty or older database to the schema of this program.

    The migration is one transaction under one lock: a process that waited for the lock
    finds the work done, and a process that is killed leaves nothing half done.

    Without *create*, an SQLite file that has no ledger yet is refused and left as it
    is: a wrong path must not look like a successful upgrade.

    With *alone*, an older SQLite file is refused while another process has it open: a
    process of the earlier release would go on writing rows as that release does.

    With *macs*, authentic rows get a MAC under its current key, as in ``renew_macs``.

    Raises:
        ConfigurationError: ``mac-key-missing``: a new ledger needs *macs*.
        StoreError: There is no ledger and *create* is false, the database claims a
            revision from before MACs or is newer than this program, or it cannot be
            changed.
        RowNotAuthenticError: A key of the ring has no valid MAC.
    """
    if database.path is not None and not create and _is_missing(database.path):
        raise _no_ledger(database.path)
    if alone:
        _require_alone(database)

    def upgrade(connection: Connection) -> SchemaUpgrade:
        _lock(connection)
        heads = MigrationContext.configure(connection).get_current_heads()
        before = max(heads, default=None)
        if database.path is not None and not create and before is None:
            raise _no_ledger(database.path)
        # A program that can write the revision must not get MACs for the rows.
        is_without_macs = before is not None and before < FIRST
        if is_without_macs or not _run_migrations(connection):
            raise schema_error(before)
        _require_references(connection)
        _make_macs(connection, macs, is_new=before is None)
        return SchemaUpgrade(database.path, before, HEAD)

    return database.migration(upgrade, timeout=LOCK_TIMEOUT_SECONDS)


def _make_macs(connection: Connection, macs: RowMACs | None, *, is_new: bool) -> None:
    if macs is not None:
        (begin_register if is_new else renew_macs)(connection, macs)
    elif is_new:
        raise ConfigurationError(Refusal("mac-key-missing", "set MAC_KEY_FILE"))


def _require_alone(database: Database) -> None:
    """Require that no other process has an older SQLite file open."""
    if database.path is None or _is_missing(database.path):
        return
    heads: Sequence[str] = database.migration(
        lambda c: MigrationContext.configure(c).get_current_heads(),
        timeout=LOCK_TIMEOUT_SECONDS,
    )
    if max(heads, default=HEAD) < HEAD:
        require_alone(database.path)


def _is_missing(path: Path) -> bool:
    # SQLite would write its header into an empty file.
    return not path.exists() or path.stat().st_size == 0


def _no_ledger(path: Path) -> StoreError:
    return StoreError(
        f"there is no ledger at {path}: correct DATABASE_URL, or create a new ledger"
        " with `hotwallet db upgrade --create`"
    )


def _run_migrations(connection: Connection) -> bool:
    """Run the outstanding migrations; return False if the revision is unknown."""
    config = Config()
    config.set_main_option("script_location", "backends.sql:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError:
        return False
    return True


def _lock(connection: Connection) -> None:
    if connection.dialect.name == SQLITE:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")


def _require_references(connection: Connection) -> None:
    # SQLite does not check foreign keys while tables are being rebuilt.
    if connection.dialect.name == SQLITE:
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
        if broken is not None:
            raise StoreError(
                "the upgrade was rolled back: it would leave rows without the row that"
                " they refer to; restore a backup"
            )
