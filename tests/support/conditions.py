"""
The lasting problems of the service, each with one name everywhere.

The name is that of the alert, of the rule for Prometheus, of the notice in the console,
of the code that ``hotwallet doctor`` prints, and of the runbook: the section of
``docs/how-to/alarms.md``.  Tests compare all of them with this list.
"""

from dataclasses import dataclass

from api.metrics import metric_names
from api.metrics.metric_names import Spec
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
    Condition(Alert.WORKER_STOPPED, (metric_names.WORKERS,), "workers"),
    Condition(Alert.NODE_DOWN, (metric_names.NODE_UP,), "nodes"),
    Condition(Alert.NODE_LAGGING, (metric_names.NODE_LAG,), "nodes"),
    Condition(
        Alert.LOW_BALANCE,
        (metric_names.WALLET_REFUNDS, metric_names.WALLET_HOURS),
        "runway",
    ),
    Condition(Alert.TOP_UP_FAILING, (metric_names.TOP_UP_FAILING,), "top-ups"),
    Condition(Alert.WALLET_DELEGATED, (metric_names.WALLET_DELEGATED,), "delegation"),
    Condition(
        Alert.BACKEND_THROTTLED, (metric_names.SIGNATURE_THROTTLED_SHARE,), "throttling"
    ),
    Condition(Alert.SEALING_LATE, (metric_names.AUDIT_UNSEALED,), "audit"),
    Condition(Alert.SHIPPING_LATE, (metric_names.AUDIT_UNSHIPPED,), "shipping"),
    Condition(Alert.WEBHOOK_FAILING, (metric_names.WEBHOOK_DELIVERIES,), "webhooks"),
    Condition(Alert.QUORUM_LOST, (metric_names.NETWORK_QUORUM,), "nodes"),
    Condition(Alert.CHAIN_STALLED, (metric_names.HEAD_AGE,), "worker"),
    Condition(Alert.REFUNDS_LATE, (metric_names.REFUND_OLDEST,), "worker"),
    Condition(Alert.DATABASE_UNREACHABLE, (metric_names.DATABASE_UP,), "database"),
    Condition(Alert.SIGNING_STOPPED, (metric_names.STOPPED,), "nonces"),
)
