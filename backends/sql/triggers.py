"""
The rules that the database enforces for every client, as triggers of the tables.

``metadata.create_all`` creates them after their tables.  The owner of the tables can
drop triggers; no process has the owner's role.
"""

import sqlalchemy as sa

from backends.sql.columns import UTCDateTime
from backends.sql.table_declaration import READABLE
from backends.sql.tables import (
    accepted_limits,
    approvals,
    audit_checkpoints,
    audit_records,
    audit_shipping,
    events,
    holds,
    keys,
    metadata,
    refunds,
    request_signatures,
    transaction_payments,
    transactions,
    unrecorded,
    wallets,
    webhook_deliveries,
)
from backends.sql.urls import POSTGRESQL, SQLITE
from signer.model.event import Event
from signer.model.key import Key
from signer.model.refund import Refund
from signer.model.sealed_fields import KINDS
from signer.model.transaction import Transaction
from signer.model.wallet import UnrecordedTransaction


_IS_NOT = {SQLITE: "IS NOT", POSTGRESQL: "IS DISTINCT FROM"}

# In bytes: both are read into memory.  The largest record of ours has the networks and
# hundreds of tenants.
_MAX_ID = 64
_MAX_BODY = 8 * 2**20

_FOR_EVER = "audit records are for ever"
_CHECKPOINTS_FOR_EVER = "audit checkpoints are for ever"
_NEXT = "the next sequence is one more than the last"


def _on(dialect: str, table: sa.Table, statement: str) -> None:
    """Execute *statement* after *table* was created on *dialect*."""
    ddl = sa.DDL(statement.replace("%", "%%"))  # type: ignore[no-untyped-call]
    ddl = ddl.execute_if(dialect=dialect)
    sa.event.listen(table, "after_create", ddl)


def _refuse(
    table: sa.Table,
    name: str,
    change: str,
    message: str,
    when: str = "",
    *,
    sqlite: str = "",
    postgresql: str = "",
    function: str = "",
) -> None:
    """
    Refuse the *change* of a row of *table* when a condition holds, by default always.

    The condition is *when*, or that of the database.  ``{is_not}`` compares NULLs too.
    The trigger is *name* after the table's; *function* replaces that of PostgreSQL.
    """
    name = f"{table.name}_{name}"
    for dialect, own in ((SQLITE, sqlite), (POSTGRESQL, postgresql)):
        condition = " OR ".join(each for each in (when, own) if each)
        condition = condition.format(is_not=_IS_NOT[dialect])
        statement = f"CREATE TRIGGER {name} BEFORE {change} ON {table.name}"
        if dialect == SQLITE:
            statement += f" WHEN {condition}" if condition else ""
            statement += f" BEGIN SELECT RAISE(ABORT, '{message}'); END"
        else:
            statement += " FOR EACH ROW"
            statement += f" WHEN ({condition})" if condition else ""
            call = function or f"rows_keep('{message}')"
            statement += f" EXECUTE FUNCTION {call}"
        _on(dialect, table, statement)


def _changes(*columns: str) -> str:
    """Return the condition that an UPDATE changes one of *columns*, NULLs included."""
    return " OR ".join(f"NEW.{each} {{is_not}} OLD.{each}" for each in columns)


def _unreadable(table: sa.Table) -> str:
    """Return the condition on PostgreSQL that Python cannot read a time of the row."""
    times = (c.name for c in table.c if isinstance(c.type, UTCDateTime))
    return " OR ".join(f"NEW.{name} NOT {READABLE}" for name in times)


def _only_rise(table: sa.Table, one: str, many: str, *, exists: str = "") -> None:
    """
    Let the versions of *table* begin at 0 and rise by one, under the same key.

    So an old row with its valid MAC cannot be put back.  Python could not read other
    times, and no command could then replace the row.
    """
    changed = ["NEW.version <> OLD.version + 1"]
    changed += [f"NEW.{key.name} <> OLD.{key.name}" for key in table.primary_key]
    _refuse(
        table,
        "begin",
        "INSERT",
        f"the first version of {one} is 0",
        "NEW.version <> 0",
        sqlite=exists,
        postgresql=_unreadable(table),
    )
    _refuse(
        table,
        "keep",
        "UPDATE",
        f"versions of {many} only rise",
        " OR ".join(changed),
        postgresql=_unreadable(table),
    )


def _stay(table: sa.Table, message: str, when: str = "", **of_dialect: str) -> None:
    _refuse(table, "stay", "DELETE", message, when, **of_dialect)


@sa.event.listens_for(metadata, "before_create")
def _create_functions(_: object, connection: sa.Connection, **_options: object) -> None:
    """Create the functions of PostgreSQL's triggers."""
    if connection.dialect.name != POSTGRESQL:
        return
    schema = connection.exec_driver_sql(
        "SELECT quote_ident(current_schema())"
    ).scalar_one()
    for function in (
        *_FUNCTIONS,
        _SEQUENCE_IS_NEXT,
        _PAYMENTS_STAY,
        _REFUNDS_FOLLOW,
    ):
        connection.exec_driver_sql(function.replace("{schema}", schema))


_FUNCTIONS = (
    f"""
CREATE FUNCTION audit_for_ever() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '{_FOR_EVER}'; END $$
""",
    """
CREATE FUNCTION rows_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE check_violation USING MESSAGE = TG_ARGV[0]; END $$
""",
    """
CREATE FUNCTION refunds_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_catalog.pg_notify(TG_ARGV[0], ''); RETURN NULL; END $$
""",
    """
CREATE FUNCTION request_signatures_date() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN NEW.at := clock_timestamp(); RETURN NEW; END $$
""",
)

# With a fixed search path, a temporary table cannot stand for the real one.
_SEQUENCE_IS_NEXT = f"""
CREATE FUNCTION audit_sequence_is_next() RETURNS trigger LANGUAGE plpgsql
SET search_path = {{schema}}, pg_temp AS $$
DECLARE lowest BIGINT; highest BIGINT; sealed BIGINT; before BIGINT; head BYTEA;
BEGIN
    SELECT min(sequence), max(sequence), count(*) INTO lowest, highest, sealed
    FROM new_rows;
    SELECT coalesce(max(sequence), 0) INTO before
    FROM audit_records WHERE sequence < lowest;
    IF lowest <> before + 1 OR highest <> before + sealed
       OR EXISTS (SELECT FROM audit_records WHERE sequence > highest)
    THEN RAISE check_violation
        USING MESSAGE = '{_NEXT}';
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
"""


_PAYMENTS_STAY = """
CREATE FUNCTION payments_stay() RETURNS trigger LANGUAGE plpgsql
SET search_path = {schema}, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM transactions WHERE chain_id = OLD.chain_id
        AND sender = OLD.sender AND nonce = OLD.nonce AND status <> 'reserved')
    THEN RAISE check_violation
        USING MESSAGE = 'a transaction keeps its payments';
    END IF;
    RETURN OLD;
END $$
"""

_LEAVES_STATE = "OLD.state = 'assigned' AND NEW.state <> 'assigned'"

_FOLLOWED = """
    SELECT 1 FROM transactions WHERE chain_id = OLD.chain_id AND sender = OLD.sender
    AND nonce = OLD.nonce
    AND (status = CASE NEW.state WHEN 'queued' THEN 'reserved' ELSE NEW.state END
    OR (kind = 'batch' AND (
        status = 'confirmed' AND NEW.state IN ('failed', 'queued')
        OR status = 'failed' AND NEW.state = 'queued'
    )))
"""

_FOLLOW = "a refund ends as its transaction allows, or before that is signed"

_REFUNDS_FOLLOW = f"""
CREATE FUNCTION refunds_follow() RETURNS trigger LANGUAGE plpgsql
SET search_path = {{schema}}, pg_temp AS $$
BEGIN
    IF NOT EXISTS ({_FOLLOWED})
    THEN RAISE check_violation USING MESSAGE = '{_FOLLOW}';
    END IF;
    RETURN NEW;
END $$
"""

# A nonce that no process reserved would leave a gap before the next one.  A worker adds
# to version and attempts, so a high number would end each claim with an error.
_refuse(
    refunds,
    "begin",
    "INSERT",
    "a new refund has no nonce, and nothing was done yet",
    "NEW.state NOT IN ('awaiting-approval', 'queued') OR NEW.version <> 0"
    " OR NEW.attempts <> 0 OR NEW.cancel_requested_at IS NOT NULL",
)

# A refund keeps what it pays, and its nonce.  A revocation takes a nonce back from a
# refund that was never signed, and so does a final batch that has not paid the refund.
# A final refund never changes.  A request to cancel is made once, while the refund has
# no nonce.
_refuse(
    refunds,
    "keep",
    "UPDATE",
    "a refund keeps what it pays, its nonce and its end",
    "OLD.state IN ('cancelled', 'confirmed', 'failed', 'refused')"
    f" OR {_changes(*KINDS[Refund].covered)}"
    f" OR (OLD.mac IS NOT NULL AND {_changes('mac')})"
    f" OR ({_changes('cancel_requested_at')}"
    " AND (OLD.cancel_requested_at IS NOT NULL"
    " OR OLD.state NOT IN ('awaiting-approval', 'queued')))"
    f" OR (OLD.nonce IS NOT NULL AND ({_changes('nonce', 'sender', 'position')})"
    " AND NOT (OLD.state = 'assigned' AND NEW.state = 'queued'))",
)

# Its transaction, which changes first, says whether a refund was paid.  A vault pays
# some of a batch: before the others get another transaction, a worker asks the chain.
_on(
    SQLITE,
    refunds,
    f"CREATE TRIGGER refunds_follow BEFORE UPDATE ON refunds WHEN {_LEAVES_STATE}"
    f" AND NOT EXISTS ({_FOLLOWED})"
    f" BEGIN SELECT RAISE(ABORT, '{_FOLLOW}'); END",
)
_on(
    POSTGRESQL,
    refunds,
    "CREATE TRIGGER refunds_follow BEFORE UPDATE ON refunds FOR EACH ROW"
    f" WHEN ({_LEAVES_STATE}) EXECUTE FUNCTION refunds_follow()",
)

# A worker adds to version and attempts, so a high number would end each claim with an
# error.  A transaction that was lost is mined when it is inserted.
_refuse(
    transactions,
    "begin",
    "INSERT",
    "a new transaction is reserved or mined, and nothing was done yet",
    "NEW.status NOT IN ('reserved', 'mined') OR NEW.version <> 0 OR NEW.attempts <> 0",
    # REPLACE fires no trigger for the row that it deletes.
    sqlite="EXISTS (SELECT 1 FROM transactions WHERE chain_id = NEW.chain_id"
    " AND sender = NEW.sender AND nonce = NEW.nonce)",
)
_refuse(
    transactions,
    "keep",
    "UPDATE",
    "a transaction keeps its nonce, its payments, its key and its end",
    "OLD.status IN ('confirmed', 'failed')"
    f" OR {_changes(*KINDS[Transaction].covered, 'mac')}",
)

# Only a revocation takes a nonce back, of a transaction that was never signed.
_stay(
    transactions,
    "a transaction that may have been signed stays",
    "OLD.status <> 'reserved'",
)
_refuse(
    transaction_payments,
    "keep",
    "UPDATE",
    "a transaction keeps its payments",
)
_on(
    SQLITE,
    transaction_payments,
    "CREATE TRIGGER transaction_payments_stay BEFORE DELETE ON transaction_payments"
    " WHEN EXISTS (SELECT 1 FROM transactions WHERE chain_id = OLD.chain_id"
    " AND sender = OLD.sender AND nonce = OLD.nonce AND status <> 'reserved')"
    " BEGIN SELECT RAISE(ABORT, 'a transaction keeps its payments'); END",
)
_on(
    POSTGRESQL,
    transaction_payments,
    "CREATE TRIGGER transaction_payments_stay BEFORE DELETE ON transaction_payments"
    " FOR EACH ROW EXECUTE FUNCTION payments_stay()",
)

for _table, _name, _changed in (
    (refunds, "accepted", "INSERT OR UPDATE OF cancel_requested_at"),
    (refunds, "moved", "UPDATE OF state, blocked_by"),
    (transactions, "moved", "UPDATE OF status, blocked_by"),
    (audit_records, "recorded", "INSERT"),
):
    _on(
        POSTGRESQL,
        _table,
        f"CREATE TRIGGER {_table.name}_{_name} AFTER {_changed} ON {_table.name}"
        f" FOR EACH STATEMENT EXECUTE FUNCTION refunds_notify('hotwallet_{_name}')",
    )

_refuse(request_signatures, "keep", "UPDATE", "a signed request never changes")

# The role that inserts a signed request cannot date it back.
_on(
    POSTGRESQL,
    request_signatures,
    "CREATE TRIGGER request_signatures_at BEFORE INSERT ON request_signatures"
    " FOR EACH ROW EXECUTE FUNCTION request_signatures_date()",
)

# What names `proved_at` alone changes nothing that the MAC covers.
_refuse(
    keys,
    "keep",
    f"UPDATE OF {', '.join((*KINDS[Key].covered, 'mac'))}",
    "versions of keys only rise",
    "NEW.version <> OLD.version + 1"
    " OR NEW.address <> OLD.address OR NEW.backend <> OLD.backend",
)

_only_rise(holds, "a hold", "holds")
_only_rise(approvals, "an approval", "approvals")
_stay(approvals, "versions of approvals only rise")
_only_rise(accepted_limits, "the limits", "the limits")
_stay(accepted_limits, "versions of the limits only rise")
_only_rise(audit_shipping, "what is shipped", "what is shipped")
_stay(audit_shipping, "versions of what is shipped only rise")

# REPLACE fires no trigger for the row that it deletes.
_only_rise(
    wallets,
    "a wallet",
    "wallets",
    exists="EXISTS (SELECT 1 FROM wallets"
    " WHERE chain_id = NEW.chain_id AND sender = NEW.sender)",
)
_stay(wallets, "versions of wallets only rise")

# Times and memos that Python cannot read, or that would fill its memory.
_UNREADABLE_TRANSACTION = (
    f"{_unreadable(unrecorded)} OR octet_length(NEW.memo) > 64"
    " OR octet_length(NEW.tx_hash || NEW.block_hash || coalesce(NEW.item_end, '')"
    " || coalesce(NEW.mac, '')) > 1000"
)
_on(
    SQLITE,
    unrecorded,
    "CREATE TRIGGER unrecorded_transactions_begin"
    " BEFORE INSERT ON unrecorded_transactions"
    " WHEN EXISTS (SELECT 1 FROM unrecorded_transactions WHERE chain_id = NEW.chain_id"
    " AND sender = NEW.sender AND nonce = NEW.nonce AND position = NEW.position)"
    " BEGIN SELECT RAISE(ABORT, 'a transaction is recorded once'); END",
)
_on(
    POSTGRESQL,
    unrecorded,
    "CREATE TRIGGER unrecorded_transactions_begin"
    " BEFORE INSERT ON unrecorded_transactions"
    f" FOR EACH ROW WHEN ({_UNREADABLE_TRANSACTION})"
    " EXECUTE FUNCTION rows_keep('a recorded transaction can be read')",
)

# A transaction is accepted once; `db upgrade` renews its MAC.
_SEEN = {*KINDS[UnrecordedTransaction].covered} - {"accepted_at"}
_refuse(
    unrecorded,
    "keep",
    "UPDATE",
    "a recorded transaction is accepted once",
    f"{_changes(*sorted(_SEEN))}"
    f" OR (OLD.accepted_at IS NOT NULL AND {_changes('accepted_at')})",
    postgresql=_UNREADABLE_TRANSACTION,
)
_stay(unrecorded, "a transaction is recorded for ever")

# An event never changes; a worker assigns its sequence number once.
_refuse(
    events,
    "keep",
    "UPDATE",
    "an event never changes",
    "OLD.sequence IS NOT NULL OR {}".format(_changes(*KINDS[Event].covered, "mac")),
)

# A week, which is the shortest period that the settings allow.
_WEEK_AGO = {
    SQLITE: "(CAST(strftime('%s', 'now') AS INTEGER) - 604800)",
    POSTGRESQL: "(extract(epoch FROM clock_timestamp()) - 604800)",
}

# The sequence number of an event is the time in microseconds at which it got it.
_stay(
    events,
    "an event is kept for a week",
    "OLD.sequence IS NULL OR OLD.sequence < 1",
    sqlite=f"OLD.sequence > {_WEEK_AGO[SQLITE]} * 1000000",
    postgresql=f"OLD.sequence > {_WEEK_AGO[POSTGRESQL]} * 1000000",
)
_stay(
    webhook_deliveries,
    "a delivery is kept until it arrived, and for a week",
    "OLD.state <> 'delivered'",
    sqlite=f"CAST(strftime('%s', OLD.updated_at) AS INTEGER) > {_WEEK_AGO[SQLITE]}",
    postgresql=f"extract(epoch FROM OLD.updated_at) > {_WEEK_AGO[POSTGRESQL]}",
)

_refuse(
    audit_records,
    "fit",
    "INSERT",
    "the audit record is too long",
    sqlite=f"length(CAST(NEW.id AS BLOB)) > {_MAX_ID}"
    f" OR length(CAST(NEW.body AS BLOB)) > {_MAX_BODY}",
    postgresql=f"octet_length(NEW.id) > {_MAX_ID}"
    f" OR octet_length(NEW.body) > {_MAX_BODY}",
)
_refuse(audit_records, "keep", "DELETE", _FOR_EVER, function="audit_for_ever()")

# A record gets its place once.
_refuse(
    audit_records,
    "seal",
    "UPDATE",
    _FOR_EVER,
    "NEW.id <> OLD.id OR NEW.body <> OLD.body OR OLD.sequence IS NOT NULL"
    f" OR NOT ((NEW.sequence IS NOT NULL AND NOT ({_changes('mac')}))"
    " OR (NEW.sequence IS NULL AND OLD.mac IS NULL AND NEW.mac IS NOT NULL))",
    function="audit_for_ever()",
)

_on(
    SQLITE,
    audit_records,
    # REPLACE fires no delete trigger for the rows that it replaces.
    "CREATE TRIGGER audit_records_new BEFORE INSERT ON audit_records"
    " WHEN NEW.sequence IS NOT NULL"
    " OR EXISTS (SELECT 1 FROM audit_records WHERE id = NEW.id)"
    f" BEGIN SELECT RAISE(ABORT, '{_FOR_EVER}'); END",
)
_on(
    SQLITE,
    audit_records,
    "CREATE TRIGGER audit_records_next BEFORE UPDATE ON audit_records"
    " WHEN NEW.sequence <>"
    " (SELECT coalesce(max(sequence), 0) + 1 FROM audit_records)"
    f" BEGIN SELECT RAISE(ABORT, '{_NEXT}'); END",
)

_on(
    POSTGRESQL,
    audit_records,
    "CREATE TRIGGER audit_records_whole BEFORE TRUNCATE ON audit_records"
    " EXECUTE FUNCTION audit_for_ever()",
)
_on(
    POSTGRESQL,
    audit_records,
    "CREATE TRIGGER audit_records_next AFTER UPDATE ON audit_records"
    " REFERENCING NEW TABLE AS new_rows"
    " FOR EACH STATEMENT EXECUTE FUNCTION audit_sequence_is_next()",
)

_on(
    SQLITE,
    audit_checkpoints,
    "CREATE TRIGGER audit_checkpoints_new BEFORE INSERT ON audit_checkpoints"
    " WHEN EXISTS (SELECT 1 FROM audit_checkpoints"
    " WHERE size = NEW.size AND note = NEW.note)"
    f" BEGIN SELECT RAISE(ABORT, '{_CHECKPOINTS_FOR_EVER}'); END",
)
_on(
    SQLITE,
    audit_checkpoints,
    "CREATE TRIGGER audit_checkpoints_keep BEFORE DELETE ON audit_checkpoints"
    f" BEGIN SELECT RAISE(ABORT, '{_CHECKPOINTS_FOR_EVER}'); END",
)
_on(
    SQLITE,
    audit_checkpoints,
    "CREATE TRIGGER audit_checkpoints_stay BEFORE UPDATE ON audit_checkpoints"
    f" BEGIN SELECT RAISE(ABORT, '{_CHECKPOINTS_FOR_EVER}'); END",
)

_on(
    POSTGRESQL,
    audit_checkpoints,
    "CREATE TRIGGER audit_checkpoints_keep"
    " BEFORE DELETE OR UPDATE ON audit_checkpoints"
    " FOR EACH ROW EXECUTE FUNCTION audit_for_ever()",
)
_on(
    POSTGRESQL,
    audit_checkpoints,
    "CREATE TRIGGER audit_checkpoints_whole BEFORE TRUNCATE ON audit_checkpoints"
    " EXECUTE FUNCTION audit_for_ever()",
)
