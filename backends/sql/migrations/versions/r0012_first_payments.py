"""
When each recipient was first paid: an index of confirmed refunds.

A migration is never edited after a release, and imports nothing from this project.
"""

from alembic import op


revision = "0012"
down_revision = "0011"

INDEX = """
CREATE INDEX ix_refunds_confirmed
ON refunds (chain_id, token_address, recipient, updated_at)
WHERE status IN ('confirmed')
"""


def upgrade() -> None:
    op.execute(INDEX)
