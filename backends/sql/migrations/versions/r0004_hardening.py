"""
Rows that vouch for themselves, tenants, and limits per tenant.

A migration is never edited after a release, and imports nothing from this project.
"""

from alembic import op


revision = "0004"
down_revision = "0003"

BOTH = """
ALTER TABLE refunds RENAME COLUMN client TO tenant
"""

SQLITE = """
DROP INDEX ix_refunds_client

CREATE INDEX ix_refunds_tenant ON refunds (tenant, id)

CREATE TABLE tenant_blocks (
    tenant TEXT NOT NULL,
    at VARCHAR(32) NOT NULL,
    by TEXT NOT NULL,
    CONSTRAINT pk_tenant_blocks PRIMARY KEY (tenant)
)
"""

POSTGRESQL = """
ALTER INDEX ix_refunds_client RENAME TO ix_refunds_tenant

CREATE TABLE tenant_blocks (
    tenant TEXT COLLATE "C" NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    by TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_tenant_blocks PRIMARY KEY (tenant)
)
"""


def upgrade() -> None:
    """Change the tables; statements for both databases run first."""
    dialect = op.get_bind().dialect.name
    of_dialect = {"sqlite": SQLITE, "postgresql": POSTGRESQL}[dialect]
    for statement in (BOTH + of_dialect).strip().split("\n\n"):
        if statement.strip():
            op.execute(statement)
