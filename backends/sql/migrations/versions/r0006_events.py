"""
The events of refunds, and their deliveries to webhooks.

A migration is never edited after a release, and imports nothing from this project.
"""

from alembic import op


revision = "0006"
down_revision = "0005"

DIALECTS = {
    "sqlite": {
        "plain": "TEXT",
        "time": "VARCHAR(32)",
        "is_not": "IS NOT",
        "event_readable": "",
        "delivery_readable": "",
    },
    "postgresql": {
        "plain": 'TEXT COLLATE "C"',
        "time": "TIMESTAMP WITH TIME ZONE",
        "is_not": "IS DISTINCT FROM",
        "event_readable": """,
    CONSTRAINT ck_events_readable CHECK (
        at {readable} AND octet_length(
            id || tenant || refund_id || coalesce(sender, '') || coalesce(tx_hash, '')
            || coalesce(failure_code, '') || coalesce(failure_detail, '')
            || coalesce(mac, '')
        ) <= 20000
    )""",
        "delivery_readable": """,
    CONSTRAINT ck_webhook_deliveries_readable CHECK (
        due_at {readable} AND updated_at {readable}
        AND octet_length(
            event_id || tenant || refund_id || coalesce(problem, '')
        ) <= 2000
    )""",
    },
}

# Python cannot read other times, and reads many rows at once.
READABLE = "BETWEEN TIMESTAMPTZ '1970-01-01 UTC' AND TIMESTAMPTZ '9999-12-30 UTC'"

# A blank line ends a statement.
TABLES = """
CREATE TABLE events (
    id {plain} NOT NULL,
    tenant {plain} NOT NULL,
    refund_id {plain} NOT NULL,
    version INTEGER DEFAULT 0 NOT NULL,
    status {plain} NOT NULL,
    at {time} NOT NULL,
    sender {plain},
    nonce BIGINT,
    tx_hash {plain},
    block_number BIGINT,
    failure_code {plain},
    failure_detail {plain},
    mac {plain},
    sequence BIGINT,
    CONSTRAINT pk_events PRIMARY KEY (id),
    CONSTRAINT ck_events_status CHECK (
        status IN ('awaiting-approval', 'broadcast', 'cancelled', 'confirmed',
                   'failed', 'queued', 'refused')
    ),
    CONSTRAINT ck_events_first CHECK (
        version > 0 OR status IN ('awaiting-approval', 'queued')
    ){event_readable}
)

CREATE INDEX ix_events_new ON events (refund_id, version) WHERE sequence IS NULL

CREATE UNIQUE INDEX uq_events_sequence ON events (sequence) WHERE sequence > 0

CREATE INDEX ix_events_tenant ON events (tenant, sequence) WHERE sequence > 0

CREATE TABLE webhook_deliveries (
    event_id {plain} NOT NULL,
    tenant {plain} NOT NULL,
    refund_id {plain} NOT NULL,
    sequence BIGINT NOT NULL,
    state {plain} NOT NULL,
    attempts INTEGER NOT NULL,
    due_at {time} NOT NULL,
    problem {plain},
    updated_at {time} NOT NULL,
    version INTEGER NOT NULL,
    CONSTRAINT pk_webhook_deliveries PRIMARY KEY (event_id),
    CONSTRAINT ck_webhook_deliveries_state
        CHECK (state IN ('dead', 'delivered', 'pending')){delivery_readable}
)

CREATE INDEX ix_webhook_deliveries_due ON webhook_deliveries (tenant, due_at)
WHERE state = 'pending'

CREATE INDEX ix_webhook_deliveries_refund
ON webhook_deliveries (refund_id, sequence) WHERE state = 'pending'

CREATE INDEX ix_webhook_deliveries_dead ON webhook_deliveries (sequence)
WHERE state = 'dead'
"""

# An event never changes; a worker assigns its sequence number once.
CHANGED = """
    OLD.sequence IS NOT NULL OR NEW.id <> OLD.id OR NEW.tenant <> OLD.tenant
    OR NEW.refund_id <> OLD.refund_id OR NEW.version <> OLD.version
    OR NEW.status <> OLD.status OR NEW.at <> OLD.at
    OR NEW.sender {is_not} OLD.sender OR NEW.nonce {is_not} OLD.nonce
    OR NEW.tx_hash {is_not} OLD.tx_hash
    OR NEW.block_number {is_not} OLD.block_number
    OR NEW.failure_code {is_not} OLD.failure_code
    OR NEW.failure_detail {is_not} OLD.failure_detail
    OR NEW.mac {is_not} OLD.mac
"""

SQLITE = """
CREATE TRIGGER events_keep BEFORE UPDATE ON events WHEN {changed}
BEGIN SELECT RAISE(ABORT, 'an event never changes'); END
"""

POSTGRESQL = """
CREATE TRIGGER events_keep BEFORE UPDATE ON events
FOR EACH ROW WHEN ({changed})
EXECUTE FUNCTION rows_keep('an event never changes')
"""


def upgrade() -> None:
    """Create the two tables; a ledger has no events of earlier changes."""
    dialect = op.get_bind().dialect.name
    words = {
        name: text.format(readable=READABLE) for name, text in DIALECTS[dialect].items()
    }
    rule = POSTGRESQL if dialect == "postgresql" else SQLITE
    changed = CHANGED.format(**words).strip()
    statements = TABLES.format(**words) + rule.format(changed=changed)
    for statement in statements.strip().split("\n\n"):
        op.execute(statement.strip())
