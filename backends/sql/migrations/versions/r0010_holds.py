"""
An index of the audit records that count the changes of stops and blocks.

A migration is never edited after a release, and imports nothing from this project.
"""

from alembic import op


revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Create the index, which every process that starts reads."""
    op.execute(
        "CREATE INDEX ix_audit_records_holds ON audit_records (id)"
        """ WHERE body LIKE '%"hold_changes":%'"""
    )
