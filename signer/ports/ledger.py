"""The whole database interface."""

from typing import Protocol

from signer.ports.audit_journal import Journal
from signer.ports.book_reader import BookReader
from signer.ports.control_store import ControlStore
from signer.ports.event_store import EventStore
from signer.ports.key_store import KeyStore
from signer.ports.refund_reports import RefundReports
from signer.ports.refund_store import RefundStore
from signer.ports.shared_state import SharedState
from signer.ports.wallet_store import WalletStore


class Ledger(
    RefundStore,
    RefundReports,
    WalletStore,
    KeyStore,
    ControlStore,
    EventStore,
    Journal,
    SharedState,
    BookReader,
    Protocol,
):
    """Every store that one database implements."""
