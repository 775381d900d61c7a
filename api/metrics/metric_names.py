"""Every metric: its name, meaning and labels.  The reference is generated from it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric.  A name that ends with ``_total`` is a counter's."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """The upper bounds of a histogram's buckets, without the last one, infinity."""

    @property
    def kind(self) -> Literal["counter", "gauge", "histogram"]:
        """The type of Prometheus."""
        if self.buckets:
            return "histogram"
        return "counter" if self.name.endswith("_total") else "gauge"

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


Specs = list[Spec]

OF_LEDGER: Specs = []
"""Facts that each scrape reads from the database."""

OF_PROCESSES: Specs = []
"""Counts of all processes together, since the database was made."""

OF_WORKERS: Specs = []
"""What a worker measures.  ``/metrics`` adds the label ``worker`` to each."""

OF_SERVER: Specs = []
"""What each process reports of itself, also while the database does not answer."""


def _declare(
    group: Specs,
    name: str,
    meaning: str,
    labels: str = "",
    buckets: tuple[float, ...] = (),
) -> Spec:
    spec = Spec(f"hotwallet_{name}", meaning, tuple(labels.split()), buckets)
    group.append(spec)
    return spec


ALERTS = _declare(OF_LEDGER, "alerts_total", "Alerts, by name.", "alert")
KEYS = _declare(OF_LEDGER, "keys", "Keys of the ring, by state.", "state")
KEY_EPOCH = _declare(OF_LEDGER, "key_epoch", "Epoch of the active key; 0 without one.")
STOPPED = _declare(
    OF_LEDGER, "stopped", "Stops of signing in force, of networks or of everything."
)
AUDIT_RECORDS = _declare(
    OF_LEDGER, "audit_records", "Audit records that are sealed into the hash chain."
)
AUDIT_UNSEALED = _declare(
    OF_LEDGER,
    "audit_unsealed_seconds",
    "Age of the oldest audit record that is not sealed yet.",
)
CHECKPOINT_RECORDS = _declare(
    OF_LEDGER,
    "audit_checkpoint_records",
    "Audit records that the newest checkpoint covers.",
)
CHECKPOINT_AGE = _declare(
    OF_LEDGER,
    "audit_checkpoint_age_seconds",
    "Age of the newest checkpoint; absent without one.",
)
REFUNDS_OPEN = _declare(
    OF_LEDGER,
    "refunds_open",
    "Refunds that are not final; the blocker is the code of the last error.",
    "network tenant status blocker",
)
REFUND_OLDEST = _declare(
    OF_LEDGER,
    "refund_oldest_seconds",
    "How long the oldest refund has had its status; 0 if there is none.",
    "network status",
)
REFUNDS_ACCEPTED = _declare(
    OF_LEDGER,
    "refunds_accepted_5m",
    "Refunds that were accepted in the last five minutes.",
    "network tenant",
)
WALLETS_PAUSED = _declare(
    OF_LEDGER, "wallets_paused", "Wallets that assign no nonces.", "network"
)
WALLET_NONCE = _declare(
    OF_LEDGER,
    "wallet_next_nonce",
    "Next nonce of the active key's wallet, by the database.",
    "network",
)
APPROVALS = _declare(
    OF_LEDGER,
    "approvals_waiting",
    "Changes that wait for another administrator, at most 200.",
    "action",
)
WEBHOOK_DELIVERIES = _declare(
    OF_LEDGER,
    "webhook_deliveries",
    "Webhook deliveries that wait, failed and are tried again, or were given up.",
    "tenant state",
)
WORKERS = _declare(
    OF_LEDGER,
    "workers",
    "Workers, by whether they completed a pass in the last 20 seconds.",
    "state",
)
WORKER_AGE = _declare(
    OF_LEDGER,
    "worker_last_pass_age_seconds",
    "Time since the worker last completed a pass; recorded every five seconds.",
    "worker",
)

_HTTP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
REFUSALS = _declare(
    OF_PROCESSES,
    "refusals_total",
    "Requests for refunds that were refused, by code.",
    "code",
)
DECISIONS = _declare(
    OF_PROCESSES,
    "policy_decisions_total",
    "Decisions of the policy about what was to be signed, by the rule that decided.",
    "path verdict rule",
)
SIGNATURES = _declare(
    OF_PROCESSES,
    "signatures_total",
    "Signatures of all processes; the outcome is as in the audit log.",
    "backend outcome",
)
HTTP_REQUESTS = _declare(
    OF_PROCESSES,
    "http_requests_total",
    "Answered requests of all processes, by the route's template; probes are left out.",
    "method route status",
)
HTTP_SECONDS = _declare(
    OF_PROCESSES,
    "http_request_seconds",
    "Time to answer a request, of all processes.",
    "route",
    buckets=_HTTP_BUCKETS,
)

_SIGNATURE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_RPC_BUCKETS = (0.05, 0.25, 1, 2.5, 5)
_REFUND_BUCKETS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 900, 3600, 14400)
_COUNT_BUCKETS = (1, 2, 3, 5, 10)
SIGNATURE = _declare(
    OF_WORKERS,
    "signature_seconds",
    "Time of a signature, its retries included; the outcome is as in the audit log.",
    "backend outcome",
    buckets=_SIGNATURE_BUCKETS,
)
SIGNATURE_ATTEMPTS = _declare(
    OF_WORKERS,
    "signature_attempts_total",
    "Calls of the device to sign, retries included.",
    "backend",
)
SIGNATURE_THROTTLED = _declare(
    OF_WORKERS,
    "signature_throttled_total",
    "Calls that the device rejected because of the rate.",
    "backend",
)
SIGNATURE_THROTTLED_SHARE = _declare(
    OF_WORKERS,
    "signature_throttled_share",
    "Share of the calls of the last minute that were rejected because of the rate;"
    " 0 below five.",
    "backend",
)
REFUNDS_ENDED = _declare(
    OF_WORKERS,
    "refunds_ended_total",
    "Refunds that became final; the code says why one was not paid.",
    "network tenant status code",
)
REFUND_BROADCAST = _declare(
    OF_WORKERS,
    "refund_broadcast_seconds",
    "Time from the acceptance of a refund to its first broadcast.",
    "network",
    buckets=_REFUND_BUCKETS,
)
REFUND_CONFIRMED = _declare(
    OF_WORKERS,
    "refund_confirmed_seconds",
    "Time from the acceptance of a refund to its confirmation.",
    "network",
    buckets=_REFUND_BUCKETS,
)
REFUND_SIGNATURES = _declare(
    OF_WORKERS,
    "refund_signatures",
    "Signatures of transactions for the nonce of a refund that ended: more than"
    " one means higher fees, or a no-op.",
    "network",
    buckets=_COUNT_BUCKETS,
)
REFUND_DELAYS = _declare(
    OF_WORKERS,
    "refund_delays_total",
    "Steps of refunds that failed and are repeated, by code.",
    "network code",
)
FEES_PAID = _declare(
    OF_WORKERS,
    "fees_paid_total",
    "Fees of the transactions that ended refunds, in whole coins.",
    "network",
)
WALLET_BALANCE = _declare(
    OF_WORKERS,
    "wallet_balance",
    "Balance of the active key's address, in whole units.",
    "network asset",
)
WALLET_REFUNDS = _declare(
    OF_WORKERS,
    "wallet_refunds_left",
    "Refunds like the average of the last 200 that the balance pays.",
    "network asset",
)
WALLET_HOURS = _declare(
    OF_WORKERS,
    "wallet_hours_left",
    "Hours like the average of the last 24 that the balance lasts.",
    "network asset",
)
CHAIN_NONCE = _declare(
    OF_WORKERS,
    "wallet_chain_nonce",
    "Next nonce of the active key's address in the newest block.",
    "network",
)
MISSING_NONCES = _declare(
    OF_WORKERS,
    "wallet_missing_nonces",
    "Nonces of the active key's wallet that no refund has, and later ones wait"
    " for; at most 20.",
    "network",
)
TOP_UP_FAILING = _declare(
    OF_WORKERS,
    "top_up_failing",
    "1 if the asset is low and the treasury does not top it up, else 0.",
    "network asset",
)
WALLET_DELEGATED = _declare(
    OF_WORKERS,
    "wallet_delegated",
    "1 if the active key's address has code, which is a delegation (EIP-7702), else 0.",
    "network",
)
NETWORK_LOOKED = _declare(
    OF_WORKERS,
    "network_looked_timestamp_seconds",
    "When a worker last asked the network's nodes, in seconds since 1970.",
    "network",
)
NETWORK_PROBLEM = _declare(
    OF_WORKERS,
    "network_problem",
    "1 while workers cannot use the network, with the code of the error.",
    "network code",
)
MAX_FEE = _declare(
    OF_WORKERS,
    "network_max_fee_gwei",
    "Max fee per gas of a first transaction now.",
    "network",
)
NODE_UP = _declare(
    OF_WORKERS,
    "node_up",
    "1 if the node answers and counts towards the quorum, else 0.",
    "network node",
)
NODE_DISAGREES = _declare(
    OF_WORKERS,
    "node_disagrees",
    "1 for a minute after impossible answers, or such that contradict other nodes.",
    "network node",
)
NODE_LAG = _declare(
    OF_WORKERS,
    "node_lag_blocks",
    "How many blocks the node lags the highest head; absent while it does not answer.",
    "network node",
)
NETWORK_QUORUM = _declare(
    OF_WORKERS,
    "network_quorum",
    "1 if enough nodes answer and agree, else 0: then nothing is sent or confirmed.",
    "network",
)
HEAD_AGE = _declare(
    OF_WORKERS,
    "network_head_age_seconds",
    "Time since the newest block changed; absent while no node answers.",
    "network",
)
RPC_REQUESTS = _declare(
    OF_WORKERS,
    "rpc_requests_total",
    "Calls of nodes, each member of a batch; the outcome is ok or an error's code.",
    "network node method outcome",
)
RPC_SECONDS = _declare(
    OF_WORKERS,
    "rpc_exchange_seconds",
    "Time of an exchange with a node: a call, or a batch.",
    "network node",
    buckets=_RPC_BUCKETS,
)
WORKER_CPU = _declare(OF_WORKERS, "worker_cpu_seconds_total", "CPU time of the worker.")
WORKER_MEMORY = _declare(
    OF_WORKERS, "worker_memory_bytes", "Resident memory of the worker."
)
WORKER_CONNECTIONS = _declare(
    OF_WORKERS,
    "worker_database_connections",
    "Connections of the worker's pool: used, and the most that it opens.",
    "state",
)

DATABASE_UP = _declare(
    OF_SERVER,
    "database_up",
    "1 if the process could read the database for this answer, else 0.",
)
SERVER_CPU = _declare(
    OF_SERVER,
    "server_cpu_seconds_total",
    "CPU time of the server that answers: its gunicorn workers that run, together.",
)
SERVER_MEMORY = _declare(
    OF_SERVER,
    "server_memory_bytes",
    "Resident memory of these workers together; what they share counts for each.",
)
SERVER_CONNECTIONS = _declare(
    OF_SERVER,
    "server_database_connections",
    "Connections of the pool of the worker that answers: used, and the most.",
    "state",
)

ALL = (*OF_LEDGER, *OF_PROCESSES, *OF_WORKERS, *OF_SERVER)
