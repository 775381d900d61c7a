"""What each process may write on PostgreSQL: the grants of ``docker/grants.sql``."""

from collections.abc import Iterable, Mapping

from sqlalchemy import Table

from backends.sql import schema
from backends.sql.refund_approvals import PROPOSED
from backends.sql.statements import ACCEPTED, CALLED, FIRST_EVENT


Privilege = tuple[str, str, str | None]
"""INSERT, UPDATE or DELETE; a table; and a column, or None for DELETE."""


def _on(privilege: str, table: Table, *columns: str) -> set[Privilege]:
    """Return *privilege* on *columns*, by default on all."""
    names: Iterable[str] = columns or table.c.keys()
    return {(privilege, table.name, name) for name in names}


def _counting(table: Table) -> set[Privilege]:
    """Return what inserts rows of *table* and adds to their count."""
    return _on("INSERT", table) | _on("UPDATE", table, "count")


def _forgetting(table: Table) -> set[Privilege]:
    """Return what deletes old rows of *table*."""
    return {("DELETE", table.name, None)}


_EVERY_PROCESS = (
    _on("INSERT", schema.audit_records, "id", "body", "mac")
    | _counting(schema.alerts)
    | _on("UPDATE", schema.alerts, "last_at")
)

_ATTEMPTS = _counting(schema.attempts) | _forgetting(schema.attempts)

# One statement inserts refund, event and request, and another one the proposal.
_NEW_REFUNDS = (
    _on("INSERT", schema.refunds, *ACCEPTED)
    | _on("INSERT", schema.events, *FIRST_EVENT)
    | _on("INSERT", schema.request_signatures)
    | _on("INSERT", schema.approvals, *PROPOSED)
)

_REFUNDS = (
    _EVERY_PROCESS
    | _ATTEMPTS
    | _NEW_REFUNDS
    | _on("UPDATE", schema.refunds, "cancel_requested_at")
    | _on("INSERT", schema.refund_moves, "refund_id", "status", "at")
)

_SPENDINGS = _on("INSERT", schema.spendings) | _on("UPDATE", schema.spendings, "amount")

# It accepts what JSON-RPC's clients send, and signs without a nonce: it counts what
# typed data lets leave.
_SIGN = (
    _EVERY_PROCESS
    | _SPENDINGS
    | _ATTEMPTS
    | _NEW_REFUNDS
    | _on("INSERT", schema.refunds, *CALLED)
    | _on("INSERT", schema.refund_moves, "refund_id", "status", "at")
)

_SEALING = _on("UPDATE", schema.audit_records, "sequence", "hash") | _on(
    "INSERT", schema.audit_checkpoints
)

_WALLETS = (
    _on(
        "UPDATE",
        schema.wallets,
        *("paused_by", "paused_at", "version", "high_water", "mac"),
    )
    | _on("INSERT", schema.sightings)
    | _on("UPDATE", schema.sightings, "accepted_at", "mac")
)

_STOPS = _on("INSERT", schema.stops) | _on(
    "UPDATE", schema.stops, *set(schema.stops.c.keys()) - {"chain_id"}
)

# A worker blocks tenants by the rules of `automatic_stop`.
_BLOCKS = _on("INSERT", schema.tenant_blocks) | _on(
    "UPDATE", schema.tenant_blocks, "at", "by", "ended_at", "version", "mac"
)

_EVENT = tuple(name for name, _ in schema.events.c.items() if name != "sequence")
_ATTEMPT = ("state", "attempts", "due_at", "problem", "updated_at", "version")
_DELIVERIES = _on("INSERT", schema.webhook_deliveries) | _on(
    "UPDATE", schema.webhook_deliveries, *_ATTEMPT
)

_RESERVATION = ("sender", "key_id", "nonce", "gas_limit")
_MOVE = ("status", "updated_at", "version", "due_at", "attempts", "blocked_by")
_RESULT = ("tx_hash", "block_number", "block_hash", "failure_code", "failure_detail")
_LIMITS = ("document", "accepted_at", "version", "mac")
_KEY_STATE = ("state", "updated_at", "epoch", "requested_by", "blocked_by")

_PROPOSAL = (
    "action",
    "proposal",
    "reason",
    "requested_by",
    "requested_at",
    "expires_at",
    "refund_id",
)
_DECISION = ("state", "decided_by", "decided_at")

_WORKER = (
    _EVERY_PROCESS
    | _SEALING
    | _WALLETS
    | _STOPS
    | _on("UPDATE", schema.refunds, *_MOVE, *_RESERVATION, *_RESULT)
    | _on("INSERT", schema.refund_moves)
    | _on("INSERT", schema.events, *_EVENT)
    | _on("UPDATE", schema.events, "sequence")
    | _DELIVERIES
    | _forgetting(schema.events)
    | _forgetting(schema.webhook_deliveries)
    | _on("INSERT", schema.transactions)
    | _on("INSERT", schema.approvals)
    | _on("UPDATE", schema.approvals, *_DECISION, "version", "mac")
    | _on("INSERT", schema.wallets)
    | _SPENDINGS
    | _on("INSERT", schema.keys)
    | _on("UPDATE", schema.keys, *_KEY_STATE, "version", "mac", "proved_at")
    | _on("INSERT", schema.accepted_limits)
    | _BLOCKS
    | _on("UPDATE", schema.accepted_limits, *_LIMITS)
    | _on("INSERT", schema.workers)
    | _on("UPDATE", schema.workers, "passed_at", "metrics")
    | _forgetting(schema.workers)
)

_ADMIN = (
    _EVERY_PROCESS
    | _SEALING
    | _DELIVERIES
    | _WALLETS
    | _STOPS
    | _ATTEMPTS
    | _NEW_REFUNDS
    | _on("INSERT", schema.refunds, *CALLED)  # A restore creates lost ones again.
    | _on("UPDATE", schema.refunds, *_MOVE, *_RESERVATION, "cancel_requested_at")
    | _on("INSERT", schema.refund_moves)
    | _on("INSERT", schema.wallets)
    | _on("INSERT", schema.keys)
    | _on("UPDATE", schema.keys, *_KEY_STATE, "version", "mac")
    | _on("UPDATE", schema.keys, "key_id", "held_until")
    | _on("INSERT", schema.approvals)
    | _on("UPDATE", schema.approvals, *_PROPOSAL, *_DECISION, "version", "mac")
    | _BLOCKS
    | _on("INSERT", schema.used_tokens)
    | _on("UPDATE", schema.used_tokens, "expires_at")
    | _forgetting(schema.used_tokens)
)

GRANTS: Mapping[str, frozenset[Privilege]] = {
    "refunds": frozenset(_REFUNDS),
    "worker": frozenset(_WORKER),
    "admin": frozenset(_ADMIN),
    "sign": frozenset(_SIGN),
    "all": frozenset(_REFUNDS | _WORKER | _ADMIN | _SIGN),
}
"""By process role: what it may write.  The role "all" is that of `hotwallet up`."""
