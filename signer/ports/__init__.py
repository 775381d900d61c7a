"""
The ports: Protocols that backends implement, and the values that they exchange.

It may import ``model`` and the packages below it.  mypy checks the backends where
``api/backend_factories.py`` returns them, and ``tests/contract`` tests them at run
time.
"""

from signer.ports.backend_plugin import BackendConfig, BackendPlugin
from signer.ports.clock import Clock, utc_now
from signer.ports.control_store import ControlStore as ApprovalStore
from signer.ports.key_backend import KeyBackend, KeyDirectory, KeyId
from signer.ports.shared_state import SharedState as AlertCounters
from signer.ports.webhook_sender import Notifier


# For modules that still import these names from here.
__all__ = [
    "AlertCounters",
    "ApprovalStore",
    "BackendConfig",
    "BackendPlugin",
    "Clock",
    "KeyBackend",
    "KeyDirectory",
    "KeyId",
    "Notifier",
    "utc_now",
]
