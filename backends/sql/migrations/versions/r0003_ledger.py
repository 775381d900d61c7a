"""
The whole ledger: the first revision.

A migration is never edited, and imports nothing from this project.
There is no downgrade, since it would delete the ledger: restore a backup instead.
"""

from alembic import op


revision = "0003"  # Development versions had 0001 and 0002.
down_revision = None

TYPES = {
    "sqlite": {
        "plain": "TEXT",
        "uint256": "VARCHAR(78)",
        "time": "VARCHAR(32)",
        "bytes": "BLOB",
        "zero": f"'{0:078d}'",
        "clustered": "WITHOUT ROWID",  # One B-tree for table and primary key.
    },
    "postgresql": {
        "plain": 'TEXT COLLATE "C"',
        "uint256": "NUMERIC(78, 0)",
        "time": "TIMESTAMP WITH TIME ZONE",
        "bytes": "BYTEA",
        "zero": "0",
        "clustered": "",
    },
}

# A blank line ends a statement.
TABLES = """
CREATE TABLE refunds (
    id {plain} NOT NULL,
    client {plain} NOT NULL,
    idempotency_key {plain} NOT NULL,
    fingerprint {plain} NOT NULL,
    reference {plain} NOT NULL,
    payment_session_id {plain} NOT NULL,
    network {plain} NOT NULL,
    chain_id BIGINT NOT NULL,
    token {plain} NOT NULL,
    token_address {plain} NOT NULL,
    decimals INTEGER NOT NULL,
    recipient {plain} NOT NULL,
    amount {uint256} NOT NULL,
    reason {plain},
    status {plain} NOT NULL,
    created_at {time} NOT NULL,
    updated_at {time} NOT NULL,
    version INTEGER NOT NULL,
    sender {plain},
    key_id {plain},
    nonce BIGINT,
    gas_limit BIGINT,
    tx_hash {plain},
    block_number BIGINT,
    block_hash {plain},
    failure_code {plain},
    failure_detail {plain},
    due_at {time} DEFAULT '1970-01-01T00:00:00.000000+00:00' NOT NULL,
    attempts INTEGER DEFAULT '0' NOT NULL,
    blocked_by {plain},
    CONSTRAINT pk_refunds PRIMARY KEY (id),
    CONSTRAINT uq_refunds_idempotency_key UNIQUE (client, idempotency_key),
    CONSTRAINT uq_refunds_reference UNIQUE (client, reference),
    CONSTRAINT uq_refunds_nonce UNIQUE (chain_id, sender, nonce),
    CONSTRAINT ck_refunds_status CHECK (
        status IN ('broadcast', 'cancelled', 'confirmed', 'failed', 'mined', 'queued',
                   'refused', 'reserved', 'signed')
    ),
    CONSTRAINT ck_refunds_amount CHECK (amount > {zero}),
    CONSTRAINT ck_refunds_ranges CHECK (
        chain_id > 0 AND decimals >= 0 AND version >= 0
        AND nonce >= 0 AND gas_limit > 0 AND block_number >= 0
    ),
    CONSTRAINT ck_refunds_reservation CHECK (
        (status IN ('cancelled', 'queued', 'refused')) = (nonce IS NULL)
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

CREATE INDEX ix_refunds_open ON refunds (id)
WHERE status IN ('broadcast', 'mined', 'queued', 'reserved', 'signed')

CREATE INDEX ix_refunds_client ON refunds (client, id)

CREATE INDEX ix_refunds_session ON refunds (client, payment_session_id, id)

CREATE INDEX ix_refunds_status ON refunds (client, status, id)

CREATE INDEX ix_refunds_due ON refunds (due_at)
WHERE status IN ('broadcast', 'queued', 'reserved', 'signed')

CREATE TABLE transactions (
    tx_hash {plain} NOT NULL,
    refund_id {plain} NOT NULL,
    attempt INTEGER NOT NULL,
    kind {plain} NOT NULL,
    chain_id BIGINT NOT NULL,
    sender {plain} NOT NULL,
    nonce BIGINT NOT NULL,
    max_fee_per_gas {uint256} NOT NULL,
    max_priority_fee_per_gas {uint256} NOT NULL,
    gas_limit BIGINT NOT NULL,
    raw {bytes} NOT NULL,
    signed_at {time} NOT NULL,
    CONSTRAINT pk_transactions PRIMARY KEY (tx_hash),
    CONSTRAINT uq_transactions_attempt UNIQUE (refund_id, attempt),
    CONSTRAINT fk_transactions_refund FOREIGN KEY(refund_id) REFERENCES refunds (id),
    CONSTRAINT ck_transactions_kind CHECK (kind IN ('noop', 'transfer')),
    CONSTRAINT ck_transactions_ranges CHECK (
        attempt >= 0 AND chain_id > 0 AND nonce >= 0 AND gas_limit > 0
        AND max_priority_fee_per_gas <= max_fee_per_gas
    )
)

CREATE TABLE refund_moves (
    refund_id {plain} NOT NULL,
    version INTEGER NOT NULL,
    status {plain} NOT NULL,
    at {time} NOT NULL,
    CONSTRAINT pk_refund_moves PRIMARY KEY (refund_id, version),
    CONSTRAINT fk_refund_moves_refund FOREIGN KEY(refund_id) REFERENCES refunds (id),
    CONSTRAINT ck_refund_moves_status CHECK (
        status IN ('broadcast', 'cancelled', 'confirmed', 'failed', 'mined', 'queued',
                   'refused', 'reserved', 'signed')
    )
) {clustered}

CREATE TABLE answers (
    refund_id {plain} NOT NULL,
    body {plain} NOT NULL,
    at {time} NOT NULL,
    CONSTRAINT pk_answers PRIMARY KEY (refund_id),
    CONSTRAINT fk_answers_refund FOREIGN KEY(refund_id) REFERENCES refunds (id)
)

CREATE TABLE wallets (
    chain_id BIGINT NOT NULL,
    sender {plain} NOT NULL,
    first_nonce BIGINT NOT NULL,
    paused_by {plain},
    paused_at {time},
    version INTEGER NOT NULL,
    CONSTRAINT pk_wallets PRIMARY KEY (chain_id, sender),
    CONSTRAINT ck_wallets_ranges
        CHECK (chain_id > 0 AND first_nonce >= 0 AND version >= 0),
    CONSTRAINT ck_wallets_pause CHECK ((paused_by IS NULL) = (paused_at IS NULL))
)

CREATE TABLE sightings (
    chain_id BIGINT NOT NULL,
    sender {plain} NOT NULL,
    nonce BIGINT NOT NULL,
    tx_hash {plain} NOT NULL,
    mark {bytes},
    gas_limit BIGINT NOT NULL,
    block_number BIGINT NOT NULL,
    block_hash {plain} NOT NULL,
    seen_at {time} NOT NULL,
    accepted_at {time},
    CONSTRAINT pk_sightings PRIMARY KEY (chain_id, sender, nonce),
    CONSTRAINT fk_sightings_wallet
        FOREIGN KEY(chain_id, sender) REFERENCES wallets (chain_id, sender),
    CONSTRAINT ck_sightings_ranges
        CHECK (nonce >= 0 AND gas_limit > 0 AND block_number >= 0)
)

CREATE INDEX ix_sightings_mark ON sightings (chain_id, mark)

CREATE TABLE spendings (
    chain_id BIGINT NOT NULL,
    token_address {plain} NOT NULL,
    recipient {plain} NOT NULL,
    hour BIGINT NOT NULL,
    amount {uint256} NOT NULL,
    CONSTRAINT pk_spendings PRIMARY KEY (chain_id, token_address, recipient, hour)
)

CREATE TABLE stops (
    chain_id BIGINT NOT NULL,
    at {time} NOT NULL,
    CONSTRAINT pk_stops PRIMARY KEY (chain_id)
)

CREATE TABLE keys (
    backend {plain} NOT NULL,
    key_id {plain} NOT NULL,
    address {plain} NOT NULL,
    state {plain} NOT NULL,
    created_at {time} NOT NULL,
    updated_at {time} NOT NULL,
    epoch BIGINT,
    requested_by {plain},
    held_until {time},
    blocked_by {plain},
    version INTEGER NOT NULL,
    CONSTRAINT pk_keys PRIMARY KEY (address),
    CONSTRAINT uq_keys_id UNIQUE (backend, key_id),
    CONSTRAINT uq_keys_epoch UNIQUE (epoch),
    CONSTRAINT ck_keys_state CHECK (
        state IN ('active', 'blocked', 'draining', 'pending', 'rejected', 'retired')
    ),
    CONSTRAINT ck_keys_epoch CHECK (
        state NOT IN ('active', 'blocked', 'draining', 'retired') OR epoch IS NOT NULL
    ),
    CONSTRAINT ck_keys_ranges CHECK (version >= 0 AND epoch > 0)
)

-- At most one active and one pending key, which also makes rotations exclusive.
CREATE UNIQUE INDEX uq_keys_active ON keys (state) WHERE state = 'active'

CREATE UNIQUE INDEX uq_keys_pending ON keys (state) WHERE state = 'pending'

CREATE TABLE audit_records (
    id {plain} NOT NULL,
    body {plain} NOT NULL,
    sequence BIGINT,
    hash {bytes},
    CONSTRAINT pk_audit_records PRIMARY KEY (id),
    CONSTRAINT uq_audit_records_sequence UNIQUE (sequence),
    CONSTRAINT ck_audit_records_seal
        CHECK ((sequence IS NULL) = (hash IS NULL) AND sequence > 0)
)

CREATE INDEX ix_audit_records_unsealed ON audit_records (id) WHERE sequence IS NULL

CREATE TABLE audit_checkpoints (
    size BIGINT NOT NULL,
    note {plain} NOT NULL,
    at {time} NOT NULL,
    CONSTRAINT pk_audit_checkpoints PRIMARY KEY (size)
)

CREATE TABLE used_tokens (
    jti {plain} NOT NULL,
    expires_at {time} NOT NULL,
    CONSTRAINT pk_used_tokens PRIMARY KEY (jti)
)

CREATE INDEX ix_used_tokens_expires_at ON used_tokens (expires_at)

CREATE TABLE attempts (
    bucket {plain} NOT NULL,
    period BIGINT NOT NULL,
    count BIGINT NOT NULL,
    CONSTRAINT pk_attempts PRIMARY KEY (bucket, period)
)

CREATE INDEX ix_attempts_period ON attempts (period)

CREATE TABLE alerts (
    name {plain} NOT NULL,
    count BIGINT NOT NULL,
    last_at {time} NOT NULL,
    CONSTRAINT pk_alerts PRIMARY KEY (name)
)
"""

# A record may be sealed once; everything else is rejected.
TRIGGERS = {
    "sqlite": """
CREATE TRIGGER audit_records_keep BEFORE DELETE ON audit_records
BEGIN SELECT RAISE(ABORT, 'audit records are for ever'); END

CREATE TRIGGER audit_records_seal BEFORE UPDATE ON audit_records
WHEN NOT (OLD.sequence IS NULL AND NEW.sequence IS NOT NULL
          AND NEW.id = OLD.id AND NEW.body = OLD.body)
BEGIN SELECT RAISE(ABORT, 'audit records are for ever'); END

-- REPLACE fires no delete trigger for the rows that it replaces.
CREATE TRIGGER audit_records_new BEFORE INSERT ON audit_records
WHEN NEW.sequence IS NOT NULL
     OR EXISTS (SELECT 1 FROM audit_records WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'audit records are for ever'); END

CREATE TRIGGER audit_records_place BEFORE UPDATE ON audit_records
WHEN EXISTS (SELECT 1 FROM audit_records WHERE sequence = NEW.sequence)
BEGIN SELECT RAISE(ABORT, 'audit records are for ever'); END

CREATE TRIGGER audit_checkpoints_new BEFORE INSERT ON audit_checkpoints
WHEN EXISTS (SELECT 1 FROM audit_checkpoints WHERE size = NEW.size)
BEGIN SELECT RAISE(ABORT, 'audit checkpoints are for ever'); END

CREATE TRIGGER audit_checkpoints_keep BEFORE DELETE ON audit_checkpoints
BEGIN SELECT RAISE(ABORT, 'audit checkpoints are for ever'); END

CREATE TRIGGER audit_checkpoints_stay BEFORE UPDATE ON audit_checkpoints
BEGIN SELECT RAISE(ABORT, 'audit checkpoints are for ever'); END
""",
    "postgresql": """
CREATE FUNCTION audit_for_ever() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'audit records are for ever'; END $$

CREATE TRIGGER audit_records_keep BEFORE DELETE ON audit_records
FOR EACH ROW EXECUTE FUNCTION audit_for_ever()

CREATE TRIGGER audit_records_seal BEFORE UPDATE ON audit_records
FOR EACH ROW WHEN (NOT (OLD.sequence IS NULL AND NEW.sequence IS NOT NULL
                        AND NEW.id = OLD.id AND NEW.body = OLD.body))
EXECUTE FUNCTION audit_for_ever()

CREATE TRIGGER audit_records_whole BEFORE TRUNCATE ON audit_records
EXECUTE FUNCTION audit_for_ever()

CREATE TRIGGER audit_checkpoints_keep BEFORE DELETE OR UPDATE ON audit_checkpoints
FOR EACH ROW EXECUTE FUNCTION audit_for_ever()

CREATE TRIGGER audit_checkpoints_whole BEFORE TRUNCATE ON audit_checkpoints
EXECUTE FUNCTION audit_for_ever()
""",
}


def upgrade() -> None:
    """Create the tables, their indexes, and the triggers that protect the audit log."""
    dialect = op.get_bind().dialect.name
    statements = TABLES.format(**TYPES[dialect]) + TRIGGERS[dialect]
    for statement in statements.strip().split("\n\n"):
        op.execute(statement)
