"""All that one database offers."""

from typing import Protocol

from signer.ports.alerts import AlertCounters
from signer.ports.callers import Callers
from signer.ports.journal import Journal
from signer.ports.ring import KeyStore
from signer.ports.store import Store


class Ledger(Store, KeyStore, Journal, Callers, AlertCounters, Protocol):
    """All that one database offers."""
