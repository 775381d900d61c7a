"""
Refunds with calldata: calls that a client of JSON-RPC chose, and transfers of coin.

A migration is never edited after a release, and imports nothing from this project.
"""

from alembic import op


revision = "0009"
down_revision = "0008"

DIALECTS = {
    "sqlite": {"is_not": "IS NOT", "bytes": "length", "zero": f"'{0:078d}'"},
    "postgresql": {
        "is_not": "IS DISTINCT FROM",
        "bytes": "octet_length",
        "zero": "0",
    },
}

# A call may have no value.  Everything else pays something.
AMOUNT = "amount > {zero} OR (calldata IS NOT NULL AND amount >= {zero})"

CALLDATA = "calldata IS NULL OR {bytes}(calldata) <= 16384"

# As in earlier revisions, with the new column.
REFUND_NEW = """
    NEW.status NOT IN ('awaiting-approval', 'queued') OR NEW.version <> 0
    OR NEW.attempts <> 0 OR NEW.cancel_requested_at IS NOT NULL
"""

REFUND_CHANGED = """
    OLD.status IN ('cancelled', 'confirmed', 'failed', 'refused')
    OR (NEW.id, NEW.tenant, NEW.idempotency_key, NEW.fingerprint, NEW.reference,
        NEW.payment_session_id, NEW.network, NEW.chain_id, NEW.token,
        NEW.token_address, NEW.decimals, NEW.recipient, NEW.amount, NEW.created_at)
    <> (OLD.id, OLD.tenant, OLD.idempotency_key, OLD.fingerprint, OLD.reference,
        OLD.payment_session_id, OLD.network, OLD.chain_id, OLD.token,
        OLD.token_address, OLD.decimals, OLD.recipient, OLD.amount, OLD.created_at)
    OR NEW.reason {is_not} OLD.reason
    OR NEW.calldata {is_not} OLD.calldata
    OR (OLD.mac IS NOT NULL AND NEW.mac {is_not} OLD.mac)
    OR (NEW.cancel_requested_at {is_not} OLD.cancel_requested_at
        AND (OLD.cancel_requested_at IS NOT NULL
             OR OLD.status NOT IN ('awaiting-approval', 'queued')))
    OR (OLD.nonce IS NOT NULL
        AND (NEW.nonce {is_not} OLD.nonce OR NEW.sender {is_not} OLD.sender
             OR NEW.key_id {is_not} OLD.key_id)
        AND NOT (OLD.status = 'reserved' AND NEW.status = 'queued'))
"""

# SQLite changes a constraint by copying the table.  A blank line ends a statement.
SQLITE = """
CREATE TABLE new_refunds (
    id TEXT NOT NULL,
    tenant TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    reference TEXT NOT NULL,
    payment_session_id TEXT NOT NULL,
    network TEXT NOT NULL,
    chain_id BIGINT NOT NULL,
    token TEXT NOT NULL,
    token_address TEXT NOT NULL,
    decimals INTEGER NOT NULL,
    recipient TEXT NOT NULL,
    amount VARCHAR(78) NOT NULL,
    reason TEXT,
    status TEXT NOT NULL,
    created_at VARCHAR(32) NOT NULL,
    updated_at VARCHAR(32) NOT NULL,
    version INTEGER NOT NULL,
    sender TEXT,
    key_id TEXT,
    nonce BIGINT,
    gas_limit BIGINT,
    tx_hash TEXT,
    block_number BIGINT,
    block_hash TEXT,
    failure_code TEXT,
    failure_detail TEXT,
    due_at VARCHAR(32) DEFAULT '1970-01-01T00:00:00.000000+00:00' NOT NULL,
    attempts INTEGER DEFAULT '0' NOT NULL,
    blocked_by TEXT,
    mac TEXT,
    cancel_requested_at VARCHAR(32),
    calldata BLOB,
    CONSTRAINT pk_refunds PRIMARY KEY (id),
    CONSTRAINT uq_refunds_idempotency_key UNIQUE (tenant, idempotency_key),
    CONSTRAINT uq_refunds_reference UNIQUE (tenant, reference),
    CONSTRAINT uq_refunds_nonce UNIQUE (chain_id, sender, nonce),
    CONSTRAINT ck_refunds_status CHECK (
        status IN ('awaiting-approval', 'broadcast', 'cancelled', 'confirmed', 'failed',
                   'mined', 'queued', 'refused', 'reserved', 'signed')
    ),
    CONSTRAINT ck_refunds_amount CHECK ({amount}),
    CONSTRAINT ck_refunds_calldata CHECK ({calldata}),
    CONSTRAINT ck_refunds_ranges CHECK (
        chain_id > 0 AND decimals >= 0 AND version >= 0
        AND nonce >= 0 AND gas_limit > 0 AND block_number >= 0
    ),
    CONSTRAINT ck_refunds_reservation CHECK (
        (status IN ('awaiting-approval', 'cancelled', 'queued', 'refused'))
            = (nonce IS NULL)
        AND (nonce IS NULL) = (sender IS NULL)
        AND (nonce IS NULL) = (key_id IS NULL)
        AND (nonce IS NULL) = (gas_limit IS NULL)
    ),
    CONSTRAINT ck_refunds_transaction CHECK (
        NOT (status IN ('broadcast', 'confirmed', 'mined', 'signed'))
        OR tx_hash IS NOT NULL
    ),
    CONSTRAINT ck_refunds_block CHECK (
        NOT (status IN ('confirmed', 'mined'))
        OR (block_number IS NOT NULL AND block_hash IS NOT NULL)
    )
)

INSERT INTO new_refunds SELECT refunds.*, NULL FROM refunds

DROP TABLE refunds

ALTER TABLE new_refunds RENAME TO refunds

CREATE INDEX ix_refunds_tenant ON refunds (tenant, id)

CREATE INDEX ix_refunds_session ON refunds (tenant, payment_session_id, id)

CREATE INDEX ix_refunds_status ON refunds (tenant, status, id)

CREATE INDEX ix_refunds_due ON refunds (due_at)
WHERE status IN ('broadcast', 'queued', 'reserved', 'signed')

CREATE INDEX ix_refunds_result ON refunds (chain_id, updated_at)
WHERE status IN ('confirmed', 'failed')

CREATE INDEX ix_refunds_open ON refunds (id)
WHERE status IN (
    'awaiting-approval', 'broadcast', 'mined', 'queued', 'reserved', 'signed'
)

CREATE INDEX ix_refunds_awaiting ON refunds (id) WHERE status = 'awaiting-approval'

CREATE INDEX ix_refunds_cancel_requested ON refunds (id)
WHERE status IN ('awaiting-approval', 'queued') AND cancel_requested_at IS NOT NULL

CREATE TRIGGER refunds_begin BEFORE INSERT ON refunds WHEN {refund_new}
BEGIN SELECT RAISE(ABORT, 'a new refund has no nonce, and nothing was done yet'); END

CREATE TRIGGER refunds_keep BEFORE UPDATE ON refunds WHEN {refund_changed}
BEGIN SELECT RAISE(ABORT, 'a refund keeps what it pays, its nonce and its end'); END
"""

POSTGRESQL = """
ALTER TABLE refunds ADD COLUMN calldata BYTEA

ALTER TABLE refunds DROP CONSTRAINT ck_refunds_amount,
    ADD CONSTRAINT ck_refunds_amount CHECK ({amount}),
    ADD CONSTRAINT ck_refunds_calldata CHECK ({calldata})

DROP TRIGGER refunds_keep ON refunds

CREATE TRIGGER refunds_keep BEFORE UPDATE ON refunds
FOR EACH ROW WHEN ({refund_changed})
EXECUTE FUNCTION rows_keep('a refund keeps what it pays, its nonce and its end')
"""


def upgrade() -> None:
    """Add the column, which never changes, and allow calls without a value."""
    dialect = op.get_bind().dialect.name
    words = DIALECTS[dialect]
    rules = {
        "amount": AMOUNT.format(**words),
        "calldata": CALLDATA.format(**words),
        "refund_new": REFUND_NEW.strip(),
        "refund_changed": REFUND_CHANGED.format(**words).strip(),
    }
    statements = POSTGRESQL if dialect == "postgresql" else SQLITE
    for statement in statements.format(**rules).strip().split("\n\n"):
        op.execute(statement.strip())
