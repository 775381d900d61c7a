"""
Rows that carry MACs, rules that the database enforces itself, and tenants.

A migration is never edited after a release, and imports nothing from this project.
"""

from alembic import op


revision = "0004"
down_revision = "0003"

DIALECTS = {
    "sqlite": {
        "plain": "TEXT",
        "bytes": "BLOB",
        "time": "VARCHAR(32)",
        "is_not": "IS NOT",
        "octets": "length(CAST(note AS BLOB))",
    },
    "postgresql": {
        "plain": 'TEXT COLLATE "C"',
        "bytes": "BYTEA",
        "time": "TIMESTAMP WITH TIME ZONE",
        "is_not": "IS DISTINCT FROM",
        "octets": "octet_length(note)",
    },
}

# A blank line ends a statement.
TABLES = """
ALTER TABLE refunds RENAME COLUMN client TO tenant

ALTER TABLE refunds ADD COLUMN mac {plain}

ALTER TABLE refunds ADD COLUMN cancel_requested_at {time}

ALTER TABLE keys ADD COLUMN mac {plain}

ALTER TABLE keys ADD COLUMN proved_at {time}

ALTER TABLE audit_records ADD COLUMN mac {plain}

CREATE INDEX ix_audit_records_configuration ON audit_records (id)
WHERE body LIKE '%"event":"configuration-loaded"%'

CREATE INDEX ix_transactions_signed_at ON transactions (chain_id, signed_at)

CREATE INDEX ix_refunds_result ON refunds (chain_id, updated_at)
WHERE status IN ('confirmed', 'failed')

CREATE INDEX ix_refunds_cancel_requested ON refunds (id)
WHERE status = 'queued' AND cancel_requested_at IS NOT NULL

CREATE TABLE request_signatures (
    refund_id {plain} NOT NULL,
    body {bytes} NOT NULL,
    content_digest {plain} NOT NULL,
    signature_input {plain} NOT NULL,
    signature {plain} NOT NULL,
    at {time} NOT NULL,
    CONSTRAINT pk_request_signatures PRIMARY KEY (refund_id),
    CONSTRAINT fk_request_signatures_refund
        FOREIGN KEY(refund_id) REFERENCES refunds (id)
)
"""

# A nonce that no process reserved would leave a gap before the next one.  A worker adds
# to version and attempts, so a high number would end each claim with an error.
REFUND_NEW = """
    NEW.status <> 'queued' OR NEW.version <> 0 OR NEW.attempts <> 0
    OR NEW.cancel_requested_at IS NOT NULL
"""

# A refund keeps what it pays, and its nonce.  Only a revocation takes a nonce back,
# from a refund that was never signed.  A final refund never changes.  A request to
# cancel is made once, while the refund is queued.
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
        AND (OLD.cancel_requested_at IS NOT NULL OR OLD.status <> 'queued'))
    OR (OLD.nonce IS NOT NULL
        AND (NEW.nonce {is_not} OLD.nonce OR NEW.sender {is_not} OLD.sender
             OR NEW.key_id {is_not} OLD.key_id)
        AND NOT (OLD.status = 'reserved' AND NEW.status = 'queued'))
"""

# An empty answer is still to come.
ANSWER_CHANGED = "OLD.body <> '' OR NEW.refund_id <> OLD.refund_id"

# Versions only rise, so that an old row with its valid MAC cannot be put back.  What
# names `proved_at` alone changes nothing that the MAC covers.
KEY_COLUMNS = (
    "backend, key_id, address, state, created_at, updated_at, epoch, requested_by,"
    " held_until, blocked_by, version, mac"
)

KEY_CHANGED = """
    NEW.version <> OLD.version + 1
    OR NEW.address <> OLD.address OR NEW.backend <> OLD.backend
"""

STOP_CHANGED = "NEW.version <> OLD.version + 1 OR NEW.chain_id <> OLD.chain_id"

BLOCK_CHANGED = "NEW.version <> OLD.version + 1 OR NEW.tenant <> OLD.tenant"

READABLE = "BETWEEN TIMESTAMPTZ '1970-01-01 UTC' AND TIMESTAMPTZ '9999-12-30 UTC'"

# Python cannot read other times, and no command could then replace the row.
STOP_TIMES, BLOCK_TIMES = (
    " OR ".join(f"NEW.{name} NOT {READABLE}" for name in ("at", end))
    for end in ("resumed_at", "ended_at")
)

# A record gets its place once.  Only `db upgrade` gives an old record its first MAC.
RECORD_CHANGED = """
    NEW.id <> OLD.id OR NEW.body <> OLD.body OR OLD.sequence IS NOT NULL
    OR NOT (
        (NEW.sequence IS NOT NULL AND NOT (NEW.mac {is_not} OLD.mac))
        OR (NEW.sequence IS NULL AND OLD.mac IS NULL AND NEW.mac IS NOT NULL)
    )
"""

# In bytes: both are read into memory.  The largest record of ours has the networks and
# hundreds of tenants.  Only new records are limited: an old one must be sealed.
MAX_ID = 64

MAX_BODY = 8 * 2**20

# Bytes of a signed request's body, and of its headers.  The API accepts 16 KiB, and
# headers of 9 KiB each.
MAX_REQUEST = 32 * 2**10

# A role that may insert checkpoints can insert any text.  One of a length that is taken
# must not keep ours out, so the note is a part of the key, and each has a limit.
CHECKPOINT_FITS = "size > 0 AND {octets} <= 2000"

# A primary key of SQLite cannot be altered.
SQLITE = """
CREATE TRIGGER audit_records_fit BEFORE INSERT ON audit_records
WHEN length(CAST(NEW.id AS BLOB)) > {max_id}
     OR length(CAST(NEW.body AS BLOB)) > {max_body}
BEGIN SELECT RAISE(ABORT, 'the audit record is too long'); END

CREATE TABLE new_audit_checkpoints (
    size BIGINT NOT NULL,
    note TEXT NOT NULL,
    CONSTRAINT pk_audit_checkpoints PRIMARY KEY (size, note),
    CONSTRAINT ck_audit_checkpoints_fits CHECK (
        typeof(size) = 'integer' AND typeof(note) = 'text' AND {checkpoint_fits}
    )
) WITHOUT ROWID

INSERT OR IGNORE INTO new_audit_checkpoints SELECT size, note FROM audit_checkpoints

DROP TABLE audit_checkpoints

ALTER TABLE new_audit_checkpoints RENAME TO audit_checkpoints

CREATE TRIGGER audit_checkpoints_new BEFORE INSERT ON audit_checkpoints
WHEN EXISTS (
    SELECT 1 FROM audit_checkpoints WHERE size = NEW.size AND note = NEW.note
)
BEGIN SELECT RAISE(ABORT, 'audit checkpoints are for ever'); END

CREATE TRIGGER audit_checkpoints_keep BEFORE DELETE ON audit_checkpoints
BEGIN SELECT RAISE(ABORT, 'audit checkpoints are for ever'); END

CREATE TRIGGER audit_checkpoints_stay BEFORE UPDATE ON audit_checkpoints
BEGIN SELECT RAISE(ABORT, 'audit checkpoints are for ever'); END

DROP INDEX ix_refunds_client

CREATE INDEX ix_refunds_tenant ON refunds (tenant, id)

CREATE TRIGGER refunds_begin BEFORE INSERT ON refunds WHEN {refund_new}
BEGIN SELECT RAISE(ABORT, 'a new refund is queued, and nothing was done yet'); END

CREATE TRIGGER refunds_keep BEFORE UPDATE ON refunds WHEN {refund_changed}
BEGIN SELECT RAISE(ABORT, 'a refund keeps what it pays, its nonce and its end'); END

CREATE TRIGGER request_signatures_keep BEFORE UPDATE ON request_signatures
BEGIN SELECT RAISE(ABORT, 'a signed request never changes'); END

CREATE TRIGGER answers_keep BEFORE UPDATE ON answers WHEN {answer_changed}
BEGIN SELECT RAISE(ABORT, 'the first answer is kept'); END

CREATE TRIGGER keys_keep BEFORE UPDATE OF {key_columns}
ON keys WHEN {key_changed}
BEGIN SELECT RAISE(ABORT, 'versions of keys only rise'); END

DROP TRIGGER audit_records_place

DROP TRIGGER audit_records_seal

CREATE TRIGGER audit_records_seal BEFORE UPDATE ON audit_records WHEN {record_changed}
BEGIN SELECT RAISE(ABORT, 'audit records are for ever'); END

CREATE TRIGGER audit_records_next BEFORE UPDATE ON audit_records
WHEN NEW.sequence <> (SELECT coalesce(max(sequence), 0) + 1 FROM audit_records)
BEGIN SELECT RAISE(ABORT, 'the next sequence is one more than the last'); END

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

CREATE TABLE tenant_blocks (
    tenant TEXT NOT NULL,
    at VARCHAR(32) NOT NULL,
    by TEXT NOT NULL,
    ended_at VARCHAR(32),
    version INTEGER NOT NULL,
    mac TEXT,
    CONSTRAINT pk_tenant_blocks PRIMARY KEY (tenant)
)

ALTER TABLE stops ADD COLUMN reason TEXT NOT NULL DEFAULT ''

ALTER TABLE stops ADD COLUMN requested_by TEXT NOT NULL DEFAULT ''

ALTER TABLE stops ADD COLUMN resumed_at VARCHAR(32)

ALTER TABLE stops ADD COLUMN version INTEGER NOT NULL DEFAULT 0

ALTER TABLE stops ADD COLUMN mac TEXT

CREATE TRIGGER stops_keep BEFORE UPDATE ON stops WHEN {stop_changed}
BEGIN SELECT RAISE(ABORT, 'versions of stops only rise'); END

CREATE TRIGGER tenant_blocks_keep BEFORE UPDATE ON tenant_blocks WHEN {block_changed}
BEGIN SELECT RAISE(ABORT, 'versions of blocks only rise'); END

CREATE TRIGGER stops_begin BEFORE INSERT ON stops WHEN NEW.version <> 0
BEGIN SELECT RAISE(ABORT, 'the first version of a stop is 0'); END

CREATE TRIGGER tenant_blocks_begin BEFORE INSERT ON tenant_blocks
WHEN NEW.version <> 0
BEGIN SELECT RAISE(ABORT, 'the first version of a block is 0'); END
"""

# With a fixed search path, a temporary table cannot stand for the real one.  A worker
# reads refunds in batches: one that Python cannot read would stop all of them.  So
# would an amount with millions of decimals, which takes minutes to write out, and texts
# that do not fit into its memory.
POSTGRESQL = """
ALTER INDEX ix_refunds_client RENAME TO ix_refunds_tenant

ALTER TABLE refunds ADD CONSTRAINT ck_refunds_readable CHECK (
    amount <> 'NaN' AND decimals <= 36
    AND created_at {readable} AND updated_at {readable}
    AND due_at {readable} AND cancel_requested_at {readable}
    AND octet_length(id || tenant || idempotency_key || fingerprint || reference
        || payment_session_id || network || token || token_address || recipient
        || coalesce(reason, '') || coalesce(mac, '')) <= 16000
)

ALTER TABLE request_signatures ADD CONSTRAINT ck_request_signatures_readable CHECK (
    octet_length(body) <= {max_request}
    AND octet_length(content_digest || signature_input || signature) <= {max_request}
)

ALTER TABLE keys ADD CONSTRAINT ck_keys_readable CHECK (proved_at {readable})

CREATE FUNCTION refunds_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_catalog.pg_notify(TG_ARGV[0], ''); RETURN NULL; END $$

CREATE TRIGGER refunds_accepted AFTER INSERT OR UPDATE OF cancel_requested_at ON refunds
FOR EACH STATEMENT EXECUTE FUNCTION refunds_notify('hotwallet_accepted')

CREATE TRIGGER refunds_moved AFTER UPDATE OF status, blocked_by ON refunds
FOR EACH STATEMENT EXECUTE FUNCTION refunds_notify('hotwallet_moved')

CREATE FUNCTION rows_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE check_violation USING MESSAGE = TG_ARGV[0]; END $$

CREATE TRIGGER audit_records_fit BEFORE INSERT ON audit_records
FOR EACH ROW
WHEN (octet_length(NEW.id) > {max_id} OR octet_length(NEW.body) > {max_body})
EXECUTE FUNCTION rows_keep('the audit record is too long')

DROP TRIGGER audit_checkpoints_keep ON audit_checkpoints

DELETE FROM audit_checkpoints WHERE NOT ({checkpoint_fits})

CREATE TRIGGER audit_checkpoints_keep BEFORE DELETE OR UPDATE ON audit_checkpoints
FOR EACH ROW EXECUTE FUNCTION audit_for_ever()

ALTER TABLE audit_checkpoints DROP COLUMN at,
    DROP CONSTRAINT pk_audit_checkpoints,
    ADD CONSTRAINT pk_audit_checkpoints PRIMARY KEY (size, note),
    ADD CONSTRAINT ck_audit_checkpoints_fits CHECK ({checkpoint_fits})

CREATE TRIGGER refunds_begin BEFORE INSERT ON refunds
FOR EACH ROW WHEN ({refund_new})
EXECUTE FUNCTION rows_keep('a new refund is queued, and nothing was done yet')

CREATE TRIGGER refunds_keep BEFORE UPDATE ON refunds
FOR EACH ROW WHEN ({refund_changed})
EXECUTE FUNCTION rows_keep('a refund keeps what it pays, its nonce and its end')

CREATE TRIGGER request_signatures_keep BEFORE UPDATE ON request_signatures
FOR EACH ROW EXECUTE FUNCTION rows_keep('a signed request never changes')

CREATE TRIGGER answers_keep BEFORE UPDATE ON answers
FOR EACH ROW WHEN ({answer_changed})
EXECUTE FUNCTION rows_keep('the first answer is kept')

-- The role that inserts a signed request cannot date it back.
CREATE FUNCTION request_signatures_date() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN NEW.at := clock_timestamp(); RETURN NEW; END $$

CREATE TRIGGER request_signatures_at BEFORE INSERT ON request_signatures
FOR EACH ROW EXECUTE FUNCTION request_signatures_date()

CREATE TRIGGER keys_keep BEFORE UPDATE OF {key_columns}
ON keys FOR EACH ROW WHEN ({key_changed})
EXECUTE FUNCTION rows_keep('versions of keys only rise')

DROP TRIGGER audit_records_seal ON audit_records

CREATE TRIGGER audit_records_seal BEFORE UPDATE ON audit_records
FOR EACH ROW WHEN ({record_changed}) EXECUTE FUNCTION audit_for_ever()

CREATE FUNCTION audit_sequence_is_next() RETURNS trigger LANGUAGE plpgsql
SET search_path = {schema}, pg_temp AS $$
DECLARE lowest BIGINT; highest BIGINT; sealed BIGINT; before BIGINT; head BYTEA;
BEGIN
    SELECT min(sequence), max(sequence), count(*) INTO lowest, highest, sealed
    FROM new_rows;
    SELECT coalesce(max(sequence), 0) INTO before
    FROM audit_records WHERE sequence < lowest;
    IF lowest <> before + 1 OR highest <> before + sealed
       OR EXISTS (SELECT FROM audit_records WHERE sequence > highest)
    THEN RAISE check_violation
        USING MESSAGE = 'the next sequence is one more than the last';
    END IF;
    SELECT hash INTO head FROM audit_records WHERE sequence = before;
    IF EXISTS (
        SELECT FROM (
            SELECT hash, sequence, convert_to(id, 'UTF8') AS id, body,
            lag(hash, 1, coalesce(head, sha256('hotwallet audit chain 1: genesis')))
            OVER (ORDER BY sequence) AS previous
            FROM new_rows
        ) AS placed
        WHERE hash <> sha256('hotwallet audit chain 1: record' || previous
            || int8send(sequence) || int8send(length(id)) || id
            || convert_to(body, 'UTF8'))
    )
    THEN RAISE check_violation USING MESSAGE = 'the hash is not that of the record';
    END IF;
    RETURN NULL;
END $$

CREATE TRIGGER audit_records_next AFTER UPDATE ON audit_records
REFERENCING NEW TABLE AS new_rows
FOR EACH STATEMENT EXECUTE FUNCTION audit_sequence_is_next()

ALTER TABLE spendings ADD COLUMN tenant TEXT COLLATE "C" NOT NULL DEFAULT ''

ALTER TABLE spendings ALTER COLUMN tenant DROP DEFAULT

ALTER TABLE spendings DROP CONSTRAINT pk_spendings

ALTER TABLE spendings ADD CONSTRAINT pk_spendings
PRIMARY KEY (chain_id, token_address, tenant, recipient, hour)

ALTER TABLE refunds ALTER COLUMN status SET DEFAULT 'queued',
    ALTER COLUMN version SET DEFAULT 0

ALTER TABLE refund_moves ALTER COLUMN status SET DEFAULT 'queued',
    ALTER COLUMN version SET DEFAULT 0

CREATE TABLE tenant_blocks (
    tenant TEXT COLLATE "C" NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    by TEXT COLLATE "C" NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE,
    version INTEGER NOT NULL,
    mac TEXT COLLATE "C",
    CONSTRAINT pk_tenant_blocks PRIMARY KEY (tenant)
)

ALTER TABLE stops ADD COLUMN reason TEXT COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN requested_by TEXT COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN resumed_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN version INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN mac TEXT COLLATE "C"

CREATE TRIGGER stops_keep BEFORE UPDATE ON stops
FOR EACH ROW WHEN ({stop_changed} OR {stop_times})
EXECUTE FUNCTION rows_keep('versions of stops only rise')

CREATE TRIGGER tenant_blocks_keep BEFORE UPDATE ON tenant_blocks
FOR EACH ROW WHEN ({block_changed} OR {block_times})
EXECUTE FUNCTION rows_keep('versions of blocks only rise')

CREATE TRIGGER stops_begin BEFORE INSERT ON stops
FOR EACH ROW WHEN (NEW.version <> 0 OR {stop_times})
EXECUTE FUNCTION rows_keep('the first version of a stop is 0')

CREATE TRIGGER tenant_blocks_begin BEFORE INSERT ON tenant_blocks
FOR EACH ROW WHEN (NEW.version <> 0 OR {block_times})
EXECUTE FUNCTION rows_keep('the first version of a block is 0')
"""


def upgrade() -> None:
    """Change the tables, and create the triggers."""
    connection = op.get_bind()
    words = DIALECTS[connection.dialect.name]
    rules = {
        "refund_new": REFUND_NEW.strip(),
        "refund_changed": REFUND_CHANGED.format(**words).strip(),
        "answer_changed": ANSWER_CHANGED,
        "key_changed": KEY_CHANGED.strip(),
        "key_columns": KEY_COLUMNS,
        "readable": READABLE,
        "stop_changed": STOP_CHANGED,
        "block_changed": BLOCK_CHANGED,
        "stop_times": STOP_TIMES,
        "block_times": BLOCK_TIMES,
        "record_changed": RECORD_CHANGED.format(**words).strip(),
        "schema": "",
        "max_id": MAX_ID,
        "max_body": MAX_BODY,
        "max_request": MAX_REQUEST,
        "checkpoint_fits": CHECKPOINT_FITS.format(**words),
    }
    of_dialect = SQLITE
    if connection.dialect.name == "postgresql":
        of_dialect = POSTGRESQL
        query = "SELECT quote_ident(current_schema())"
        rules["schema"] = connection.exec_driver_sql(query).scalar_one()
    statements = TABLES.format(**words) + of_dialect.format(**rules)
    for statement in statements.strip().split("\n\n"):
        op.execute(statement.strip())
