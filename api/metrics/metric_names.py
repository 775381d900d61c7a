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
        if self.buckets:
            return "histogram"
        return "counter" if self.name.endswith("_total") else "gauge"

    @property
    def family_name(self) -> str:
        """The name without the suffix that the client library adds to counters."""
        return self.name.removesuffix("_total")

    @property
    def sample_names(self) -> frozenset[str]:
        if self.kind != "histogram":
            return frozenset({self.name})
        return frozenset(f"{self.name}_{part}" for part in ("bucket", "count", "sum"))


class Specs(list[Spec]):
    """A group of metrics."""

    def declare(
        self, name: str, meaning: str, labels: str = "", buckets: tuple[float, ...] = ()
    ) -> Spec:
        spec = Spec(f"hotwallet_{name}", meaning, tuple(labels.split()), buckets)
        self.append(spec)
        return spec


OF_LEDGER = Specs()
"""Facts that each scrape reads from the database."""

OF_PROCESSES = Specs()
"""Counts of all processes together, since the database was made."""

OF_WORKERS = Specs()
"""What a worker measures.  ``/metrics`` adds the label ``worker`` to each."""

OF_SERVER = Specs()
"""What each process reports of itself, also while the database does not answer."""


ALERTS = OF_LEDGER.declare("alerts_total", "Alerts, by name.", "alert")
KEYS = OF_LEDGER.declare("keys", "Keys of the ring, by state.", "state")
KEY_EPOCH = OF_LEDGER.declare("key_epoch", "Epoch of the active key; 0 without one.")
SECRET_AGE = OF_LEDGER.declare(
    "secret_age_seconds",
    "Age of a [secret](secrets.md): of its file on this host, or of the wallet's key.",
    "secret",
)
SECRET_LIFE = OF_LEDGER.declare(
    "secret_life_seconds", "After how long that secret should be replaced.", "secret"
)
STOPPED = OF_LEDGER.declare(
    "stopped", "Stops of signing in force: of tokens, networks, everything."
)
AUDIT_RECORDS = OF_LEDGER.declare(
    "audit_records", "Audit records that are sealed into the hash chain."
)
AUDIT_UNSEALED = OF_LEDGER.declare(
    "audit_unsealed_seconds", "Age of the oldest audit record that is not sealed yet."
)
AUDIT_UNSHIPPED = OF_LEDGER.declare(
    "audit_unshipped_seconds",
    "How long ago all audit records were at `AUDIT_SHIP_TO`; absent without it.",
)
CHECKPOINT_RECORDS = OF_LEDGER.declare(
    "audit_checkpoint_records", "Audit records that the newest checkpoint covers."
)
CHECKPOINT_AGE = OF_LEDGER.declare(
    "audit_checkpoint_age_seconds", "Age of the newest checkpoint; absent without one."
)
REFUNDS_OPEN = OF_LEDGER.declare(
    "refunds_open",
    "Refunds that are not final; the blocker is the code of the last error.",
    "network tenant status blocker",
)
REFUND_OLDEST = OF_LEDGER.declare(
    "refund_oldest_seconds",
    "How long the oldest refund has had its status; 0 if there is none.",
    "network status",
)
REFUNDS_ACCEPTED = OF_LEDGER.declare(
    "refunds_accepted_5m",
    "Refunds that were accepted in the last five minutes.",
    "network tenant",
)
WALLETS_PAUSED = OF_LEDGER.declare(
    "wallets_paused", "Wallets that assign no nonces.", "network"
)
WALLET_NONCE = OF_LEDGER.declare(
    "wallet_next_nonce",
    "Next nonce of the active key's wallet, by the database.",
    "network",
)
APPROVALS = OF_LEDGER.declare(
    "approvals_waiting",
    "Changes that wait for another administrator, at most 200.",
    "action",
)
WEBHOOK_DELIVERIES = OF_LEDGER.declare(
    "webhook_deliveries",
    "Webhook deliveries that wait, failed and are tried again, or were given up.",
    "tenant state",
)
WORKERS = OF_LEDGER.declare(
    "workers",
    "Workers, by whether they completed a pass in the last 20 seconds.",
    "state",
)
WORKER_AGE = OF_LEDGER.declare(
    "worker_last_pass_age_seconds",
    "Time since the worker last completed a pass; recorded every five seconds.",
    "worker",
)

_HTTP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
REFUSALS = OF_PROCESSES.declare(
    "refusals_total", "Requests for refunds that were refused, by code.", "code"
)
DECISIONS = OF_PROCESSES.declare(
    "policy_decisions_total",
    "Decisions of the policy about what was to be signed, by the rule that decided.",
    "path verdict rule",
)
SIGNATURES = OF_PROCESSES.declare(
    "signatures_total",
    "Signatures of all processes; the outcome is as in the audit log.",
    "backend outcome",
)
HTTP_REQUESTS = OF_PROCESSES.declare(
    "http_requests_total",
    "Answered requests of all processes, by the route's template; probes are left out.",
    "method route status",
)
HTTP_SECONDS = OF_PROCESSES.declare(
    "http_request_seconds",
    "Time to answer a request, of all processes.",
    "route",
    buckets=_HTTP_BUCKETS,
)

_SIGNATURE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_RPC_BUCKETS = (0.05, 0.25, 1, 2.5, 5)
_REFUND_BUCKETS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 900, 3600, 14400)
_COUNT_BUCKETS = (1, 2, 3, 5, 10)
SIGNATURE = OF_WORKERS.declare(
    "signature_seconds",
    "Time of a signature, its retries included; the outcome is as in the audit log.",
    "backend outcome",
    buckets=_SIGNATURE_BUCKETS,
)
SIGNATURE_ATTEMPTS = OF_WORKERS.declare(
    "signature_attempts_total",
    "Calls of the device to sign, retries included.",
    "backend",
)
SIGNATURE_THROTTLED = OF_WORKERS.declare(
    "signature_throttled_total",
    "Calls that the device rejected because of the rate.",
    "backend",
)
SIGNATURE_THROTTLED_SHARE = OF_WORKERS.declare(
    "signature_throttled_share",
    "Share of the calls of the last minute that were rejected because of the rate;"
    " 0 below five.",
    "backend",
)
REFUNDS_ENDED = OF_WORKERS.declare(
    "refunds_ended_total",
    "Refunds that became final; the code says why one was not paid.",
    "network tenant status code",
)
REFUND_BROADCAST = OF_WORKERS.declare(
    "refund_broadcast_seconds",
    "Time from the acceptance of a refund to its first broadcast.",
    "network",
    buckets=_REFUND_BUCKETS,
)
REFUND_CONFIRMED = OF_WORKERS.declare(
    "refund_confirmed_seconds",
    "Time from the acceptance of a refund to its confirmation.",
    "network",
    buckets=_REFUND_BUCKETS,
)
REFUND_SIGNATURES = OF_WORKERS.declare(
    "refund_signatures",
    "Signatures of transactions for the nonce of a refund that ended: more than"
    " one means higher fees, or a no-op.",
    "network",
    buckets=_COUNT_BUCKETS,
)
BATCH_SIZE = OF_WORKERS.declare(
    "batch_size",
    "Refunds of a final batch of a vault.",
    "network",
    buckets=(1, 2, 5, 10, 20, 50, 100),
)
BATCH_UNPAID = OF_WORKERS.declare(
    "batch_unpaid_total",
    "Refunds that a final batch did not pay, by code: failed or queued again.",
    "network code",
)
REFUND_DELAYS = OF_WORKERS.declare(
    "refund_delays_total",
    "Steps of refunds that failed and are repeated, by code.",
    "network code",
)
FEES_PAID = OF_WORKERS.declare(
    "fees_paid_total",
    "Fees of the transactions that ended refunds, in whole coins.",
    "network",
)
WALLET_BALANCE = OF_WORKERS.declare(
    "wallet_balance",
    "Balance of the active key's address, or of the vault, in whole units.",
    "network asset",
)
WALLET_REFUNDS = OF_WORKERS.declare(
    "wallet_refunds_left",
    "Refunds like the average of the last 200 that the balance pays.",
    "network asset",
)
WALLET_HOURS = OF_WORKERS.declare(
    "wallet_hours_left",
    "Hours like the average of the last 24 that the balance lasts.",
    "network asset",
)
CHAIN_NONCE = OF_WORKERS.declare(
    "wallet_chain_nonce",
    "Next nonce of the active key's address in the newest block.",
    "network",
)
MISSING_NONCES = OF_WORKERS.declare(
    "wallet_missing_nonces",
    "Nonces of the active key's wallet that no refund has, and later ones wait"
    " for; at most 20.",
    "network",
)
TOP_UP_FAILING = OF_WORKERS.declare(
    "top_up_failing",
    "1 if the asset is low and the treasury does not top it up, else 0.",
    "network asset",
)
WALLET_DELEGATED = OF_WORKERS.declare(
    "wallet_delegated",
    "1 if the active key's address has code, which is a delegation (EIP-7702), else 0.",
    "network",
)
REVOKED_OPERATORS = OF_WORKERS.declare(
    "vault_revoked_operators",
    "How many revoked keys the network's vault still lets pay.",
    "network",
)
NETWORK_LOOKED = OF_WORKERS.declare(
    "network_looked_timestamp_seconds",
    "When a worker last asked the network's nodes, in seconds since 1970.",
    "network",
)
NETWORK_PROBLEM = OF_WORKERS.declare(
    "network_problem",
    "1 while workers cannot use the network, with the code of the error.",
    "network code",
)
MAX_FEE = OF_WORKERS.declare(
    "network_max_fee_gwei", "Max fee per gas of a first transaction now.", "network"
)
NODE_UP = OF_WORKERS.declare(
    "node_up",
    "1 if the node answers and counts towards the quorum, else 0.",
    "network node",
)
NODE_DISAGREES = OF_WORKERS.declare(
    "node_disagrees",
    "1 for a minute after impossible answers, or such that contradict other nodes.",
    "network node",
)
NODE_LAG = OF_WORKERS.declare(
    "node_lag_blocks",
    "How many blocks the node lags the highest head; absent while it does not answer.",
    "network node",
)
NETWORK_QUORUM = OF_WORKERS.declare(
    "network_quorum",
    "1 if enough nodes answer and agree, else 0: then nothing is sent or confirmed.",
    "network",
)
HEAD_AGE = OF_WORKERS.declare(
    "network_head_age_seconds",
    "Time since the newest block changed; absent while no node answers.",
    "network",
)
RPC_REQUESTS = OF_WORKERS.declare(
    "rpc_requests_total",
    "Calls of nodes, each member of a batch; the outcome is ok or an error's code.",
    "network node method outcome",
)
RPC_SECONDS = OF_WORKERS.declare(
    "rpc_exchange_seconds",
    "Time of an exchange with a node: a call, or a batch.",
    "network node",
    buckets=_RPC_BUCKETS,
)
WORKER_CPU = OF_WORKERS.declare("worker_cpu_seconds_total", "CPU time of the worker.")
WORKER_MEMORY = OF_WORKERS.declare(
    "worker_memory_bytes", "Resident memory of the worker."
)
WORKER_CONNECTIONS = OF_WORKERS.declare(
    "worker_database_connections",
    "Connections of the worker's pool: used, and the most that it opens.",
    "state",
)

DATABASE_UP = OF_SERVER.declare(
    "database_up", "1 if the process could read the database for this answer, else 0."
)
SERVER_CPU = OF_SERVER.declare(
    "server_cpu_seconds_total",
    "CPU time of the server that answers: its gunicorn workers that run, together.",
)
SERVER_MEMORY = OF_SERVER.declare(
    "server_memory_bytes",
    "Resident memory of these workers together; what they share counts for each.",
)
SERVER_CONNECTIONS = OF_SERVER.declare(
    "server_database_connections",
    "Connections of the pool of the worker that answers: used, and the most.",
    "state",
)

ALL = (*OF_LEDGER, *OF_PROCESSES, *OF_WORKERS, *OF_SERVER)
