"""
Changes that need a second administrator.

A migration is never edited after a release, and imports nothing from this project.
"""

from alembic import op


revision = "0005"
down_revision = "0004"

DIALECTS = {
    "sqlite": {"plain": "TEXT", "time": "VARCHAR(32)"},
    "postgresql": {"plain": 'TEXT COLLATE "C"', "time": "TIMESTAMP WITH TIME ZONE"},
}

# A blank line ends a statement.
TABLES = """
CREATE TABLE approvals (
    digest {plain} NOT NULL,
    action {plain} NOT NULL,
    proposal {plain} NOT NULL,
    reason {plain} NOT NULL,
    requested_by {plain} NOT NULL,
    requested_at {time} NOT NULL,
    expires_at {time} NOT NULL,
    state {plain} NOT NULL,
    decided_by {plain},
    decided_at {time},
    version INTEGER NOT NULL,
    mac {plain},
    CONSTRAINT pk_approvals PRIMARY KEY (digest),
    CONSTRAINT ck_approvals_state
        CHECK (state IN (
            'waiting', 'approved', 'executing', 'done', 'rejected', 'expired'
        ))
)

CREATE INDEX ix_approvals_open ON approvals (requested_at)
WHERE state IN ('approved', 'executing', 'waiting')
"""

# Versions only rise, so that an old row with its valid MAC cannot be put back.
CHANGED = "NEW.version <> OLD.version + 1 OR NEW.digest <> OLD.digest"

READABLE = "BETWEEN TIMESTAMPTZ '1970-01-01 UTC' AND TIMESTAMPTZ '9999-12-30 UTC'"

# Python cannot read other times, and no command could then replace the row.
TIMES = " OR ".join(
    f"NEW.{name} NOT {READABLE}"
    for name in ("requested_at", "expires_at", "decided_at")
)

SQLITE = """
CREATE TRIGGER approvals_begin BEFORE INSERT ON approvals WHEN NEW.version <> 0
BEGIN SELECT RAISE(ABORT, 'the first version of an approval is 0'); END

CREATE TRIGGER approvals_keep BEFORE UPDATE ON approvals WHEN {changed}
BEGIN SELECT RAISE(ABORT, 'versions of approvals only rise'); END

CREATE TRIGGER approvals_stay BEFORE DELETE ON approvals
BEGIN SELECT RAISE(ABORT, 'versions of approvals only rise'); END
"""

POSTGRESQL = """
CREATE TRIGGER approvals_begin BEFORE INSERT ON approvals
FOR EACH ROW WHEN (NEW.version <> 0 OR {times})
EXECUTE FUNCTION rows_keep('the first version of an approval is 0')

CREATE TRIGGER approvals_keep BEFORE UPDATE ON approvals
FOR EACH ROW WHEN ({changed} OR {times})
EXECUTE FUNCTION rows_keep('versions of approvals only rise')

CREATE TRIGGER approvals_stay BEFORE DELETE ON approvals
FOR EACH ROW EXECUTE FUNCTION rows_keep('versions of approvals only rise')
"""


def upgrade() -> None:
    """Create the table and its triggers."""
    dialect = op.get_bind().dialect.name
    triggers = POSTGRESQL if dialect == "postgresql" else SQLITE
    statements = TABLES.format(**DIALECTS[dialect]) + triggers.format(
        changed=CHANGED, times=TIMES
    )
    for statement in statements.strip().split("\n\n"):
        op.execute(statement.strip())
