"""
The lasting problems of the service, each with one name everywhere.

The name is that of the alert, of the rule for Prometheus, of the notice in the console,
of the code that ``hotwallet doctor`` prints, and of the runbook: the section of
``docs/how-to/alarms.md``.  Tests compare all of them with this list.
"""

from dataclasses import dataclass

from api.metrics import catalogue
from api.metrics.catalogue import Spec
from signer.alerts import Alert


@dataclass(frozen=True, slots=True)
class Condition:
    """
    A problem that lasts until an operator acts.

    *metrics* show it: its rule uses them.  *check* is the check of ``hotwallet doctor``
    that reports it, for a network without the network's name.
    """

    name: Alert
    metrics: tuple[Spec, ...]
    check: str


CONDITIONS = (
    Condition(Alert.WORKER_STOPPED, (catalogue.WORKERS,), "workers"),
    Condition(Alert.NODE_DOWN, (catalogue.NODE_UP,), "nodes"),
    Condition(Alert.NODE_LAGGING, (catalogue.NODE_LAG,), "nodes"),
    Condition(
        Alert.LOW_BALANCE,
        (catalogue.WALLET_REFUNDS, catalogue.WALLET_HOURS),
        "runway",
    ),
    Condition(Alert.TOP_UP_FAILING, (catalogue.TOP_UP_FAILING,), "top-ups"),
    Condition(Alert.WALLET_DELEGATED, (catalogue.WALLET_DELEGATED,), "delegation"),
    Condition(
        Alert.BACKEND_THROTTLED, (catalogue.SIGNATURE_THROTTLED_SHARE,), "throttling"
    ),
    Condition(Alert.SEALING_LATE, (catalogue.AUDIT_UNSEALED,), "audit"),
    Condition(Alert.WEBHOOK_FAILING, (catalogue.WEBHOOK_DELIVERIES,), "webhooks"),
    Condition(Alert.QUORUM_LOST, (catalogue.NETWORK_QUORUM,), "nodes"),
    Condition(Alert.CHAIN_STALLED, (catalogue.HEAD_AGE,), "worker"),
    Condition(Alert.REFUNDS_LATE, (catalogue.REFUND_OLDEST,), "worker"),
    Condition(Alert.DATABASE_UNREACHABLE, (catalogue.DATABASE_UP,), "database"),
    Condition(Alert.SIGNING_STOPPED, (catalogue.STOPPED,), "nonces"),
)
