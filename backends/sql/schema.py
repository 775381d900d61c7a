"""
The tables: their columns, constraints and indexes.

The columns have the names and the order of the fields in ``signer.model``, so a row can
be passed to ``Refund`` as it is.  The baseline migration creates these tables, with the
triggers of ``backends.sql.triggers``.  ``docs/reference/database.md`` explains them.
"""

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    UniqueConstraint,
    text,
)

from backends.sql.columns import FreeText, Named, Plain, Uint256, UTCDateTime
from signer.model.approval import ApprovalState
from signer.model.delivery import DeliveryState
from signer.model.event import TYPES
from signer.model.key import KeyState
from signer.model.refund import OPEN, UNSENT, Kind, Status
from signer.model.wallet import Pause


HEAD = "0001"
"""The newest migration, which this program needs; a test checks that it is."""


def status_in(statuses: frozenset[Status]) -> str:
    """
    Return the SQL condition that the status is one of *statuses*, with literals.

    With parameters instead, neither planner would use a partial index.
    """
    return "status IN ({})".format(", ".join(f"'{name}'" for name in sorted(statuses)))


IS_OPEN = status_in(OPEN)

IS_CLAIMABLE = status_in(UNSENT | {Status.BROADCAST})
"""Whether a worker has something to do, now or later."""

ZERO = {"sqlite": f"'{0:078d}'", "postgresql": "0"}
"""By dialect: the amount zero."""

READABLE = "BETWEEN TIMESTAMPTZ '1970-01-01 UTC' AND TIMESTAMPTZ '9999-12-30 UTC'"
"""The condition on PostgreSQL that Python can read a time."""

_MAX_REQUEST = 32 * 2**10  # The API accepts bodies of 16 KiB, and headers of 9 KiB.

_FIRST_STATUS = "version > 0 OR status IN ('awaiting-approval', 'queued')"

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def _one_of(column: str, members: type[StrEnum] | frozenset[Status]) -> CheckConstraint:
    """Return the constraint that *column* is one of *members*."""
    names = ", ".join(f"'{name}'" for name in sorted(members))
    return CheckConstraint(f"{column} IN ({names})", column)


def _check(
    name: str, *, sqlite: str = "", postgresql: str = ""
) -> list[CheckConstraint]:
    """Return the constraint *name*, which differs between the databases."""
    conditions = {"sqlite": sqlite, "postgresql": postgresql}
    return [
        CheckConstraint(condition, name).ddl_if(dialect=dialect)
        for dialect, condition in conditions.items()
        if condition
    ]


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """Return an index of the rows for which *where* holds."""
    condition = text(where)
    return Index(
        name,
        *columns,
        unique=unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )


refunds = Table(
    "refunds",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("tenant", Plain, nullable=False),
    Column("idempotency_key", Plain, nullable=False),
    Column("fingerprint", Plain, nullable=False),
    Column("reference", Plain, nullable=False),
    Column("payment_session_id", Plain, nullable=False),
    Column("network", Plain, nullable=False),
    Column("chain_id", BigInteger, nullable=False),
    Column("token", Plain, nullable=False),
    Column("token_address", Plain, nullable=False),
    Column("decimals", Integer, nullable=False),
    Column("recipient", Plain, nullable=False),
    Column("amount", Uint256, nullable=False),
    Column("reason", Plain),
    Column("status", Named(Status), nullable=False, server_default="queued"),
    Column("created_at", UTCDateTime, nullable=False),
    Column("updated_at", UTCDateTime, nullable=False),
    Column("version", Integer, nullable=False, server_default="0"),
    Column("sender", Plain),
    Column("key_id", Plain),
    Column("nonce", BigInteger),
    Column("gas_limit", BigInteger),
    Column("tx_hash", Plain),
    Column("block_number", BigInteger),
    Column("block_hash", Plain),
    Column("failure_code", Plain),
    Column("failure_detail", FreeText),
    Column(
        "due_at",
        UTCDateTime,
        nullable=False,
        server_default="1970-01-01T00:00:00.000000+00:00",
    ),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("blocked_by", Plain),
    Column("mac", Plain),
    Column("cancel_requested_at", UTCDateTime),
    Column("calldata", LargeBinary),
    UniqueConstraint("tenant", "idempotency_key", name="uq_refunds_idempotency_key"),
    UniqueConstraint("tenant", "reference", name="uq_refunds_reference"),
    UniqueConstraint("chain_id", "sender", "nonce", name="uq_refunds_nonce"),
    _one_of("status", Status),
    # A call may have no value.  Everything else pays something.
    *_check(
        "amount",
        **{
            dialect: f"amount > {zero} OR (calldata IS NOT NULL AND amount >= {zero})"
            for dialect, zero in ZERO.items()
        },
    ),
    *_check(
        "calldata",
        sqlite="calldata IS NULL OR length(calldata) <= 16384",
        postgresql="calldata IS NULL OR octet_length(calldata) <= 16384",
    ),
    CheckConstraint(
        "chain_id > 0 AND decimals >= 0 AND version >= 0"
        " AND nonce >= 0 AND gas_limit > 0 AND block_number >= 0",
        "ranges",
    ),
    CheckConstraint(
        "(status IN ('awaiting-approval', 'cancelled', 'queued', 'refused'))"
        " = (nonce IS NULL)"
        " AND (nonce IS NULL) = (sender IS NULL)"
        " AND (nonce IS NULL) = (key_id IS NULL)"
        " AND (nonce IS NULL) = (gas_limit IS NULL)",
        "reservation",
    ),
    CheckConstraint(
        "NOT (status IN ('broadcast', 'confirmed', 'mined', 'signed'))"
        " OR tx_hash IS NOT NULL",
        "transaction",
    ),
    CheckConstraint(
        "NOT (status IN ('confirmed', 'mined'))"
        " OR (block_number IS NOT NULL AND block_hash IS NOT NULL)",
        "block",
    ),
    # A worker reads refunds in batches: one that Python cannot read would stop all of
    # them.  So would an amount with millions of decimals, which takes minutes to write
    # out, and texts that do not fit into its memory.
    *_check(
        "readable",
        postgresql="amount <> 'NaN' AND decimals <= 36"
        f" AND created_at {READABLE} AND updated_at {READABLE}"
        f" AND due_at {READABLE} AND cancel_requested_at {READABLE}"
        " AND octet_length(id || tenant || idempotency_key || fingerprint || reference"
        " || payment_session_id || network || token || token_address || recipient"
        " || coalesce(reason, '') || coalesce(mac, '')) <= 16000",
    ),
    Index("ix_refunds_tenant", "tenant", "id"),
    Index("ix_refunds_session", "tenant", "payment_session_id", "id"),
    Index("ix_refunds_status", "tenant", "status", "id"),
    _partial("ix_refunds_open", "id", where=IS_OPEN),
    _partial(
        "ix_refunds_due",
        "due_at",
        where="status IN ('broadcast', 'reserved', 'signed')",
    ),
    _partial(
        "ix_refunds_queued", "tenant", "due_at", "id", where="status IN ('queued')"
    ),
    _partial(
        "ix_refunds_result",
        "chain_id",
        "updated_at",
        where="status IN ('confirmed', 'failed')",
    ),
    _partial(
        "ix_refunds_confirmed",
        *("chain_id", "token_address", "recipient", "updated_at"),
        where="status IN ('confirmed')",
    ),
    _partial("ix_refunds_awaiting", "id", where="status = 'awaiting-approval'"),
    _partial(
        "ix_refunds_cancel_requested",
        "id",
        where="status IN ('awaiting-approval', 'queued')"
        " AND cancel_requested_at IS NOT NULL",
    ),
)

transactions = Table(
    "transactions",
    metadata,
    Column("tx_hash", Plain, primary_key=True),
    Column("refund_id", Plain, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", Named(Kind), nullable=False),
    Column("chain_id", BigInteger, nullable=False),
    Column("sender", Plain, nullable=False),
    Column("nonce", BigInteger, nullable=False),
    Column("max_fee_per_gas", Uint256, nullable=False),
    Column("max_priority_fee_per_gas", Uint256, nullable=False),
    Column("gas_limit", BigInteger, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("signed_at", UTCDateTime, nullable=False),
    UniqueConstraint("refund_id", "attempt", name="uq_transactions_attempt"),
    ForeignKeyConstraint(["refund_id"], ["refunds.id"], "fk_transactions_refund"),
    _one_of("kind", Kind),
    CheckConstraint(
        "attempt >= 0 AND chain_id > 0 AND nonce >= 0 AND gas_limit > 0"
        " AND max_priority_fee_per_gas <= max_fee_per_gas",
        "ranges",
    ),
    Index("ix_transactions_signed_at", "chain_id", "signed_at"),
)

refund_moves = Table(
    "refund_moves",
    metadata,
    Column("refund_id", Plain, primary_key=True),
    Column("version", Integer, primary_key=True, server_default="0"),
    Column("status", Named(Status), nullable=False, server_default="queued"),
    Column("at", UTCDateTime, nullable=False),
    ForeignKeyConstraint(["refund_id"], ["refunds.id"], "fk_refund_moves_refund"),
    _one_of("status", Status),
    CheckConstraint(_FIRST_STATUS, "first"),
    sqlite_with_rowid=False,  # One B-tree for table and primary key.
)

request_signatures = Table(
    "request_signatures",
    metadata,
    Column("refund_id", Plain, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("content_digest", Plain, nullable=False),
    Column("signature_input", Plain, nullable=False),
    Column("signature", Plain, nullable=False),
    Column("at", UTCDateTime, nullable=False),
    ForeignKeyConstraint(["refund_id"], ["refunds.id"], "fk_request_signatures_refund"),
    *_check(
        "readable",
        postgresql=f"octet_length(body) <= {_MAX_REQUEST}"
        " AND octet_length(content_digest || signature_input || signature)"
        f" <= {_MAX_REQUEST}",
    ),
)

wallets = Table(
    "wallets",
    metadata,
    Column("chain_id", BigInteger, primary_key=True),
    Column("sender", Plain, primary_key=True),
    Column("first_nonce", BigInteger, nullable=False),
    Column("paused_by", Named(Pause)),
    Column("paused_at", UTCDateTime),
    Column("version", Integer, nullable=False),
    Column("high_water", BigInteger),
    Column("mac", Plain),
    CheckConstraint("chain_id > 0 AND first_nonce >= 0 AND version >= 0", "ranges"),
    CheckConstraint("(paused_by IS NULL) = (paused_at IS NULL)", "pause"),
)

sightings = Table(
    "sightings",
    metadata,
    Column("chain_id", BigInteger, primary_key=True),
    Column("sender", Plain, primary_key=True),
    Column("nonce", BigInteger, primary_key=True),
    Column("tx_hash", Plain, nullable=False),
    Column("mark", LargeBinary),
    Column("gas_limit", BigInteger, nullable=False),
    Column("block_number", BigInteger, nullable=False),
    Column("block_hash", Plain, nullable=False),
    Column("seen_at", UTCDateTime, nullable=False),
    Column("accepted_at", UTCDateTime),
    Column("mac", Plain),
    ForeignKeyConstraint(
        ["chain_id", "sender"],
        ["wallets.chain_id", "wallets.sender"],
        "fk_sightings_wallet",
    ),
    CheckConstraint("nonce >= 0 AND gas_limit > 0 AND block_number >= 0", "ranges"),
    Index("ix_sightings_mark", "chain_id", "mark"),
)

spendings = Table(
    "spendings",
    metadata,
    Column("chain_id", BigInteger, primary_key=True),
    Column("token_address", Plain, primary_key=True),
    Column("tenant", Plain, primary_key=True),
    Column("recipient", Plain, primary_key=True),
    Column("hour", BigInteger, primary_key=True),
    Column("amount", Uint256, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("backend", Plain, nullable=False),
    Column("key_id", Plain, nullable=False),
    Column("address", Plain, primary_key=True),
    Column("state", Named(KeyState), nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("updated_at", UTCDateTime, nullable=False),
    Column("epoch", BigInteger),
    Column("requested_by", Plain),
    Column("held_until", UTCDateTime),
    Column("blocked_by", Plain),
    Column("version", Integer, nullable=False),
    Column("mac", Plain),
    Column("proved_at", UTCDateTime),
    UniqueConstraint("backend", "key_id", name="uq_keys_id"),
    UniqueConstraint("epoch", name="uq_keys_epoch"),
    _one_of("state", KeyState),
    CheckConstraint(
        "state NOT IN ('active', 'blocked', 'draining', 'retired')"
        " OR epoch IS NOT NULL",
        "epoch",
    ),
    CheckConstraint("version >= 0 AND epoch > 0", "ranges"),
    *_check("readable", postgresql=f"proved_at {READABLE}"),
    # At most one active and one pending key, which also makes rotations exclusive.
    _partial("uq_keys_active", "state", where="state = 'active'", unique=True),
    _partial("uq_keys_pending", "state", where="state = 'pending'", unique=True),
)

audit_records = Table(
    "audit_records",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("body", Plain, nullable=False),
    Column("sequence", BigInteger),
    Column("hash", LargeBinary),
    Column("mac", Plain),
    UniqueConstraint("sequence", name="uq_audit_records_sequence"),
    CheckConstraint("(sequence IS NULL) = (hash IS NULL) AND sequence > 0", "seal"),
    _partial("ix_audit_records_unsealed", "id", where="sequence IS NULL"),
    _partial(
        "ix_audit_records_configuration",
        "id",
        where="""body LIKE '%"event":"configuration-loaded"%'""",
    ),
    _partial("ix_audit_records_holds", "id", where="""body LIKE '%"hold_changes":%'"""),
)

audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("note", Plain, primary_key=True),
    # A role that may insert checkpoints can insert any text.  One of a length that is
    # taken must not keep ours out, so the note is a part of the key, and has a limit.
    *_check(
        "fits",
        sqlite="typeof(size) = 'integer' AND typeof(note) = 'text'"
        " AND size > 0 AND length(CAST(note AS BLOB)) <= 2000",
        postgresql="size > 0 AND octet_length(note) <= 2000",
    ),
    sqlite_with_rowid=False,
)

used_tokens = Table(
    "used_tokens",
    metadata,
    Column("jti", Plain, primary_key=True),
    Column("expires_at", UTCDateTime, nullable=False),
    Index("ix_used_tokens_expires_at", "expires_at"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("bucket", Plain, primary_key=True),
    Column("period", BigInteger, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Index("ix_attempts_period", "period"),
)

alerts = Table(
    "alerts",
    metadata,
    Column("name", Plain, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("last_at", UTCDateTime, nullable=False),
)

tenant_blocks = Table(
    "tenant_blocks",
    metadata,
    Column("tenant", Plain, primary_key=True),
    Column("at", UTCDateTime, nullable=False),
    Column("by", Plain, nullable=False),
    Column("ended_at", UTCDateTime),
    Column("version", Integer, nullable=False),
    Column("mac", Plain),
)

approvals = Table(
    "approvals",
    metadata,
    Column("digest", Plain, primary_key=True),
    Column("action", Plain, nullable=False, server_default="refund-pay"),
    Column("proposal", Plain, nullable=False),
    Column("reason", FreeText, nullable=False, server_default=""),
    Column("requested_by", Plain, nullable=False),
    Column("requested_at", UTCDateTime, nullable=False),
    Column("expires_at", UTCDateTime, nullable=False),
    Column("state", Named(ApprovalState), nullable=False, server_default="waiting"),
    Column("decided_by", Plain),
    Column("decided_at", UTCDateTime),
    Column("refund_id", Plain),
    Column("version", Integer, nullable=False, server_default="0"),
    Column("mac", Plain),
    _one_of("state", ApprovalState),
    _partial(
        "ix_approvals_open",
        *("requested_at", "digest"),
        where="state IN ('approved', 'waiting')",
    ),
    _partial("ix_approvals_refund", "refund_id", where="refund_id IS NOT NULL"),
)

accepted_limits = Table(
    "accepted_limits",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("document", Plain, nullable=False),
    Column("accepted_at", UTCDateTime, nullable=False),
    Column("version", Integer, nullable=False),
    Column("mac", Plain),
    CheckConstraint("id = 1", "one"),
)

stops = Table(
    "stops",
    metadata,
    Column("chain_id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UTCDateTime, nullable=False),
    Column("reason", FreeText, nullable=False),
    Column("requested_by", Plain, nullable=False),
    Column("resumed_at", UTCDateTime),
    Column("version", Integer, nullable=False),
    Column("mac", Plain),
)

events = Table(
    "events",
    metadata,
    Column("id", Plain, primary_key=True),
    Column("tenant", Plain, nullable=False),
    Column("refund_id", Plain, nullable=False),
    Column("version", Integer, nullable=False, server_default="0"),
    Column("status", Named(Status), nullable=False),
    Column("at", UTCDateTime, nullable=False),
    Column("sender", Plain),
    Column("nonce", BigInteger),
    Column("tx_hash", Plain),
    Column("block_number", BigInteger),
    Column("failure_code", Plain),
    Column("failure_detail", Plain),
    Column("mac", Plain),
    Column("sequence", BigInteger),
    _one_of("status", frozenset(TYPES)),
    CheckConstraint(_FIRST_STATUS, "first"),
    *_check(
        "readable",
        postgresql=f"at {READABLE} AND octet_length(id || tenant || refund_id"
        " || coalesce(sender, '') || coalesce(tx_hash, '')"
        " || coalesce(failure_code, '') || coalesce(failure_detail, '')"
        " || coalesce(mac, '')) <= 20000",
    ),
    _partial("ix_events_new", "refund_id", "version", where="sequence IS NULL"),
    _partial("uq_events_sequence", "sequence", where="sequence > 0", unique=True),
    _partial("ix_events_tenant", "tenant", "sequence", where="sequence > 0"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("event_id", Plain, primary_key=True),
    Column("tenant", Plain, nullable=False),
    Column("refund_id", Plain, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("state", Named(DeliveryState), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", UTCDateTime, nullable=False),
    Column("problem", Plain),
    Column("updated_at", UTCDateTime, nullable=False),
    Column("version", Integer, nullable=False),
    _one_of("state", DeliveryState),
    *_check(
        "readable",
        postgresql=f"due_at {READABLE} AND updated_at {READABLE} AND octet_length("
        "event_id || tenant || refund_id || coalesce(problem, '')) <= 2000",
    ),
    _partial(
        "ix_webhook_deliveries_due", "tenant", "due_at", where="state = 'pending'"
    ),
    _partial("ix_webhook_deliveries_dead", "sequence", where="state = 'dead'"),
    Index("ix_webhook_deliveries_refund", "refund_id", "sequence"),
    Index("ix_webhook_deliveries_sequence", "sequence"),
    Index("ix_webhook_deliveries_tenant", "tenant", "sequence"),
)

workers = Table(
    "workers",
    metadata,
    Column("name", Plain, primary_key=True),
    Column("started_at", UTCDateTime, nullable=False),
    Column("passed_at", UTCDateTime, nullable=False),
    Column("metrics", Plain, nullable=False),
    *_check(
        "readable",
        sqlite="length(metrics) <= 65536 AND length(name) <= 64",
        # Python cannot read other times, and every process reads these rows.
        postgresql="octet_length(metrics) <= 65536 AND octet_length(name) <= 64"
        f" AND started_at {READABLE} AND passed_at {READABLE}",
    ),
)
