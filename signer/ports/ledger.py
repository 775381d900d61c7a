"""The whole database interface."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from signer.ports.audit_journal import Journal
from signer.ports.control_store import ControlStore
from signer.ports.event_store import EventStore
from signer.ports.key_store import KeyStore
from signer.ports.refund_reports import RefundReports
from signer.ports.refund_store import RefundStore
from signer.ports.shared_state import SharedState
from signer.ports.wallet_store import WalletStore


T = TypeVar("T")


class Ledger(
    RefundStore,
    RefundReports,
    WalletStore,
    KeyStore,
    ControlStore,
    EventStore,
    Journal,
    SharedState,
    Protocol,
):
    """Every store that one database implements."""

    def tables(self, kind: Callable[[Any, Any], T]) -> T:
        """Return *kind* of the same database: an extra's own queries."""

    def close(self) -> None:
        """Close the connections of this process."""
