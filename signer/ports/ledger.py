"""All that one database offers."""

from typing import Protocol

from signer.ports.alerts import AlertCounters
from signer.ports.audit_journal import Journal
from signer.ports.caller_counters import Callers
from signer.ports.key_store import KeyStore
from signer.ports.refund_store import Store


class Ledger(Store, KeyStore, Journal, Callers, AlertCounters, Protocol):
    """All that one database offers."""
