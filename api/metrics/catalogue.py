"""Every metric: its name, type, labels and meaning; ``docs/reference/metrics.md``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)


Kind = Literal["counter", "gauge", "histogram"]

_FAMILIES: Mapping[Kind, type[Metric]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric; a counter's ``name`` ends with ``_total``."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str

    @property
    def family_name(self) -> str:
        """The name without the suffix that the client library adds to counters."""
        return self.name.removesuffix("_total")

    @property
    def sample_names(self) -> frozenset[str]:
        """The names of its samples."""
        if self.kind != "histogram":
            return frozenset({self.name})
        return frozenset(f"{self.name}_{part}" for part in ("bucket", "count", "sum"))


ALERTS = Spec("hotwallet_alerts_total", "counter", ("alert",), "Alerts, by name.")
KEYS = Spec("hotwallet_keys", "gauge", ("state",), "Keys of the ring, by state.")
KEY_EPOCH = Spec(
    "hotwallet_key_epoch", "gauge", (), "Epoch of the active key; 0 without one."
)
STOPPED = Spec(
    "hotwallet_stopped",
    "gauge",
    (),
    "Stops of signing in force, of networks or of everything.",
)
AUDIT_RECORDS = Spec(
    "hotwallet_audit_records",
    "gauge",
    (),
    "Audit records that are sealed into the hash chain.",
)
AUDIT_UNSEALED = Spec(
    "hotwallet_audit_unsealed_seconds",
    "gauge",
    (),
    "Age of the oldest audit record that is not sealed yet.",
)
CHECKPOINT_RECORDS = Spec(
    "hotwallet_audit_checkpoint_records",
    "gauge",
    (),
    "Audit records that the newest checkpoint covers.",
)
CHECKPOINT_AGE = Spec(
    "hotwallet_audit_checkpoint_age_seconds",
    "gauge",
    (),
    "Age of the newest checkpoint; absent without one.",
)
REFUNDS_OPEN = Spec(
    "hotwallet_refunds_open",
    "gauge",
    ("network", "tenant", "status", "blocker"),
    "Refunds that are not final; the blocker is the code of the last error.",
)
REFUND_OLDEST = Spec(
    "hotwallet_refund_oldest_seconds",
    "gauge",
    ("network", "status"),
    "How long the oldest refund has had its status; 0 if there is none.",
)
REFUNDS_ACCEPTED = Spec(
    "hotwallet_refunds_accepted_5m",
    "gauge",
    ("network", "tenant"),
    "Refunds that were accepted in the last five minutes.",
)
WALLETS_PAUSED = Spec(
    "hotwallet_wallets_paused",
    "gauge",
    ("network",),
    "Wallets that assign no nonces.",
)
WALLET_NONCE = Spec(
    "hotwallet_wallet_next_nonce",
    "gauge",
    ("network",),
    "Next nonce of the active key's wallet, by the database.",
)
APPROVALS = Spec(
    "hotwallet_approvals_waiting",
    "gauge",
    ("action",),
    "Changes that wait for another administrator, at most 200.",
)
WEBHOOK_DELIVERIES = Spec(
    "hotwallet_webhook_deliveries",
    "gauge",
    ("tenant", "state"),
    "Webhook deliveries that wait, failed and are tried again, or were given up.",
)
REFUSALS = Spec(
    "hotwallet_refusals_total",
    "counter",
    ("code",),
    "Requests for refunds that were refused, by code.",
)
DECISIONS = Spec(
    "hotwallet_policy_decisions_total",
    "counter",
    ("path", "verdict", "rule"),
    "Decisions of the policy about what was to be signed, by the rule that decided.",
)
SIGNATURES = Spec(
    "hotwallet_signatures_total",
    "counter",
    ("backend", "outcome"),
    "Signatures of all processes; the outcome is as in the audit log.",
)
HTTP_REQUESTS = Spec(
    "hotwallet_http_requests_total",
    "counter",
    ("method", "route", "status"),
    "Answered requests of all processes, by the route's template; probes are left out.",
)
HTTP_SECONDS = Spec(
    "hotwallet_http_request_seconds",
    "histogram",
    ("route",),
    "Time to answer a request, of all processes.",
)
WORKERS = Spec(
    "hotwallet_workers",
    "gauge",
    ("state",),
    "Workers, by whether they completed a pass in the last 20 seconds.",
)
WORKER_AGE = Spec(
    "hotwallet_worker_last_pass_age_seconds",
    "gauge",
    ("worker",),
    "Time since the worker last completed a pass; recorded every five seconds.",
)

OF_LEDGER = (
    ALERTS,
    KEYS,
    KEY_EPOCH,
    STOPPED,
    AUDIT_RECORDS,
    AUDIT_UNSEALED,
    CHECKPOINT_RECORDS,
    CHECKPOINT_AGE,
    REFUNDS_OPEN,
    REFUND_OLDEST,
    REFUNDS_ACCEPTED,
    WALLETS_PAUSED,
    WALLET_NONCE,
    APPROVALS,
    WEBHOOK_DELIVERIES,
    REFUSALS,
    DECISIONS,
    SIGNATURES,
    HTTP_REQUESTS,
    HTTP_SECONDS,
    WORKERS,
    WORKER_AGE,
)
"""Facts that each scrape reads from the database."""

SIGNATURE = Spec(
    "hotwallet_signature_seconds",
    "histogram",
    ("backend", "outcome"),
    "Time of a signature, its retries included; the outcome is as in the audit log.",
)
SIGNATURE_ATTEMPTS = Spec(
    "hotwallet_signature_attempts_total",
    "counter",
    ("backend",),
    "Calls of the device to sign, retries included.",
)
SIGNATURE_THROTTLED = Spec(
    "hotwallet_signature_throttled_total",
    "counter",
    ("backend",),
    "Calls that the device rejected because of the rate.",
)
SIGNATURE_THROTTLED_SHARE = Spec(
    "hotwallet_signature_throttled_share",
    "gauge",
    ("backend",),
    "Share of the calls of the last minute that were rejected because of the rate;"
    " 0 below five.",
)
REFUNDS_ENDED = Spec(
    "hotwallet_refunds_ended_total",
    "counter",
    ("network", "tenant", "status", "code"),
    "Refunds that became final; the code says why one was not paid.",
)
REFUND_BROADCAST = Spec(
    "hotwallet_refund_broadcast_seconds",
    "histogram",
    ("network",),
    "Time from the acceptance of a refund to its first broadcast.",
)
REFUND_CONFIRMED = Spec(
    "hotwallet_refund_confirmed_seconds",
    "histogram",
    ("network",),
    "Time from the acceptance of a refund to its confirmation.",
)
REFUND_SIGNATURES = Spec(
    "hotwallet_refund_signatures",
    "histogram",
    ("network",),
    "Signatures of transactions for the nonce of a refund that ended: more than one"
    " means higher fees, or a no-op.",
)
REFUND_DELAYS = Spec(
    "hotwallet_refund_delays_total",
    "counter",
    ("network", "code"),
    "Steps of refunds that failed and are repeated, by code.",
)
FEES_PAID = Spec(
    "hotwallet_fees_paid_total",
    "counter",
    ("network",),
    "Fees of the transactions that ended refunds, in whole coins.",
)
WALLET_BALANCE = Spec(
    "hotwallet_wallet_balance",
    "gauge",
    ("network", "asset"),
    "Balance of the active key's address, in whole units.",
)
WALLET_REFUNDS = Spec(
    "hotwallet_wallet_refunds_left",
    "gauge",
    ("network", "asset"),
    "Refunds like the average of the last 200 that the balance pays.",
)
WALLET_HOURS = Spec(
    "hotwallet_wallet_hours_left",
    "gauge",
    ("network", "asset"),
    "Hours like the average of the last 24 that the balance lasts.",
)
CHAIN_NONCE = Spec(
    "hotwallet_wallet_chain_nonce",
    "gauge",
    ("network",),
    "Next nonce of the active key's address in the newest block.",
)
MISSING_NONCES = Spec(
    "hotwallet_wallet_missing_nonces",
    "gauge",
    ("network",),
    "Nonces of the active key's wallet that no refund has, and later ones wait for; at"
    " most 20.",
)
TOP_UP_FAILING = Spec(
    "hotwallet_top_up_failing",
    "gauge",
    ("network", "asset"),
    "1 if the asset is low and the treasury does not top it up, else 0.",
)
WALLET_DELEGATED = Spec(
    "hotwallet_wallet_delegated",
    "gauge",
    ("network",),
    "1 if the active key's address has code, which is a delegation (EIP-7702), else 0.",
)
NETWORK_LOOKED = Spec(
    "hotwallet_network_looked_timestamp_seconds",
    "gauge",
    ("network",),
    "When a worker last asked the network's nodes, in seconds since 1970.",
)
NETWORK_PROBLEM = Spec(
    "hotwallet_network_problem",
    "gauge",
    ("network", "code"),
    "1 while workers cannot use the network, with the code of the error.",
)
MAX_FEE = Spec(
    "hotwallet_network_max_fee_gwei",
    "gauge",
    ("network",),
    "Max fee per gas of a first transaction now.",
)
NODE_UP = Spec(
    "hotwallet_node_up",
    "gauge",
    ("network", "node"),
    "1 if the node answers and counts towards the quorum, else 0.",
)
NODE_DISAGREES = Spec(
    "hotwallet_node_disagrees",
    "gauge",
    ("network", "node"),
    "1 for a minute after impossible answers, or such that contradict other nodes.",
)
NODE_LAG = Spec(
    "hotwallet_node_lag_blocks",
    "gauge",
    ("network", "node"),
    "How many blocks the node lags the highest head; absent while it does not answer.",
)

NETWORK_QUORUM = Spec(
    "hotwallet_network_quorum",
    "gauge",
    ("network",),
    "1 if enough nodes answer and agree, else 0: then nothing is sent or confirmed.",
)
HEAD_AGE = Spec(
    "hotwallet_network_head_age_seconds",
    "gauge",
    ("network",),
    "Time since the newest block changed; absent while no node answers.",
)
RPC_REQUESTS = Spec(
    "hotwallet_rpc_requests_total",
    "counter",
    ("network", "node", "method", "outcome"),
    "Calls of nodes, each member of a batch; the outcome is ok or an error's code.",
)
RPC_SECONDS = Spec(
    "hotwallet_rpc_exchange_seconds",
    "histogram",
    ("network", "node"),
    "Time of an exchange with a node: a call, or a batch.",
)
WORKER_CPU = Spec(
    "hotwallet_worker_cpu_seconds_total",
    "counter",
    (),
    "CPU time of the worker.",
)
WORKER_MEMORY = Spec(
    "hotwallet_worker_memory_bytes",
    "gauge",
    (),
    "Resident memory of the worker.",
)
WORKER_CONNECTIONS = Spec(
    "hotwallet_worker_database_connections",
    "gauge",
    ("state",),
    "Connections of the worker's pool: used, and the most that it opens.",
)

OF_WORKERS = (
    SIGNATURE,
    SIGNATURE_ATTEMPTS,
    SIGNATURE_THROTTLED,
    SIGNATURE_THROTTLED_SHARE,
    REFUNDS_ENDED,
    REFUND_BROADCAST,
    REFUND_CONFIRMED,
    REFUND_SIGNATURES,
    REFUND_DELAYS,
    FEES_PAID,
    WALLET_BALANCE,
    WALLET_REFUNDS,
    WALLET_HOURS,
    CHAIN_NONCE,
    MISSING_NONCES,
    TOP_UP_FAILING,
    WALLET_DELEGATED,
    NETWORK_LOOKED,
    NETWORK_PROBLEM,
    MAX_FEE,
    NODE_UP,
    NODE_DISAGREES,
    NODE_LAG,
    NETWORK_QUORUM,
    HEAD_AGE,
    RPC_REQUESTS,
    RPC_SECONDS,
    WORKER_CPU,
    WORKER_MEMORY,
    WORKER_CONNECTIONS,
)
"""What a worker measures.  ``/metrics`` adds the label ``worker`` to each."""


DATABASE_UP = Spec(
    "hotwallet_database_up",
    "gauge",
    (),
    "1 if the process could read the database for this answer, else 0.",
)

SERVER_CPU = Spec(
    "hotwallet_server_cpu_seconds_total",
    "counter",
    (),
    "CPU time of the server that answers: its gunicorn workers that run, together.",
)
SERVER_MEMORY = Spec(
    "hotwallet_server_memory_bytes",
    "gauge",
    (),
    "Resident memory of these workers together; what they share counts for each.",
)
SERVER_CONNECTIONS = Spec(
    "hotwallet_server_database_connections",
    "gauge",
    ("state",),
    "Connections of the pool of the worker that answers: used, and the most.",
)

OF_PROCESS = (DATABASE_UP, SERVER_CPU, SERVER_MEMORY, SERVER_CONNECTIONS)
"""What each process reports of itself, also while the database does not answer."""


def family(spec: Spec, *more_labels: str) -> Metric:
    """Return the empty family of *spec*, with *more_labels* after its own."""
    labels = [*spec.labels, *more_labels]
    return _FAMILIES[spec.kind](spec.family_name, spec.meaning, labels=labels)  # type: ignore[call-arg]
