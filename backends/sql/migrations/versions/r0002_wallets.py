"""
Wallets, unrecorded transactions, stored responses, spending, and due times.

A migration is never edited, and imports nothing from this project.
"""

import sqlalchemy as sa
from alembic import op


revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

PLAIN = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
UINT256 = sa.Numeric(78, 0).with_variant(sa.String(78), "sqlite")
TIME = sa.DateTime(timezone=True).with_variant(sa.String(32), "sqlite")

CLAIMABLE = "status IN ('broadcast', 'queued', 'reserved', 'signed')"
LONG_AGO = "1970-01-01T00:00:00.000000+00:00"


def upgrade() -> None:
    """Add the tables; make every open refund due, and open every wallet in use."""
    _date_refunds()
    _make_answers()
    _make_wallets()
    _make_sightings()
    _make_spendings()
    # Before this revision, nonces started at the transaction count and had no gaps.
    op.execute(
        "INSERT INTO wallets (chain_id, sender, first_nonce, version)"
        " SELECT chain_id, sender, min(nonce), 0 FROM refunds"
        " WHERE nonce IS NOT NULL GROUP BY chain_id, sender"
    )


def _date_refunds() -> None:
    for column in (
        sa.Column("due_at", TIME, nullable=False, server_default=LONG_AGO),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("blocked_by", PLAIN),
    ):
        op.add_column("refunds", column)
    is_claimable = sa.text(CLAIMABLE)
    op.create_index(
        "ix_refunds_due",
        "refunds",
        ["due_at"],
        sqlite_where=is_claimable,
        postgresql_where=is_claimable,
    )


def _make_spendings() -> None:
    op.create_table(
        "spendings",
        sa.Column("chain_id", sa.BigInteger, nullable=False),
        sa.Column("token_address", PLAIN, nullable=False),
        sa.Column("recipient", PLAIN, nullable=False),
        sa.Column("hour", sa.BigInteger, nullable=False),
        sa.Column("amount", UINT256, nullable=False),
        sa.PrimaryKeyConstraint(
            "chain_id", "token_address", "recipient", "hour", name="pk_spendings"
        ),
    )
    op.create_table(
        "stops",
        sa.Column("chain_id", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("chain_id", name="pk_stops"),
    )


def _make_answers() -> None:
    op.create_table(
        "answers",
        sa.Column("refund_id", PLAIN, nullable=False),
        sa.Column("body", PLAIN, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("refund_id", name="pk_answers"),
        sa.ForeignKeyConstraint(
            ["refund_id"], ["refunds.id"], name="fk_answers_refund"
        ),
    )


def _make_wallets() -> None:
    op.create_table(
        "wallets",
        sa.Column("chain_id", sa.BigInteger, nullable=False),
        sa.Column("sender", PLAIN, nullable=False),
        sa.Column("first_nonce", sa.BigInteger, nullable=False),
        sa.Column("paused_by", PLAIN),
        sa.Column("paused_at", TIME),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("chain_id", "sender", name="pk_wallets"),
        sa.CheckConstraint(
            "chain_id > 0 AND first_nonce >= 0 AND version >= 0",
            name="ck_wallets_ranges",
        ),
        sa.CheckConstraint(
            "(paused_by IS NULL) = (paused_at IS NULL)", name="ck_wallets_pause"
        ),
    )


def _make_sightings() -> None:
    op.create_table(
        "sightings",
        sa.Column("chain_id", sa.BigInteger, nullable=False),
        sa.Column("sender", PLAIN, nullable=False),
        sa.Column("nonce", sa.BigInteger, nullable=False),
        sa.Column("tx_hash", PLAIN, nullable=False),
        sa.Column("mark", sa.LargeBinary),
        sa.Column("gas_limit", sa.BigInteger, nullable=False),
        sa.Column("block_number", sa.BigInteger, nullable=False),
        sa.Column("block_hash", PLAIN, nullable=False),
        sa.Column("seen_at", TIME, nullable=False),
        sa.Column("accepted_at", TIME),
        sa.PrimaryKeyConstraint("chain_id", "sender", "nonce", name="pk_sightings"),
        sa.ForeignKeyConstraint(
            ["chain_id", "sender"],
            ["wallets.chain_id", "wallets.sender"],
            name="fk_sightings_wallet",
        ),
        sa.CheckConstraint(
            "nonce >= 0 AND gas_limit > 0 AND block_number >= 0",
            name="ck_sightings_ranges",
        ),
    )
    op.create_index("ix_sightings_mark", "sightings", ["chain_id", "sender", "mark"])
