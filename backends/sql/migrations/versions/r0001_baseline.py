"""
The baseline: the tables as they are declared, with their triggers.

Nothing was released before it.  A later revision is written out in SQL, and changes a
ledger of the revision before into what the declarations say then.
"""

from alembic import op

import backends.sql.triggers  # noqa: F401 - They are created with their tables.
from backends.sql.tables import metadata


revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables, their indexes and triggers."""
    metadata.create_all(op.get_bind(), checkfirst=False)
