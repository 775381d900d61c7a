"""
The key ring, the audit log, and the counters that all processes share.

A migration is never edited, and imports nothing from this project.
"""

import sqlalchemy as sa
from alembic import op


revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PLAIN = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True).with_variant(sa.String(32), "sqlite")

STATES = "'active', 'blocked', 'draining', 'pending', 'rejected', 'retired'"

# A record may be sealed once; everything else is rejected.
SQLITE_TRIGGERS = (
    """
    CREATE TRIGGER audit_records_keep BEFORE DELETE ON audit_records
    BEGIN SELECT RAISE(ABORT, 'audit records are for ever'); END
    """,
    """
    CREATE TRIGGER audit_records_seal BEFORE UPDATE ON audit_records
    WHEN NOT (OLD.sequence IS NULL AND NEW.sequence IS NOT NULL
              AND NEW.id = OLD.id AND NEW.body = OLD.body)
    BEGIN SELECT RAISE(ABORT, 'audit records are for ever'); END
    """,
    # REPLACE fires no delete trigger for the rows that it replaces.
    """
    CREATE TRIGGER audit_records_new BEFORE INSERT ON audit_records
    WHEN NEW.sequence IS NOT NULL
         OR EXISTS (SELECT 1 FROM audit_records WHERE id = NEW.id)
    BEGIN SELECT RAISE(ABORT, 'audit records are for ever'); END
    """,
    """
    CREATE TRIGGER audit_records_place BEFORE UPDATE ON audit_records
    WHEN EXISTS (SELECT 1 FROM audit_records WHERE sequence = NEW.sequence)
    BEGIN SELECT RAISE(ABORT, 'audit records are for ever'); END
    """,
    """
    CREATE TRIGGER audit_checkpoints_new BEFORE INSERT ON audit_checkpoints
    WHEN EXISTS (SELECT 1 FROM audit_checkpoints WHERE size = NEW.size)
    BEGIN SELECT RAISE(ABORT, 'audit checkpoints are for ever'); END
    """,
    """
    CREATE TRIGGER audit_checkpoints_keep BEFORE DELETE ON audit_checkpoints
    BEGIN SELECT RAISE(ABORT, 'audit checkpoints are for ever'); END
    """,
    """
    CREATE TRIGGER audit_checkpoints_stay BEFORE UPDATE ON audit_checkpoints
    BEGIN SELECT RAISE(ABORT, 'audit checkpoints are for ever'); END
    """,
)

POSTGRESQL_TRIGGERS = (
    """
    CREATE FUNCTION audit_for_ever() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'audit records are for ever'; END $$
    """,
    """
    CREATE TRIGGER audit_records_keep BEFORE DELETE ON audit_records
    FOR EACH ROW EXECUTE FUNCTION audit_for_ever()
    """,
    """
    CREATE TRIGGER audit_records_seal BEFORE UPDATE ON audit_records
    FOR EACH ROW WHEN (NOT (OLD.sequence IS NULL AND NEW.sequence IS NOT NULL
                            AND NEW.id = OLD.id AND NEW.body = OLD.body))
    EXECUTE FUNCTION audit_for_ever()
    """,
    """
    CREATE TRIGGER audit_records_whole BEFORE TRUNCATE ON audit_records
    EXECUTE FUNCTION audit_for_ever()
    """,
    """
    CREATE TRIGGER audit_checkpoints_keep BEFORE DELETE OR UPDATE ON audit_checkpoints
    FOR EACH ROW EXECUTE FUNCTION audit_for_ever()
    """,
    """
    CREATE TRIGGER audit_checkpoints_whole BEFORE TRUNCATE ON audit_checkpoints
    EXECUTE FUNCTION audit_for_ever()
    """,
)


def upgrade() -> None:
    """Add the tables; keys that paid before become draining, and none is active."""
    _make_keys()
    _make_audit()
    _make_callers()
    # A refund is looked up by its mark in all wallets of a chain.
    op.drop_index("ix_sightings_mark", "sightings")
    op.create_index("ix_sightings_mark", "sightings", ["chain_id", "mark"])
    # The first process that starts makes the configured key the active one.
    op.execute(
        "INSERT INTO keys (backend, key_id, address, state, created_at, updated_at,"
        " epoch, version)"
        " SELECT CASE WHEN key_id LIKE 'arn:%' THEN 'aws-kms' ELSE 'pkcs11' END,"
        " key_id, sender, 'draining', first_at, last_at,"
        " row_number() OVER (ORDER BY last_at, sender), 0 FROM"
        " (SELECT key_id, sender, min(created_at) AS first_at,"
        " max(created_at) AS last_at, row_number() OVER (PARTITION BY key_id"
        " ORDER BY max(created_at) DESC, sender) AS place FROM refunds"
        " WHERE sender IS NOT NULL GROUP BY key_id, sender) AS used WHERE place = 1"
    )


def _make_keys() -> None:
    op.create_table(
        "keys",
        sa.Column("backend", PLAIN, nullable=False),
        sa.Column("key_id", PLAIN, nullable=False),
        sa.Column("address", PLAIN, nullable=False),
        sa.Column("state", PLAIN, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("epoch", sa.BigInteger),
        sa.Column("requested_by", PLAIN),
        sa.Column("held_until", TIME),
        sa.Column("blocked_by", PLAIN),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("address", name="pk_keys"),
        sa.UniqueConstraint("backend", "key_id", name="uq_keys_id"),
        sa.UniqueConstraint("epoch", name="uq_keys_epoch"),
        sa.CheckConstraint(f"state IN ({STATES})", name="ck_keys_state"),
        sa.CheckConstraint(
            "state NOT IN ('active', 'blocked', 'draining', 'retired')"
            " OR epoch IS NOT NULL",
            name="ck_keys_epoch",
        ),
        sa.CheckConstraint("version >= 0 AND epoch > 0", name="ck_keys_ranges"),
    )
    for state in ("active", "pending"):
        is_state = sa.text(f"state = '{state}'")
        op.create_index(
            f"uq_keys_{state}",
            "keys",
            ["state"],
            unique=True,
            sqlite_where=is_state,
            postgresql_where=is_state,
        )


def _make_audit() -> None:
    op.create_table(
        "audit_records",
        sa.Column("id", PLAIN, nullable=False),
        sa.Column("body", PLAIN, nullable=False),
        sa.Column("sequence", sa.BigInteger),
        sa.Column("hash", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id", name="pk_audit_records"),
        sa.UniqueConstraint("sequence", name="uq_audit_records_sequence"),
        sa.CheckConstraint(
            "(sequence IS NULL) = (hash IS NULL) AND sequence > 0",
            name="ck_audit_records_seal",
        ),
    )
    unsealed = sa.text("sequence IS NULL")
    op.create_index(
        "ix_audit_records_unsealed",
        "audit_records",
        ["id"],
        sqlite_where=unsealed,
        postgresql_where=unsealed,
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("size", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("note", PLAIN, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("size", name="pk_audit_checkpoints"),
    )
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in SQLITE_TRIGGERS if is_sqlite else POSTGRESQL_TRIGGERS:
        op.execute(statement)


def _make_callers() -> None:
    op.create_table(
        "used_tokens",
        sa.Column("jti", PLAIN, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("jti", name="pk_used_tokens"),
    )
    op.create_index("ix_used_tokens_expires_at", "used_tokens", ["expires_at"])
    op.create_table(
        "attempts",
        sa.Column("bucket", PLAIN, nullable=False),
        sa.Column("period", sa.BigInteger, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("bucket", "period", name="pk_attempts"),
    )
    op.create_index("ix_attempts_period", "attempts", ["period"])
    op.create_table(
        "alerts",
        sa.Column("name", PLAIN, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_alerts"),
    )
