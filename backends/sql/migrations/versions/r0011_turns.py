"""
Tenants take turns: an index of each one's queued refunds.

A migration is never edited after a release, and imports nothing from this project.
"""

from alembic import op


revision = "0011"
down_revision = "0010"

# A blank line ends a statement.
INDEXES = """
DROP INDEX ix_refunds_due

CREATE INDEX ix_refunds_due ON refunds (due_at)
WHERE status IN ('broadcast', 'reserved', 'signed')

CREATE INDEX ix_refunds_queued ON refunds (tenant, due_at, id)
WHERE status IN ('queued')
"""


def upgrade() -> None:
    for statement in INDEXES.strip().split("\n\n"):
        op.execute(statement)
