"""
The rows of workers: when each last completed a pass, and what it measures.

A migration is never edited after a release, and imports nothing from this project.
"""

from alembic import op


revision = "0007"
down_revision = "0006"

DIALECTS = {
    "sqlite": {
        "plain": "TEXT",
        "time": "VARCHAR(32)",
        "readable": "length(metrics) <= 65536 AND length(name) <= 64",
    },
    "postgresql": {
        "plain": 'TEXT COLLATE "C"',
        "time": "TIMESTAMP WITH TIME ZONE",
        # Python cannot read other times, and every process reads these rows.
        "readable": (
            "octet_length(metrics) <= 65536 AND octet_length(name) <= 64"
            " AND started_at BETWEEN TIMESTAMPTZ '1970-01-01 UTC'"
            " AND TIMESTAMPTZ '9999-12-30 UTC'"
            " AND passed_at BETWEEN TIMESTAMPTZ '1970-01-01 UTC'"
            " AND TIMESTAMPTZ '9999-12-30 UTC'"
        ),
    },
}

TABLE = """
CREATE TABLE workers (
    name {plain} NOT NULL,
    started_at {time} NOT NULL,
    passed_at {time} NOT NULL,
    metrics {plain} NOT NULL,
    CONSTRAINT pk_workers PRIMARY KEY (name),
    CONSTRAINT ck_workers_readable CHECK ({readable})
)
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(TABLE.format(**DIALECTS[op.get_bind().dialect.name]).strip())
