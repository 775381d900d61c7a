"""Bring a database to the schema of this program, and report what was done."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from backends.sql.database import Database
from backends.sql.holds import begin_register, renew_holds
from backends.sql.key_rows import KeyRows
from backends.sql.store import schema_error
from backends.sql.tables import (
    HEAD,
    accepted_limits,
    approvals,
    audit_shipping,
    keys,
    metadata,
    unrecorded,
)
from backends.sql.urls import SQLITE
from backends.sql.versioned_rows import SealedRows
from backends.sql.wallet_rows import (
    ALL_WALLETS,
    of_wallet,
    select_unrecorded,
    wallet_key,
    wallet_rows,
)
from signer.errors import ConfigurationError, Refusal, StoreError
from signer.model.approval import Approval
from signer.model.audit_record import AuditShipping
from signer.model.worker_row import AcceptedLimits
from signer.row_macs import RowMACs


_SET_UNRECORDED_MAC = (
    sa.update(unrecorded)
    .where(of_wallet(unrecorded), unrecorded.c.nonce == sa.bindparam("of_nonce"))
    .values(mac=sa.bindparam("new_mac"))
)


def renew_macs(connection: sa.Connection, macs: RowMACs) -> None:
    """
    Give authentic rows a MAC under the current MAC key.

    These are the rows of the ring, stops, blocked tenants, approvals, accepted limits,
    what is shipped, wallets and unrecorded transactions.  A row without a valid MAC
    stays as it is: nothing in the database, its revision included, is a reason to trust
    a row.

    Raises:
        RowNotAuthenticError: A key of the ring has no valid MAC.
    """
    key_rows = KeyRows(connection, macs)
    key_rows.select(sa.select(keys))  # Requires valid MACs.
    _renew(key_rows, sa.select(keys), macs)
    renew_holds(connection, macs)
    _renew(
        SealedRows(connection, macs, approvals, Approval), sa.select(approvals), macs
    )
    limits = SealedRows(connection, macs, accepted_limits, AcceptedLimits)
    _renew(limits, sa.select(accepted_limits), macs)
    shipped = SealedRows(connection, macs, audit_shipping, AuditShipping)
    _renew(shipped, sa.select(audit_shipping), macs)
    _renew(wallet_rows(connection, macs), ALL_WALLETS, macs)
    for each in select_unrecorded(connection, macs, sa.select(unrecorded)):
        if each.is_authentic and not macs.is_current(each.mac):
            key = wallet_key(each.chain_id, each.sender)
            new = {"of_nonce": each.nonce, "new_mac": macs.compute(each)}
            connection.execute(_SET_UNRECORDED_MAC, key | new)


def _renew(rows: SealedRows[Any], query: sa.Select[Any], macs: RowMACs) -> None:
    for row in rows.select_unverified(query):
        if rows.is_authentic(row) and not macs.is_current(row.mac):
            rows.update(row)


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
    def action(self) -> Literal["created", "unchanged"]:
        """Whether the ledger is new, or was already up to date."""
        return "created" if self.before is None else "unchanged"


def migrate(database: Database, macs: RowMACs | None, *, create: bool) -> SchemaUpgrade:
    """
    Create the tables of an empty database, or renew the MACs of a ledger.

    It is one transaction under one lock: a process that waited for the lock finds the
    work done, and a process that is killed leaves nothing half done.

    Without *create*, an SQLite file that has no ledger yet is refused and left as it
    is: a wrong path must not look like a successful upgrade.

    Only an empty database becomes a new ledger.  One whose revision is missing,
    or is not that of this program, is refused.

    With *macs*, authentic rows get a MAC under its current key, as in ``renew_macs``.

    Raises:
        ConfigurationError: ``mac-key-missing``: a new ledger needs *macs*.
        StoreError: There is no ledger and *create* is false, the ledger has another
            revision or none, or the database cannot be changed.
        RowNotAuthenticError: A key of the ring has no valid MAC.
    """
    if database.path is not None and not create and _is_missing(database.path):
        raise _no_ledger(database.path)

    def upgrade(connection: sa.Connection) -> SchemaUpgrade:
        _lock(connection)
        revisions = MigrationContext.configure(connection).get_current_heads()
        is_new = not revisions and not _has_tables(connection)
        if not is_new and revisions != (HEAD,):
            raise schema_error(revisions)
        if is_new:
            if database.path is not None and not create:
                raise _no_ledger(database.path)
            _run_migrations(connection)
        _make_macs(connection, macs, is_new=is_new)
        return SchemaUpgrade(database.path, None if is_new else HEAD, HEAD)

    return database.migration(upgrade, timeout=LOCK_TIMEOUT_SECONDS)


def _has_tables(connection: sa.Connection) -> bool:
    """Return whether one of our tables exists: then the ledger is not new."""
    return not metadata.tables.keys().isdisjoint(
        sa.inspect(connection).get_table_names()
    )


def _make_macs(
    connection: sa.Connection, macs: RowMACs | None, *, is_new: bool
) -> None:
    if macs is not None:
        (begin_register if is_new else renew_macs)(connection, macs)
    elif is_new:
        raise ConfigurationError(Refusal("mac-key-missing", "set MAC_KEY_FILE"))


def _is_missing(path: Path) -> bool:
    # SQLite would write its header into an empty file.
    return not path.exists() or path.stat().st_size == 0


def _no_ledger(path: Path) -> StoreError:
    return StoreError(
        f"there is no ledger at {path}: correct DATABASE_URL, or create a new ledger"
        " with `hotwallet db upgrade --create`"
    )


def _run_migrations(connection: sa.Connection) -> None:
    config = Config()
    config.set_main_option("script_location", "backends.sql:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _lock(connection: sa.Connection) -> None:
    if connection.dialect.name == SQLITE:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
