"""The ledger on SQLite or PostgreSQL: every port of ``Ledger``."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from backends.sql.approvals import ApprovalTables
from backends.sql.audit import AuditTables
from backends.sql.database import Database
from backends.sql.deliveries import DeliveryTables
from backends.sql.events import EventTables
from backends.sql.holds import HoldTables
from backends.sql.keys import KeyTables
from backends.sql.nonce_assignment import ReservationTables
from backends.sql.refund_reports import ReportTables
from backends.sql.refunds import RefundTables
from backends.sql.shared_state import SharedTables
from backends.sql.wallets import WalletTables
from signer.ports.clock import Clock
from signer.row_macs import RowMACs


if TYPE_CHECKING:
    from backends.sql.migrate import SchemaUpgrade
from collections.abc import Sequence

import sqlalchemy as sa

from backends.sql.tables import HEAD
from backends.sql.urls import POSTGRESQL, SQLITE
from signer.errors import StoreError, StoreUnavailableError


# Revision; whether the server is read-only (a standby); whether commits may be lost.
_QUERIES = {
    SQLITE: sa.text(
        "SELECT version_num, 0,"
        " (SELECT journal_mode <> 'wal' FROM pragma_journal_mode)"
        " OR (SELECT synchronous < 2 FROM pragma_synchronous)"
        " FROM alembic_version"
    ),
    POSTGRESQL: sa.text(
        "SELECT version_num,"
        " current_setting('transaction_read_only') = 'on',"
        " current_setting('synchronous_commit') = 'off'"
        " FROM alembic_version"
    ),
}


_MAY_LOSE = {
    SQLITE: (
        "another program switched the SQLite file from its write-ahead log, so it may"
        " lose acknowledged commits: stop that program, and restart this one"
    ),
    POSTGRESQL: (
        "synchronous_commit is off, so PostgreSQL may lose acknowledged commits: turn"
        " it on"
    ),
}


def require_health(database: Database) -> None:
    """
    Require that the database is usable, by one query.

    Raises:
        StoreUnavailableError: It does not answer, or is read-only now.
        StoreError: Its schema is not the one that this program needs, or it
            acknowledges commits before they are durable.
    """
    if database.path is not None and not database.path.exists():
        raise StoreError(
            "the SQLite file of DATABASE_URL does not exist: correct the path, or"
            " create a new ledger with `hotwallet db upgrade --create`"
        )
    rows = database.rows(_QUERIES[database.dialect])
    revisions = [revision for revision, _, _ in rows]
    if revisions != [HEAD]:
        raise schema_error(revisions)
    if any(is_read_only for _, is_read_only, _ in rows):
        raise StoreUnavailableError("the database is read-only at the moment")
    if any(may_lose for _, _, may_lose in rows):
        raise StoreError(_MAY_LOSE[database.dialect])


def schema_error(revisions: Sequence[str]) -> StoreError:
    """Return the error for a database whose *revisions* are not ``HEAD`` alone."""
    found = f"revision {', '.join(revisions)}" if revisions else "no revision"
    return StoreError(
        f"the ledger has {found}, and this program needs revision {HEAD}: run the"
        " release of hotwallet that made the ledger, or restore a backup. No release"
        " upgrades it, because its rows could be forged. A new ledger (`hotwallet db"
        " upgrade --create`) can be rebuilt from the audit log with `hotwallet restore`"
    )


T = TypeVar("T")


class SQLStore(
    RefundTables,
    ReservationTables,
    WalletTables,
    EventTables,
    DeliveryTables,
    HoldTables,
    ApprovalTables,
    ReportTables,
    KeyTables,
    AuditTables,
    SharedTables,
):
    """
    The tables of one database, as one flat ``Ledger``.

    Each base class serves one or two ports, and needs nothing but the ``Database`` and
    the MACs.  The methods are documented on the ports, in ``signer/ports``.

    The store opens its connections at first use, separately in each process, so it may
    be created before a fork.  Threads share it.
    """

    def __init__(
        self,
        url: str,
        macs: RowMACs | None = None,
        *,
        pool_size: int = 4,
        timeout: float = 5.0,
        clock: Clock | None = None,
        tenant: Callable[[], str | None] = lambda: None,
    ) -> None:
        """
        Remember *url*; open nothing.

        *macs* makes and verifies the MACs of rows.  Without it, every method that needs
        one raises a ``ConfigurationError``, ``mac-key-missing``.

        *pool_size* is the number of threads that use the store at the same time.
        *timeout* limits, in seconds, each wait for a connection, a lock or a statement.
        *clock* replaces the clock of the database's host, in tests and simulations.
        *tenant* returns the tenant for which a thread works, or None: one tenant uses
        at most half of the connections.

        Raises:
            ConfigurationError: ``database-misconfigured``: *url* is not a supported
                database, or its driver is missing.  The message omits the URL.
        """
        database = Database(
            url, pool_size=pool_size, timeout=timeout, clock=clock, tenant=tenant
        )
        super().__init__(database, macs)

    def __repr__(self) -> str:
        return f"SQLStore({self._database.dialect!r})"

    def tables(self, kind: Callable[[Database, RowMACs | None], T]) -> T:
        return kind(self._database, self._row_macs)

    def now(self) -> datetime:
        return self._database.now()

    def connections(self) -> tuple[int, int]:
        return self._database.connections()

    def check(self) -> None:
        require_health(self._database)

    def migrate(self, *, create: bool = True) -> "SchemaUpgrade":
        """
        Create the ledger, or renew its MACs, and return what was done.

        Any number of processes may do so at the same time.  *create* and the errors are
        those of ``migrate.migrate``.
        """
        # Importing Alembic takes a tenth of a second; only this method needs it.
        from backends.sql.migrate import migrate  # noqa: PLC0415

        return migrate(self._database, self._row_macs, create=create)

    def close(self) -> None:
        self._database.close()
