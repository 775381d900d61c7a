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

# A primary key of SQLite cannot be altered.
SQLITE = """
DROP INDEX ix_refunds_client

CREATE INDEX ix_refunds_tenant ON refunds (tenant, id)

CREATE TABLE tenant_blocks (
    tenant TEXT NOT NULL,
    at VARCHAR(32) NOT NULL,
    by TEXT NOT NULL,
    CONSTRAINT pk_tenant_blocks PRIMARY KEY (tenant)
)

CREATE TABLE new_spendings (
    chain_id BIGINT NOT NULL,
    token_address TEXT NOT NULL,
    tenant TEXT NOT NULL,
    recipient TEXT NOT NULL,
    hour BIGINT NOT NULL,
    amount VARCHAR(78) NOT NULL,
    CONSTRAINT pk_spendings
        PRIMARY KEY (chain_id, token_address, tenant, recipient, hour)
)

INSERT INTO new_spendings
SELECT chain_id, token_address, '', recipient, hour, amount FROM spendings

DROP TABLE spendings

ALTER TABLE new_spendings RENAME TO spendings
"""

# The default is dropped, so that a forgotten tenant is an error.
POSTGRESQL = """
ALTER INDEX ix_refunds_client RENAME TO ix_refunds_tenant

CREATE TABLE tenant_blocks (
    tenant TEXT COLLATE "C" NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    by TEXT COLLATE "C" NOT NULL,
    CONSTRAINT pk_tenant_blocks PRIMARY KEY (tenant)
)

ALTER TABLE spendings ADD COLUMN tenant TEXT COLLATE "C" NOT NULL DEFAULT ''

ALTER TABLE spendings ALTER COLUMN tenant DROP DEFAULT

ALTER TABLE spendings DROP CONSTRAINT pk_spendings

ALTER TABLE spendings ADD CONSTRAINT pk_spendings
PRIMARY KEY (chain_id, token_address, tenant, recipient, hour)
"""


def upgrade() -> None:
    """Change the tables; statements for both databases run first."""
    dialect = op.get_bind().dialect.name
    of_dialect = {"sqlite": SQLITE, "postgresql": POSTGRESQL}[dialect]
    for statement in (BOTH + of_dialect).strip().split("\n\n"):
        if statement.strip():
            op.execute(statement)
