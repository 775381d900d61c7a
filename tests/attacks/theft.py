"""A thief of one process's database role, who has neither MAC key nor signing key."""

from collections.abc import Sequence

import psycopg

from signer.audit.hash_chain import Forgeries, link
from signer.model.audit_record import Record
from signer.model.event import Event
from signer.model.refund import Refund
from signer.ports.audit_journal import Journal
from signer.ports.ledger import Ledger
from signer.refunds.worker import Worker
from tests.support.refunds import World


DENIED = "42501"
"""SQLSTATE: the role has no such privilege."""

REFUSED = "23514"
"""SQLSTATE: a constraint or trigger forbids it."""

THIEF = "0x90F79bf6EB2c4f870365E785982E1f101E93b906"
"""The thief's address."""

DELETIONS_OF_EVENTS = ("DELETE FROM events", "DELETE FROM webhook_deliveries")
"""Denied to all but the worker, which deletes old ones."""

DENIED_TO_ALL = (
    # Redirect or enlarge a refund, or hide one.
    f"UPDATE refunds SET recipient = '{THIEF}'",
    "UPDATE refunds SET amount = amount + 1",
    f"UPDATE refunds SET token_address = '{THIEF}'",
    "UPDATE refunds SET network = 'other', chain_id = 1",
    "UPDATE refunds SET tenant = 'thief', reference = 'thief'",
    "UPDATE refunds SET created_at = now()",
    "UPDATE refunds SET mac = NULL",
    "DELETE FROM refunds",
    # Choose a nonce, or a status, before anything was signed.
    "INSERT INTO refunds (id, nonce, sender, position) VALUES ('rf', 7, 'a', 0)",
    "INSERT INTO refunds (id, version, due_at) VALUES ('rf', 9, now())",
    # Change what a nonce does, with which key, or which refunds it pays.
    "UPDATE transactions SET nonce = 7",
    f"UPDATE transactions SET sender = '{THIEF}'",
    "UPDATE transactions SET key_id = 'thief'",
    "UPDATE transactions SET gas_limit = 1",
    "UPDATE transactions SET composition = '', kind = 'filler'",
    "UPDATE transactions SET mac = NULL",
    "UPDATE transaction_payments SET payment_id = 'rf'",
    "UPDATE transaction_payments SET nonce = 7, position = 1",
    # Forget what was signed.
    "UPDATE attempts SET raw = ''",
    "UPDATE attempts SET nonce = 7",
    "UPDATE attempts SET kind = 'noop'",
    "DELETE FROM attempts",
    "DELETE FROM refund_moves",
    "UPDATE request_signatures SET body = ''",
    "DELETE FROM request_signatures",
    "DELETE FROM unrecorded_transactions",
    "UPDATE unrecorded_transactions SET memo = NULL",
    "UPDATE unrecorded_transactions SET nonce = 7, tx_hash = 'thief'",
    "DELETE FROM wallets",
    "DELETE FROM spendings",
    # Change what a tenant receives, or hide it.
    "UPDATE events SET status = 'confirmed'",
    "UPDATE events SET mac = NULL",
    "UPDATE webhook_deliveries SET tenant = 'thief'",
    "UPDATE webhook_deliveries SET event_id = 'thief'",
    # Choose a key, or lift a stop, by removing the row.
    f"UPDATE keys SET address = '{THIEF}', backend = 'thief'",
    "DELETE FROM keys",
    "DELETE FROM holds",
    # Change, insert or renumber an audit record.
    "INSERT INTO audit_records (id, body, sequence, hash) VALUES ('au', '', 1, '')",
    "UPDATE audit_records SET body = '{}'",
    "UPDATE audit_records SET mac = NULL",
    "UPDATE audit_records SET id = 'au_' || sequence WHERE sequence = 1",
    "DELETE FROM audit_records",
    "TRUNCATE audit_records",
    "UPDATE audit_checkpoints SET note = ''",
    "DELETE FROM audit_checkpoints",
    "TRUNCATE audit_checkpoints",
    # Get more privileges.
    "ALTER TABLE refunds DISABLE TRIGGER ALL",
    "ALTER TABLE audit_records DISABLE TRIGGER ALL",
    "DROP TABLE audit_records",
    "DROP TRIGGER audit_records_keep ON audit_records",
    "DROP FUNCTION audit_for_ever CASCADE",
    "SET session_replication_role = replica",
    "SET ROLE hotwallet_owner",
    "CREATE FUNCTION max(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'",
    "CREATE TEMPORARY TABLE holds (name text)",
)
"""Statements that no process's role may execute; each fails before it reads a row."""


QUEUED_AGAIN = (
    "UPDATE refunds SET state = 'queued', nonce = NULL, sender = NULL, position = NULL"
)
"""Takes the nonces of refunds back."""

RESERVED_AGAIN = (
    "UPDATE transactions SET status = 'reserved', tx_hash = NULL, block_number = NULL,"
    " block_hash = NULL"
)
"""Says that nothing was signed."""

END_OF_BLOCKS = (
    "UPDATE holds SET ended_at = at, version = version + 1 WHERE name LIKE 'tenant %'"
)
"""Ends every block, as a program without the MAC key."""


class Thief:
    """Executes statements with the role in *url*."""

    def __init__(self, url: str) -> None:
        self._url = url

    def steal(self, *statements: str) -> str | None:
        """Execute *statements*; return the SQLSTATE of the refusal, None if done."""
        try:
            with psycopg.connect(self._url) as connection:
                for statement in statements:
                    connection.execute(statement.encode())
        except psycopg.Error as e:
            return e.sqlstate
        return None


def let_work(world: World, worker: Worker) -> None:
    """Run *worker* and mine blocks during three minutes."""
    for _ in range(6):
        world.clock.advance(seconds=31)
        worker.work()
        world.mine_deep()


def inserted_refund(refund: Refund, **changes: str) -> str:
    """Return the statement that inserts *refund*, with SQL texts as *changes*."""
    values = {
        "id": refund.id,
        "tenant": refund.tenant,
        "idempotency_key": refund.idempotency_key,
        "fingerprint": refund.fingerprint,
        "reference": refund.reference,
        "payment_session_id": refund.payment_session_id,
        "network": refund.network,
        "chain_id": refund.chain_id,
        "token": refund.token,
        "token_address": refund.token_address,
        "decimals": refund.decimals,
        "recipient": refund.recipient,
        "amount": refund.amount,
        "state": "queued",
        "created_at": refund.created_at.isoformat(),
        "updated_at": refund.updated_at.isoformat(),
        "due_at": refund.due_at.isoformat(),
        "mac": refund.mac,
    }
    given = {name: f"'{value}'" for name, value in values.items()} | changes
    names, texts = ", ".join(given), ", ".join(given.values())
    return f"INSERT INTO refunds ({names}) VALUES ({texts})"


def inserted_record(id_: str, body: str, mac: str = "NULL") -> str:
    """Return the statement that inserts an audit record with any id."""
    return (
        f"INSERT INTO audit_records (id, body, mac) VALUES ('{id_}', '{body}', {mac})"
    )


def inserted_event(event: Event) -> str:
    """Return the statement that inserts *event* as the API's role may do it."""
    at = event.at.isoformat()
    return (
        "INSERT INTO events (id, tenant, refund_id, status, at, mac) VALUES"
        f" ('{event.id}', '{event.tenant}', '{event.refund_id}', '{event.status}',"
        f" '{at}', '{event.mac}')"
    )


def sealing(store: Ledger, record: Record) -> str:
    """Return the statement that seals *record* next, with its right hash."""
    size, head = store.head()
    seal = link(head, size + 1, record).hex()
    is_sqlite = store._database.dialect == "sqlite"  # type: ignore[attr-defined]
    blob = f"x'{seal}'" if is_sqlite else f"'\\x{seal}'"
    return (
        f"UPDATE audit_records SET sequence = {size + 1}, hash = {blob}"
        f" WHERE id = '{record.id}'"
    )


def left_out(store: Journal) -> Sequence[str]:
    """Return the ids of the sealed records that readers do not accept."""
    sealed = [each.record for each in store.sealed(0, 100)]
    forgeries = Forgeries()
    accepted = forgeries.without_forged(list(forgeries.watch(sealed)))
    ids = {each.id for each in accepted}
    return [each.id for each in sealed if each.id not in ids]
