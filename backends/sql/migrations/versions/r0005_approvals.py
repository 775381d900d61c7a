"""
Changes that need a second administrator; restored wallets, and MACs of wallets.

A migration is never edited after a release, and imports nothing from this project.
"""

from alembic import op


revision = "0005"
down_revision = "0004"

DIALECTS = {
    "sqlite": {"plain": "TEXT", "time": "VARCHAR(32)", "is_not": "IS NOT"},
    "postgresql": {
        "plain": 'TEXT COLLATE "C"',
        "time": "TIMESTAMP WITH TIME ZONE",
        "is_not": "IS DISTINCT FROM",
    },
}

# A blank line ends a statement.
TABLES = """
CREATE TABLE approvals (
    digest {plain} NOT NULL,
    action {plain} DEFAULT 'refund-pay' NOT NULL,
    proposal {plain} NOT NULL,
    reason {plain} DEFAULT '' NOT NULL,
    requested_by {plain} NOT NULL,
    requested_at {time} NOT NULL,
    expires_at {time} NOT NULL,
    state {plain} DEFAULT 'waiting' NOT NULL,
    decided_by {plain},
    decided_at {time},
    refund_id {plain},
    version INTEGER DEFAULT 0 NOT NULL,
    mac {plain},
    CONSTRAINT pk_approvals PRIMARY KEY (digest),
    CONSTRAINT ck_approvals_state
        CHECK (state IN ('waiting', 'approved', 'done', 'rejected', 'expired'))
)

CREATE INDEX ix_approvals_open ON approvals (requested_at, digest)
WHERE state IN ('approved', 'waiting')

ALTER TABLE wallets ADD COLUMN high_water BIGINT

ALTER TABLE wallets ADD COLUMN mac {plain}

ALTER TABLE sightings ADD COLUMN mac {plain}

CREATE INDEX ix_approvals_refund ON approvals (refund_id)
WHERE refund_id IS NOT NULL

CREATE TABLE accepted_limits (
    id INTEGER NOT NULL,
    document {plain} NOT NULL,
    accepted_at {time} NOT NULL,
    version INTEGER NOT NULL,
    mac {plain},
    CONSTRAINT pk_accepted_limits PRIMARY KEY (id),
    CONSTRAINT ck_accepted_limits_one CHECK (id = 1)
)
"""

# Versions only rise, so that an old row with its valid MAC cannot be put back.
CHANGED = "NEW.version <> OLD.version + 1 OR NEW.digest <> OLD.digest"

READABLE = "BETWEEN TIMESTAMPTZ '1970-01-01 UTC' AND TIMESTAMPTZ '9999-12-30 UTC'"

# Python cannot read other times, and no command could then replace the row.
TIMES = " OR ".join(
    f"NEW.{name} NOT {READABLE}"
    for name in ("requested_at", "expires_at", "decided_at")
)

# Python cannot read another reason.
WALLET_REASON = (
    "NEW.paused_by NOT IN"
    " ('chain-ahead', 'foreign-transaction', 'unknown-history', 'restored')"
)

WALLET_CHANGED = """
    NEW.version <> OLD.version + 1
    OR NEW.chain_id <> OLD.chain_id OR NEW.sender <> OLD.sender
"""

# A transaction is accepted once; `db upgrade` renews its MAC.
SIGHTING_CHANGED = """
    (NEW.chain_id, NEW.sender, NEW.nonce, NEW.tx_hash, NEW.gas_limit,
     NEW.block_number, NEW.block_hash, NEW.seen_at)
    <> (OLD.chain_id, OLD.sender, OLD.nonce, OLD.tx_hash, OLD.gas_limit,
        OLD.block_number, OLD.block_hash, OLD.seen_at)
    OR NEW.mark {is_not} OLD.mark
    OR (OLD.accepted_at IS NOT NULL AND NEW.accepted_at {is_not} OLD.accepted_at)
"""

# Times and marks that Python cannot read, or that would fill its memory.
WALLET_UNREADABLE = f"NEW.paused_at NOT {READABLE} OR {WALLET_REASON}"

SIGHTING_UNREADABLE = (
    f"NEW.seen_at NOT {READABLE} OR NEW.accepted_at NOT {READABLE}"
    " OR octet_length(NEW.mark) > 64"
    " OR octet_length(NEW.tx_hash || NEW.block_hash || coalesce(NEW.mac, '')) > 1000"
)

# REPLACE fires no trigger for the row that it deletes.
SQLITE = """
CREATE TRIGGER wallets_begin BEFORE INSERT ON wallets
WHEN NEW.version <> 0 OR {wallet_reason} OR EXISTS (
    SELECT 1 FROM wallets WHERE chain_id = NEW.chain_id AND sender = NEW.sender
)
BEGIN SELECT RAISE(ABORT, 'the first version of a wallet is 0'); END

CREATE TRIGGER wallets_keep BEFORE UPDATE ON wallets
WHEN {wallet_changed} OR {wallet_reason}
BEGIN SELECT RAISE(ABORT, 'versions of wallets only rise'); END

CREATE TRIGGER wallets_stay BEFORE DELETE ON wallets
BEGIN SELECT RAISE(ABORT, 'versions of wallets only rise'); END

CREATE TRIGGER sightings_begin BEFORE INSERT ON sightings
WHEN EXISTS (
    SELECT 1 FROM sightings
    WHERE chain_id = NEW.chain_id AND sender = NEW.sender AND nonce = NEW.nonce
)
BEGIN SELECT RAISE(ABORT, 'a transaction is recorded once'); END

CREATE TRIGGER sightings_keep BEFORE UPDATE ON sightings WHEN {sighting_changed}
BEGIN SELECT RAISE(ABORT, 'a recorded transaction is accepted once'); END

CREATE TRIGGER sightings_stay BEFORE DELETE ON sightings
BEGIN SELECT RAISE(ABORT, 'a transaction is recorded for ever'); END

CREATE TRIGGER approvals_begin BEFORE INSERT ON approvals WHEN NEW.version <> 0
BEGIN SELECT RAISE(ABORT, 'the first version of an approval is 0'); END

CREATE TRIGGER approvals_keep BEFORE UPDATE ON approvals WHEN {changed}
BEGIN SELECT RAISE(ABORT, 'versions of approvals only rise'); END

CREATE TRIGGER approvals_stay BEFORE DELETE ON approvals
BEGIN SELECT RAISE(ABORT, 'versions of approvals only rise'); END

CREATE TRIGGER accepted_limits_begin BEFORE INSERT ON accepted_limits
WHEN NEW.version <> 0
BEGIN SELECT RAISE(ABORT, 'the first version of the limits is 0'); END

CREATE TRIGGER accepted_limits_keep BEFORE UPDATE ON accepted_limits
WHEN NEW.version <> OLD.version + 1
BEGIN SELECT RAISE(ABORT, 'versions of the limits only rise'); END

CREATE TRIGGER accepted_limits_stay BEFORE DELETE ON accepted_limits
BEGIN SELECT RAISE(ABORT, 'versions of the limits only rise'); END
"""

POSTGRESQL = """
CREATE TRIGGER wallets_begin BEFORE INSERT ON wallets
FOR EACH ROW WHEN (NEW.version <> 0 OR {wallet_unreadable})
EXECUTE FUNCTION rows_keep('the first version of a wallet is 0')

CREATE TRIGGER wallets_keep BEFORE UPDATE ON wallets
FOR EACH ROW WHEN ({wallet_changed} OR {wallet_unreadable})
EXECUTE FUNCTION rows_keep('versions of wallets only rise')

CREATE TRIGGER wallets_stay BEFORE DELETE ON wallets
FOR EACH ROW EXECUTE FUNCTION rows_keep('versions of wallets only rise')

CREATE TRIGGER sightings_begin BEFORE INSERT ON sightings
FOR EACH ROW WHEN ({sighting_unreadable})
EXECUTE FUNCTION rows_keep('a recorded transaction can be read')

CREATE TRIGGER sightings_keep BEFORE UPDATE ON sightings
FOR EACH ROW WHEN ({sighting_changed} OR {sighting_unreadable})
EXECUTE FUNCTION rows_keep('a recorded transaction is accepted once')

CREATE TRIGGER sightings_stay BEFORE DELETE ON sightings
FOR EACH ROW EXECUTE FUNCTION rows_keep('a transaction is recorded for ever')

CREATE TRIGGER approvals_begin BEFORE INSERT ON approvals
FOR EACH ROW WHEN (NEW.version <> 0 OR {times})
EXECUTE FUNCTION rows_keep('the first version of an approval is 0')

CREATE TRIGGER approvals_keep BEFORE UPDATE ON approvals
FOR EACH ROW WHEN ({changed} OR {times})
EXECUTE FUNCTION rows_keep('versions of approvals only rise')

CREATE TRIGGER approvals_stay BEFORE DELETE ON approvals
FOR EACH ROW EXECUTE FUNCTION rows_keep('versions of approvals only rise')

CREATE TRIGGER accepted_limits_begin BEFORE INSERT ON accepted_limits
FOR EACH ROW WHEN (NEW.version <> 0 OR NEW.accepted_at NOT {readable})
EXECUTE FUNCTION rows_keep('the first version of the limits is 0')

CREATE TRIGGER accepted_limits_keep BEFORE UPDATE ON accepted_limits
FOR EACH ROW
WHEN (NEW.version <> OLD.version + 1 OR NEW.accepted_at NOT {readable})
EXECUTE FUNCTION rows_keep('versions of the limits only rise')

CREATE TRIGGER accepted_limits_stay BEFORE DELETE ON accepted_limits
FOR EACH ROW EXECUTE FUNCTION rows_keep('versions of the limits only rise')
"""


# Refunds that await an approval: they have no nonce, and can be cancelled.
STATUSES = """
    status IN ('awaiting-approval', 'broadcast', 'cancelled', 'confirmed', 'failed',
               'mined', 'queued', 'refused', 'reserved', 'signed')
"""

RESERVATION = """
    (status IN ('awaiting-approval', 'cancelled', 'queued', 'refused'))
        = (nonce IS NULL)
    AND (nonce IS NULL) = (sender IS NULL)
    AND (nonce IS NULL) = (key_id IS NULL)
    AND (nonce IS NULL) = (gas_limit IS NULL)
"""

FIRST_MOVE = "version > 0 OR status IN ('awaiting-approval', 'queued')"

INDEXES = """
CREATE INDEX ix_refunds_open ON refunds (id)
WHERE status IN (
    'awaiting-approval', 'broadcast', 'mined', 'queued', 'reserved', 'signed'
)

CREATE INDEX ix_refunds_awaiting ON refunds (id) WHERE status = 'awaiting-approval'

CREATE INDEX ix_refunds_cancel_requested ON refunds (id)
WHERE status IN ('awaiting-approval', 'queued') AND cancel_requested_at IS NOT NULL
"""

# As in the revision before, with the new status.
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
    OR (OLD.mac IS NOT NULL AND NEW.mac {is_not} OLD.mac)
    OR (NEW.cancel_requested_at {is_not} OLD.cancel_requested_at
        AND (OLD.cancel_requested_at IS NOT NULL
             OR OLD.status NOT IN ('awaiting-approval', 'queued')))
    OR (OLD.nonce IS NOT NULL
        AND (NEW.nonce {is_not} OLD.nonce OR NEW.sender {is_not} OLD.sender
             OR NEW.key_id {is_not} OLD.key_id)
        AND NOT (OLD.status = 'reserved' AND NEW.status = 'queued'))
"""

# SQLite changes a constraint by copying the table.
SQLITE_REFUNDS = """
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
    CONSTRAINT pk_refunds PRIMARY KEY (id),
    CONSTRAINT uq_refunds_idempotency_key UNIQUE (tenant, idempotency_key),
    CONSTRAINT uq_refunds_reference UNIQUE (tenant, reference),
    CONSTRAINT uq_refunds_nonce UNIQUE (chain_id, sender, nonce),
    CONSTRAINT ck_refunds_status CHECK ({statuses}),
    CONSTRAINT ck_refunds_amount CHECK (amount > '{zero}'),
    CONSTRAINT ck_refunds_ranges CHECK (
        chain_id > 0 AND decimals >= 0 AND version >= 0
        AND nonce >= 0 AND gas_limit > 0 AND block_number >= 0
    ),
    CONSTRAINT ck_refunds_reservation CHECK ({reservation}),
    CONSTRAINT ck_refunds_transaction CHECK (
        NOT (status IN ('broadcast', 'confirmed', 'mined', 'signed'))
        OR tx_hash IS NOT NULL
    ),
    CONSTRAINT ck_refunds_block CHECK (
        NOT (status IN ('confirmed', 'mined'))
        OR (block_number IS NOT NULL AND block_hash IS NOT NULL)
    )
)

INSERT INTO new_refunds SELECT * FROM refunds

DROP TABLE refunds

ALTER TABLE new_refunds RENAME TO refunds

CREATE INDEX ix_refunds_tenant ON refunds (tenant, id)

CREATE INDEX ix_refunds_session ON refunds (tenant, payment_session_id, id)

CREATE INDEX ix_refunds_status ON refunds (tenant, status, id)

CREATE INDEX ix_refunds_due ON refunds (due_at)
WHERE status IN ('broadcast', 'queued', 'reserved', 'signed')

CREATE INDEX ix_refunds_result ON refunds (chain_id, updated_at)
WHERE status IN ('confirmed', 'failed')

CREATE TRIGGER refunds_begin BEFORE INSERT ON refunds WHEN {refund_new}
BEGIN SELECT RAISE(ABORT, 'a new refund has no nonce, and nothing was done yet'); END

CREATE TRIGGER refunds_keep BEFORE UPDATE ON refunds WHEN {refund_changed}
BEGIN SELECT RAISE(ABORT, 'a refund keeps what it pays, its nonce and its end'); END

CREATE TABLE new_refund_moves (
    refund_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    status TEXT NOT NULL,
    at VARCHAR(32) NOT NULL,
    CONSTRAINT pk_refund_moves PRIMARY KEY (refund_id, version),
    CONSTRAINT fk_refund_moves_refund FOREIGN KEY(refund_id) REFERENCES refunds (id),
    CONSTRAINT ck_refund_moves_status CHECK ({statuses}),
    CONSTRAINT ck_refund_moves_first CHECK ({first_move})
) WITHOUT ROWID

INSERT INTO new_refund_moves SELECT * FROM refund_moves

DROP TABLE refund_moves

ALTER TABLE new_refund_moves RENAME TO refund_moves
"""

POSTGRESQL_REFUNDS = """
ALTER TABLE refunds DROP CONSTRAINT ck_refunds_status,
    DROP CONSTRAINT ck_refunds_reservation,
    ADD CONSTRAINT ck_refunds_status CHECK ({statuses}),
    ADD CONSTRAINT ck_refunds_reservation CHECK ({reservation})

ALTER TABLE refund_moves DROP CONSTRAINT ck_refund_moves_status,
    ADD CONSTRAINT ck_refund_moves_status CHECK ({statuses}),
    ADD CONSTRAINT ck_refund_moves_first CHECK ({first_move})

DROP INDEX ix_refunds_open

DROP INDEX ix_refunds_cancel_requested

DROP TRIGGER refunds_begin ON refunds

DROP TRIGGER refunds_keep ON refunds

CREATE TRIGGER refunds_begin BEFORE INSERT ON refunds
FOR EACH ROW WHEN ({refund_new})
EXECUTE FUNCTION rows_keep('a new refund has no nonce, and nothing was done yet')

CREATE TRIGGER refunds_keep BEFORE UPDATE ON refunds
FOR EACH ROW WHEN ({refund_changed})
EXECUTE FUNCTION rows_keep('a refund keeps what it pays, its nonce and its end')
"""


def upgrade() -> None:
    """Create the table and the columns, and let refunds wait for an approval."""
    dialect = op.get_bind().dialect.name
    words = DIALECTS[dialect]
    is_postgresql = dialect == "postgresql"
    statements = TABLES + (POSTGRESQL if is_postgresql else SQLITE)
    statements += POSTGRESQL_REFUNDS if is_postgresql else SQLITE_REFUNDS
    rules = {
        "changed": CHANGED,
        "times": TIMES,
        "readable": READABLE,
        "wallet_changed": WALLET_CHANGED.strip(),
        "wallet_reason": WALLET_REASON,
        "wallet_unreadable": WALLET_UNREADABLE,
        "sighting_changed": SIGHTING_CHANGED.format(**words).strip(),
        "sighting_unreadable": SIGHTING_UNREADABLE,
        "statuses": STATUSES.strip(),
        "reservation": RESERVATION.strip(),
        "first_move": FIRST_MOVE,
        "refund_new": REFUND_NEW.strip(),
        "refund_changed": REFUND_CHANGED.format(**words).strip(),
        "zero": f"{0:078d}",
    }
    statements = (statements + INDEXES).format(**words, **rules)
    for statement in statements.strip().split("\n\n"):
        op.execute(statement.strip())
