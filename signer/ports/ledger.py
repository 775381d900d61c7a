"""The whole database interface."""

from typing import Protocol

from signer.ports.alerts import AlertCounters
from signer.ports.audit_journal import Journal
from signer.ports.book_reader import BookReader
from signer.ports.caller_counters import Callers
from signer.ports.event_store import EventStore
from signer.ports.key_store import KeyStore
from signer.ports.limits_store import LimitsStore
from signer.ports.payment_statistics import PaymentStatistics
from signer.ports.refund_search import RefundSearch
from signer.ports.refund_statistics import RefundStatistics
from signer.ports.refund_store import Store
from signer.ports.shared_counters import SharedCounters
from signer.ports.worker_store import WorkerStore


class Ledger(
    Store,
    EventStore,
    LimitsStore,
    PaymentStatistics,
    RefundStatistics,
    RefundSearch,
    KeyStore,
    Journal,
    Callers,
    AlertCounters,
    SharedCounters,
    WorkerStore,
    BookReader,
    Protocol,
):
    """Every store that one database implements."""
