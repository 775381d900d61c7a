"""
Rows that vouch for themselves, tenants, and limits per tenant.

A migration is never edited after a release, and imports nothing from this project.
"""

from alembic import op


revision = "0004"
down_revision = "0003"

BOTH = """
CREATE INDEX ix_audit_records_configuration ON audit_records (id)
WHERE body LIKE '%"event":"configuration-loaded"%'

CREATE INDEX ix_transactions_signed_at ON transactions (chain_id, signed_at)

CREATE INDEX ix_refunds_result ON refunds (chain_id, updated_at)
WHERE status IN ('confirmed', 'failed')
"""

SQLITE = """
ALTER TABLE stops ADD COLUMN reason TEXT NOT NULL DEFAULT ''

ALTER TABLE stops ADD COLUMN requested_by TEXT NOT NULL DEFAULT ''

ALTER TABLE stops ADD COLUMN resumed_at VARCHAR(32)
"""

POSTGRESQL = """
ALTER TABLE stops ADD COLUMN reason TEXT COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN requested_by TEXT COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN resumed_at TIMESTAMP WITH TIME ZONE
"""


def upgrade() -> None:
    """Change the tables; statements for both databases run first."""
    dialect = op.get_bind().dialect.name
    of_dialect = {"sqlite": SQLITE, "postgresql": POSTGRESQL}[dialect]
    for statement in (BOTH + of_dialect).strip().split("\n\n"):
        if statement.strip():
            op.execute(statement)
