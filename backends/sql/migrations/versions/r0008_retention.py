"""
Old events are deleted: what may be deleted, and how deliveries are found.

A migration is never edited after a release, and imports nothing from this project.
"""

from alembic import op


revision = "0008"
down_revision = "0007"

# A week, which is the shortest period that the settings allow.
DIALECTS = {
    "sqlite": {
        "week_ago": "(CAST(strftime('%s', 'now') AS INTEGER) - 604800)",
        "updated": "CAST(strftime('%s', OLD.updated_at) AS INTEGER)",
    },
    "postgresql": {
        "week_ago": "(extract(epoch FROM clock_timestamp()) - 604800)",
        "updated": "extract(epoch FROM OLD.updated_at)",
    },
}

# A blank line ends a statement.
INDEXES = """
DROP INDEX ix_webhook_deliveries_refund

CREATE INDEX ix_webhook_deliveries_refund ON webhook_deliveries (refund_id, sequence)

CREATE INDEX ix_webhook_deliveries_sequence ON webhook_deliveries (sequence)

CREATE INDEX ix_webhook_deliveries_tenant ON webhook_deliveries (tenant, sequence)
"""

# The sequence number of an event is the time in microseconds at which it got it.
EVENT_STAYS = """
    OLD.sequence IS NULL OR OLD.sequence < 1
    OR OLD.sequence > {week_ago} * 1000000
"""

DELIVERY_STAYS = "OLD.state <> 'delivered' OR {updated} > {week_ago}"

RULES = {
    "events_stay": ("events", EVENT_STAYS, "an event is kept for a week"),
    "webhook_deliveries_stay": (
        "webhook_deliveries",
        DELIVERY_STAYS,
        "a delivery is kept until it arrived, and for a week",
    ),
}

SQLITE = """
CREATE TRIGGER {name} BEFORE DELETE ON {table} WHEN {stays}
BEGIN SELECT RAISE(ABORT, '{message}'); END
"""

POSTGRESQL = """
CREATE TRIGGER {name} BEFORE DELETE ON {table}
FOR EACH ROW WHEN ({stays})
EXECUTE FUNCTION rows_keep('{message}')
"""


def upgrade() -> None:
    """Create the indexes, and the triggers that keep what must not be deleted."""
    dialect = op.get_bind().dialect.name
    for statement in INDEXES.strip().split("\n\n"):
        op.execute(statement.strip())
    rule = POSTGRESQL if dialect == "postgresql" else SQLITE
    for name, (table, stays, message) in RULES.items():
        condition = stays.format(**DIALECTS[dialect]).strip()
        op.execute(
            rule.format(
                name=name, table=table, stays=condition, message=message
            ).strip()
        )
