"""
Refunds, their transactions and their history.

A migration is never edited, and imports nothing from this project.
There is no downgrade, since it would delete the ledger: restore a backup instead.
"""

import sqlalchemy as sa
from alembic import op


revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

PLAIN = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
UINT256 = sa.Numeric(78, 0).with_variant(sa.String(78), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.String(32), "sqlite")

STATUSES = (
    "status IN ('broadcast', 'cancelled', 'confirmed', 'failed', 'mined', 'queued',"
    " 'refused', 'reserved', 'signed')"
)
OPEN = "status IN ('broadcast', 'mined', 'queued', 'reserved', 'signed')"


def upgrade() -> None:
    """Create the tables."""
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    _make_refunds(zero=f"'{0:078d}'" if on_sqlite else "0")
    _make_transactions()
    _make_moves()


def _make_refunds(zero: str) -> None:
    op.create_table(
        "refunds",
        sa.Column("id", PLAIN, nullable=False),
        sa.Column("client", PLAIN, nullable=False),
        sa.Column("idempotency_key", PLAIN, nullable=False),
        sa.Column("fingerprint", PLAIN, nullable=False),
        sa.Column("reference", PLAIN, nullable=False),
        sa.Column("payment_session_id", PLAIN, nullable=False),
        sa.Column("network", PLAIN, nullable=False),
        sa.Column("chain_id", sa.BigInteger, nullable=False),
        sa.Column("token", PLAIN, nullable=False),
        sa.Column("token_address", PLAIN, nullable=False),
        sa.Column("decimals", sa.Integer, nullable=False),
        sa.Column("recipient", PLAIN, nullable=False),
        sa.Column("amount", UINT256, nullable=False),
        sa.Column("reason", PLAIN),
        sa.Column("status", PLAIN, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("sender", PLAIN),
        sa.Column("key_id", PLAIN),
        sa.Column("nonce", sa.BigInteger),
        sa.Column("gas_limit", sa.BigInteger),
        sa.Column("tx_hash", PLAIN),
        sa.Column("block_number", sa.BigInteger),
        sa.Column("block_hash", PLAIN),
        sa.Column("failure_code", PLAIN),
        sa.Column("failure_detail", PLAIN),
        sa.PrimaryKeyConstraint("id", name="pk_refunds"),
        sa.UniqueConstraint(
            "client", "idempotency_key", name="uq_refunds_idempotency_key"
        ),
        sa.UniqueConstraint("client", "reference", name="uq_refunds_reference"),
        sa.UniqueConstraint("chain_id", "sender", "nonce", name="uq_refunds_nonce"),
        sa.CheckConstraint(STATUSES, name="ck_refunds_status"),
        sa.CheckConstraint(f"amount > {zero}", name="ck_refunds_amount"),
        sa.CheckConstraint(
            "chain_id > 0 AND decimals >= 0 AND version >= 0"
            " AND nonce >= 0 AND gas_limit > 0 AND block_number >= 0",
            name="ck_refunds_ranges",
        ),
        sa.CheckConstraint(
            "(status IN ('cancelled', 'queued', 'refused')) = (nonce IS NULL)"
            " AND (nonce IS NULL) = (sender IS NULL)"
            " AND (nonce IS NULL) = (key_id IS NULL)"
            " AND (nonce IS NULL) = (gas_limit IS NULL)",
            name="ck_refunds_reservation",
        ),
        sa.CheckConstraint(
            "NOT (status IN ('broadcast', 'confirmed', 'mined', 'signed'))"
            " OR tx_hash IS NOT NULL",
            name="ck_refunds_transaction",
        ),
        sa.CheckConstraint(
            "NOT (status IN ('confirmed', 'mined'))"
            " OR (block_number IS NOT NULL AND block_hash IS NOT NULL)",
            name="ck_refunds_block",
        ),
    )
    is_open = sa.text(OPEN)
    op.create_index(
        "ix_refunds_open",
        "refunds",
        ["id"],
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
    op.create_index("ix_refunds_client", "refunds", ["client", "id"])
    op.create_index(
        "ix_refunds_session", "refunds", ["client", "payment_session_id", "id"]
    )
    op.create_index("ix_refunds_status", "refunds", ["client", "status", "id"])


def _make_transactions() -> None:
    op.create_table(
        "transactions",
        sa.Column("tx_hash", PLAIN, nullable=False),
        sa.Column("refund_id", PLAIN, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("kind", PLAIN, nullable=False),
        sa.Column("chain_id", sa.BigInteger, nullable=False),
        sa.Column("sender", PLAIN, nullable=False),
        sa.Column("nonce", sa.BigInteger, nullable=False),
        sa.Column("max_fee_per_gas", UINT256, nullable=False),
        sa.Column("max_priority_fee_per_gas", UINT256, nullable=False),
        sa.Column("gas_limit", sa.BigInteger, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("signed_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("tx_hash", name="pk_transactions"),
        sa.UniqueConstraint("refund_id", "attempt", name="uq_transactions_attempt"),
        sa.ForeignKeyConstraint(
            ["refund_id"], ["refunds.id"], name="fk_transactions_refund"
        ),
        sa.CheckConstraint("kind IN ('noop', 'transfer')", name="ck_transactions_kind"),
        sa.CheckConstraint(
            "attempt >= 0 AND chain_id > 0 AND nonce >= 0 AND gas_limit > 0"
            " AND max_priority_fee_per_gas <= max_fee_per_gas",
            name="ck_transactions_ranges",
        ),
    )


def _make_moves() -> None:
    op.create_table(
        "refund_moves",
        sa.Column("refund_id", PLAIN, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("status", PLAIN, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("refund_id", "version", name="pk_refund_moves"),
        sa.ForeignKeyConstraint(
            ["refund_id"], ["refunds.id"], name="fk_refund_moves_refund"
        ),
        sa.CheckConstraint(STATUSES, name="ck_refund_moves_status"),
        sqlite_with_rowid=False,
    )
