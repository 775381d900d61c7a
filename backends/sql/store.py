"""The ledger on SQLite or PostgreSQL: every port of ``Ledger``."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from backends.sql.approvals import ApprovalTables
from backends.sql.audit import AuditTables
from backends.sql.database import Database
from backends.sql.deliveries import DeliveryTables
from backends.sql.events import EventTables
from backends.sql.health import require_health
from backends.sql.holds import HoldTables
from backends.sql.keys import KeyTables
from backends.sql.nonce_reservations import ReservationTables
from backends.sql.refund_reports import ReportTables
from backends.sql.refunds import RefundTables
from backends.sql.shared_state import SharedTables
from backends.sql.wallets import WalletTables
from signer.ports.clock import Clock
from signer.row_macs import RowMACs


if TYPE_CHECKING:
    from backends.sql.migrate import SchemaUpgrade


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
    ) -> None:
        """
        Remember *url*; open nothing.

        *macs* makes and verifies the MACs of rows.  Without it, every method that needs
        one raises a ``ConfigurationError``, ``mac-key-missing``.

        *pool_size* is the number of threads that use the store at the same time.
        *timeout* limits, in seconds, each wait for a connection, a lock or a statement.
        *clock* replaces the clock of the database's host, in tests and simulations.

        Raises:
            ConfigurationError: ``database-misconfigured``: *url* is not a supported
                database, or its driver is missing.  The message omits the URL.
        """
        database = Database(url, pool_size=pool_size, timeout=timeout, clock=clock)
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
        """Close the connections of this process."""
        self._database.close()
