"""
The ports: Protocols that backends implement, and the values that they exchange.

It may import ``model`` and the packages below it.  mypy checks the backends where
``api/backend_factories.py`` returns them, and ``tests/contract`` tests them at run
time.
"""

from signer.ports.alerts import AlertCounters, Notifier
from signer.ports.approvals import ApprovalStore
from signer.ports.audit_journal import Checkpoint, DeclareForged, Journal, Sealing
from signer.ports.backend_plugin import BackendConfig, BackendPlugin
from signer.ports.book_reader import Attempt, BookReader, BookToken, NonceEntry
from signer.ports.caller_counters import Callers
from signer.ports.cancellations import Cancellations
from signer.ports.chain import (
    Block,
    Call,
    ChainClient,
    Fees,
    Log,
    MinedTransaction,
    NodeStatus,
    Outlook,
    Receipt,
    TransactionState,
)
from signer.ports.chain_history import (
    ChainHistory,
    Header,
    Settled,
    TokenTransfer,
)
from signer.ports.clock import Clock, utc_now
from signer.ports.event_store import (
    Backlog,
    DeliveryAttempt,
    DeliveryFilter,
    DueDelivery,
    EventPage,
    EventStore,
    Pruned,
    Sequenced,
)
from signer.ports.key_backend import (
    DeviceSignature,
    KeyBackend,
    KeyDirectory,
    KeyId,
)
from signer.ports.key_set import FetchKeySet, KeySetError
from signer.ports.key_store import KeyStore
from signer.ports.ledger import Ledger
from signer.ports.limits_store import LimitsStore
from signer.ports.look_store import LookStore
from signer.ports.meter import NO_METER, Meter, Meters
from signer.ports.node_proxy import NodeProxy
from signer.ports.payment_statistics import PaymentStatistics
from signer.ports.refund_search import RefundFilter, RefundSearch
from signer.ports.refund_statistics import RefundStatistics
from signer.ports.refund_store import Change, Permit, Reservation, Store
from signer.ports.screening_service import Question, ScreeningService
from signer.ports.shared_counters import SharedCounters
from signer.ports.stop_store import StopStore
from signer.ports.tenant_blocks import TenantBlocks
from signer.ports.watch import Topic, Watch, Watches
from signer.ports.webhook_sender import WebhookSender
from signer.ports.worker_store import WorkerStore


__all__ = [
    "NO_METER",
    "AlertCounters",
    "ApprovalStore",
    "Attempt",
    "BackendConfig",
    "BackendPlugin",
    "Backlog",
    "Block",
    "BookReader",
    "BookToken",
    "Call",
    "Callers",
    "Cancellations",
    "ChainClient",
    "ChainHistory",
    "Change",
    "Checkpoint",
    "Clock",
    "DeclareForged",
    "DeliveryAttempt",
    "DeliveryFilter",
    "DeviceSignature",
    "DueDelivery",
    "EventPage",
    "EventStore",
    "Fees",
    "FetchKeySet",
    "Header",
    "Journal",
    "KeyBackend",
    "KeyDirectory",
    "KeyId",
    "KeySetError",
    "KeyStore",
    "Ledger",
    "LimitsStore",
    "Log",
    "LookStore",
    "Meter",
    "Meters",
    "MinedTransaction",
    "NodeProxy",
    "NodeStatus",
    "NonceEntry",
    "Notifier",
    "Outlook",
    "PaymentStatistics",
    "Permit",
    "Pruned",
    "Question",
    "Receipt",
    "RefundFilter",
    "RefundSearch",
    "RefundStatistics",
    "Reservation",
    "ScreeningService",
    "Sealing",
    "Sequenced",
    "Settled",
    "SharedCounters",
    "StopStore",
    "Store",
    "TenantBlocks",
    "TokenTransfer",
    "Topic",
    "TransactionState",
    "Watch",
    "Watches",
    "WebhookSender",
    "WorkerStore",
    "utc_now",
]
