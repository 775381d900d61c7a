"""
The tables, as the newest migration leaves them.

The columns have the names and the order of the fields in ``signer.model``, so a row can
be passed to ``Refund`` as it is.  ``docs/reference/database.md`` explains every
constraint.  A change of this file needs a migration; a test compares the two.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    column,
    text,
)

from backends.sql.columns import FreeText, Named, Plain, Uint256, UTCDateTime
from signer.model.key import KeyState
from signer.model.refund import OPEN, UNSENT, Kind, Status
from signer.model.wallet import Pause


HEAD = "0003"
"""The newest migration, which this program needs; a test checks that it is."""

UNRESERVED = frozenset({Status.QUEUED, Status.REFUSED, Status.CANCELLED})
"""States of a refund that has no nonce."""

SENT = frozenset({Status.SIGNED, Status.BROADCAST, Status.MINED, Status.CONFIRMED})
"""States of a refund that has a transaction; a failed refund may have none."""

CLAIMABLE = UNSENT | {Status.BROADCAST}
"""States in which a worker has something to do, now or later."""

IN_BLOCK = frozenset({Status.MINED, Status.CONFIRMED})
"""States of a refund that has a block."""


def status_in(statuses: frozenset[Status]) -> str:
    """
    Return the SQL condition that the status is one of *statuses*, with literals.

    With parameters instead, neither planner would use a partial index.
    """
    return "status IN ({})".format(", ".join(f"'{name}'" for name in sorted(statuses)))


IS_OPEN = status_in(OPEN)
IS_CLAIMABLE = status_in(CLAIMABLE)

LONG_AGO = "1970-01-01T00:00:00.000000+00:00"
"""The due time of refunds that were written before the column existed."""

metadata = MetaData()

refunds = Table(
    "refunds",
    metadata,
    Column("id", Plain, nullable=False),
    Column("client", Plain, nullable=False),
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
    Column("status", Named(Status), nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("updated_at", UTCDateTime, nullable=False),
    Column("version", Integer, nullable=False),
    Column("sender", Plain),
    Column("key_id", Plain),
    Column("nonce", BigInteger),
    Column("gas_limit", BigInteger),
    Column("tx_hash", Plain),
    Column("block_number", BigInteger),
    Column("block_hash", Plain),
    Column("failure_code", Plain),
    Column("failure_detail", FreeText),
    Column("due_at", UTCDateTime, nullable=False, server_default=LONG_AGO),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("blocked_by", Plain),
    PrimaryKeyConstraint("id", name="pk_refunds"),
    UniqueConstraint("client", "idempotency_key", name="uq_refunds_idempotency_key"),
    UniqueConstraint("client", "reference", name="uq_refunds_reference"),
    UniqueConstraint("chain_id", "sender", "nonce", name="uq_refunds_nonce"),
    CheckConstraint(status_in(frozenset(Status)), name="ck_refunds_status"),
    CheckConstraint(column("amount", Uint256) > 0, name="ck_refunds_amount"),
    CheckConstraint(
        "chain_id > 0 AND decimals >= 0 AND version >= 0"
        " AND nonce >= 0 AND gas_limit > 0 AND block_number >= 0",
        name="ck_refunds_ranges",
    ),
    CheckConstraint(
        f"({status_in(UNRESERVED)}) = (nonce IS NULL)"
        " AND (nonce IS NULL) = (sender IS NULL)"
        " AND (nonce IS NULL) = (key_id IS NULL)"
        " AND (nonce IS NULL) = (gas_limit IS NULL)",
        name="ck_refunds_reservation",
    ),
    CheckConstraint(
        f"NOT ({status_in(SENT)}) OR tx_hash IS NOT NULL",
        name="ck_refunds_transaction",
    ),
    CheckConstraint(
        f"NOT ({status_in(IN_BLOCK)})"
        " OR (block_number IS NOT NULL AND block_hash IS NOT NULL)",
        name="ck_refunds_block",
    ),
    Index(
        "ix_refunds_open",
        "id",
        sqlite_where=text(IS_OPEN),
        postgresql_where=text(IS_OPEN),
    ),
    Index(
        "ix_refunds_due",
        "due_at",
        sqlite_where=text(IS_CLAIMABLE),
        postgresql_where=text(IS_CLAIMABLE),
    ),
    Index("ix_refunds_client", "client", "id"),
    Index("ix_refunds_session", "client", "payment_session_id", "id"),
    Index("ix_refunds_status", "client", "status", "id"),
)

transactions = Table(
    "transactions",
    metadata,
    Column("tx_hash", Plain, nullable=False),
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
    PrimaryKeyConstraint("tx_hash", name="pk_transactions"),
    UniqueConstraint("refund_id", "attempt", name="uq_transactions_attempt"),
    ForeignKeyConstraint(["refund_id"], ["refunds.id"], name="fk_transactions_refund"),
    CheckConstraint("kind IN ('noop', 'transfer')", name="ck_transactions_kind"),
    CheckConstraint(
        "attempt >= 0 AND chain_id > 0 AND nonce >= 0 AND gas_limit > 0"
        " AND max_priority_fee_per_gas <= max_fee_per_gas",
        name="ck_transactions_ranges",
    ),
)

refund_moves = Table(
    "refund_moves",
    metadata,
    Column("refund_id", Plain, nullable=False),
    Column("version", Integer, nullable=False),
    Column("status", Named(Status), nullable=False),
    Column("at", UTCDateTime, nullable=False),
    PrimaryKeyConstraint("refund_id", "version", name="pk_refund_moves"),
    ForeignKeyConstraint(["refund_id"], ["refunds.id"], name="fk_refund_moves_refund"),
    CheckConstraint(status_in(frozenset(Status)), name="ck_refund_moves_status"),
    sqlite_with_rowid=False,  # One B-tree for table and primary key, not two.
)

answers = Table(
    "answers",
    metadata,
    Column("refund_id", Plain, nullable=False),
    Column("body", Plain, nullable=False),
    Column("at", UTCDateTime, nullable=False),
    PrimaryKeyConstraint("refund_id", name="pk_answers"),
    ForeignKeyConstraint(["refund_id"], ["refunds.id"], name="fk_answers_refund"),
)

wallets = Table(
    "wallets",
    metadata,
    Column("chain_id", BigInteger, nullable=False),
    Column("sender", Plain, nullable=False),
    Column("first_nonce", BigInteger, nullable=False),
    Column("paused_by", Named(Pause)),
    Column("paused_at", UTCDateTime),
    Column("version", Integer, nullable=False),
    PrimaryKeyConstraint("chain_id", "sender", name="pk_wallets"),
    CheckConstraint(
        "chain_id > 0 AND first_nonce >= 0 AND version >= 0", name="ck_wallets_ranges"
    ),
    CheckConstraint(
        "(paused_by IS NULL) = (paused_at IS NULL)", name="ck_wallets_pause"
    ),
)

sightings = Table(
    "sightings",
    metadata,
    Column("chain_id", BigInteger, nullable=False),
    Column("sender", Plain, nullable=False),
    Column("nonce", BigInteger, nullable=False),
    Column("tx_hash", Plain, nullable=False),
    Column("mark", LargeBinary),
    Column("gas_limit", BigInteger, nullable=False),
    Column("block_number", BigInteger, nullable=False),
    Column("block_hash", Plain, nullable=False),
    Column("seen_at", UTCDateTime, nullable=False),
    Column("accepted_at", UTCDateTime),
    PrimaryKeyConstraint("chain_id", "sender", "nonce", name="pk_sightings"),
    ForeignKeyConstraint(
        ["chain_id", "sender"],
        ["wallets.chain_id", "wallets.sender"],
        name="fk_sightings_wallet",
    ),
    CheckConstraint(
        "nonce >= 0 AND gas_limit > 0 AND block_number >= 0",
        name="ck_sightings_ranges",
    ),
    Index("ix_sightings_mark", "chain_id", "mark"),
)

spendings = Table(
    "spendings",
    metadata,
    Column("chain_id", BigInteger, nullable=False),
    Column("token_address", Plain, nullable=False),
    Column("recipient", Plain, nullable=False),
    Column("hour", BigInteger, nullable=False),
    Column("amount", Uint256, nullable=False),
    PrimaryKeyConstraint(
        "chain_id", "token_address", "recipient", "hour", name="pk_spendings"
    ),
)

keys = Table(
    "keys",
    metadata,
    Column("backend", Plain, nullable=False),
    Column("key_id", Plain, nullable=False),
    Column("address", Plain, nullable=False),
    Column("state", Named(KeyState), nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("updated_at", UTCDateTime, nullable=False),
    Column("epoch", BigInteger),
    Column("requested_by", Plain),
    Column("held_until", UTCDateTime),
    Column("blocked_by", Plain),
    Column("version", Integer, nullable=False),
    PrimaryKeyConstraint("address", name="pk_keys"),
    UniqueConstraint("backend", "key_id", name="uq_keys_id"),
    UniqueConstraint("epoch", name="uq_keys_epoch"),
    CheckConstraint(
        "state IN ({})".format(", ".join(f"'{name}'" for name in sorted(KeyState))),
        name="ck_keys_state",
    ),
    CheckConstraint(
        "state NOT IN ('active', 'blocked', 'draining', 'retired')"
        " OR epoch IS NOT NULL",
        name="ck_keys_epoch",
    ),
    CheckConstraint("version >= 0 AND epoch > 0", name="ck_keys_ranges"),
    # At most one active and one pending key, which also makes rotations exclusive.
    Index(
        "uq_keys_active",
        "state",
        unique=True,
        sqlite_where=text("state = 'active'"),
        postgresql_where=text("state = 'active'"),
    ),
    Index(
        "uq_keys_pending",
        "state",
        unique=True,
        sqlite_where=text("state = 'pending'"),
        postgresql_where=text("state = 'pending'"),
    ),
)

audit_records = Table(
    "audit_records",
    metadata,
    Column("id", Plain, nullable=False),
    Column("body", Plain, nullable=False),
    Column("sequence", BigInteger),
    Column("hash", LargeBinary),
    PrimaryKeyConstraint("id", name="pk_audit_records"),
    UniqueConstraint("sequence", name="uq_audit_records_sequence"),
    CheckConstraint(
        "(sequence IS NULL) = (hash IS NULL) AND sequence > 0",
        name="ck_audit_records_seal",
    ),
    Index(
        "ix_audit_records_unsealed",
        "id",
        sqlite_where=text("sequence IS NULL"),
        postgresql_where=text("sequence IS NULL"),
    ),
)

audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    Column("size", BigInteger, nullable=False, autoincrement=False),
    Column("note", Plain, nullable=False),
    Column("at", UTCDateTime, nullable=False),
    PrimaryKeyConstraint("size", name="pk_audit_checkpoints"),
)

used_tokens = Table(
    "used_tokens",
    metadata,
    Column("jti", Plain, nullable=False),
    Column("expires_at", UTCDateTime, nullable=False),
    PrimaryKeyConstraint("jti", name="pk_used_tokens"),
    Index("ix_used_tokens_expires_at", "expires_at"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("bucket", Plain, nullable=False),
    Column("period", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    PrimaryKeyConstraint("bucket", "period", name="pk_attempts"),
    Index("ix_attempts_period", "period"),
)

alerts = Table(
    "alerts",
    metadata,
    Column("name", Plain, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("last_at", UTCDateTime, nullable=False),
    PrimaryKeyConstraint("name", name="pk_alerts"),
)

stops = Table(
    "stops",
    metadata,
    Column("chain_id", BigInteger, nullable=False, autoincrement=False),
    Column("at", UTCDateTime, nullable=False),
    PrimaryKeyConstraint("chain_id", name="pk_stops"),
)
