"""Contract of ``Journal``: records are permanent and have one order."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, TextClause, insert, text

from backends.sql import SQLStore, sqlite_dbapi
from backends.sql.audit import SEALING_LOCK, AuditTables
from backends.sql.audit_rows import write
from backends.sql.database import Database
from backends.sql.key_rows import KeyRows
from backends.sql.tables import keys
from signer.audit.hash_chain import GENESIS, sealed
from signer.errors import KeyRotatedError, StaleStateError, StoreError
from signer.model.audit_record import AuditShipping, Record
from signer.model.key import SERVING, Key, KeyState, SigningCondition
from tests.fixtures.races import race
from tests.support.audit import START, chain, checkpoint, record, records
from tests.support.ledgers import ROW_MACS, seal


ADDRESS = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
OTHER = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"

REWRITINGS = (
    "UPDATE audit_records SET body = '{}'",
    "UPDATE audit_records SET body = '{}' WHERE sequence IS NULL",
    "UPDATE audit_records SET id = 'au_' || sequence WHERE sequence = 1",
    "UPDATE audit_records SET hash = hash WHERE sequence = 1",
    "UPDATE audit_records SET sequence = 9 WHERE sequence = 1",
    "UPDATE audit_records SET sequence = NULL, hash = NULL WHERE sequence = 1",
    "UPDATE audit_records SET sequence = 9 WHERE sequence IS NULL",
    "DELETE FROM audit_records WHERE sequence = 1",
    "DELETE FROM audit_records WHERE sequence IS NULL",
    "UPDATE audit_checkpoints SET note = ''",
    "DELETE FROM audit_checkpoints",
    "DELETE FROM audit_shipping",
    "UPDATE audit_shipping SET sequence = 9",
    "UPDATE audit_shipping SET sequence = 9, version = version + 2",
)
"""Statements that triggers or constraints must reject; record 3 is unsealed."""

REPLACEMENTS = (
    "REPLACE INTO audit_records (id, body) SELECT id, '{}' FROM audit_records",
    "UPDATE OR REPLACE audit_records SET sequence = 1, hash = '' WHERE hash IS NULL",
    "REPLACE INTO audit_checkpoints SELECT * FROM audit_checkpoints",
)


@pytest.fixture
def journal(store: SQLStore) -> AuditTables:
    """Return a journal on each database in turn."""
    return AuditTables(store._database, ROW_MACS)


def signing_condition(address: str) -> SigningCondition:
    """Return the condition on the key with *address*."""
    return SigningCondition(address, address[-2:], SERVING)


def _enrol(journal: AuditTables, address: str, state: KeyState) -> None:
    row: dict[str, Any] = {
        "backend": "pkcs11",
        "key_id": address[-2:],
        "address": address,
        "state": state,
        "created_at": START,
        "updated_at": START,
        "epoch": 1,
        "version": 0,
    }
    key = ROW_MACS.sealed(Key(**row))
    journal._database.transaction(lambda c: c.execute(insert(keys), asdict(key)))


def _change(journal: AuditTables, **changes: Any) -> None:
    """Change the only key of the ring."""

    def work(connection: Connection) -> None:
        rows = KeyRows(connection, ROW_MACS)
        rows.update(rows.all()[0], **changes)

    journal._database.transaction(work)


def test_an_empty_journal(journal: AuditTables) -> None:
    journal.append([])

    assert journal.head() == (0, GENESIS)
    assert journal.sealed(0, 10) == ()
    assert journal.oldest_unsealed() is None
    assert journal.checkpoints() == ()
    assert seal(journal) == 0


def test_records_are_sealed_in_the_order_of_their_ids(journal: AuditTables) -> None:
    """Records are sealed oldest first, each with the hash of its position."""
    given = records(5)
    journal.append([given[3], given[1]])
    journal.append([given[0]])
    journal.append([given[4], given[2]])
    first = journal.oldest_unsealed()

    assert first == given[0].id
    assert seal(journal) == 5
    assert list(journal.sealed(0, 10)) == sealed(0, GENESIS, given)
    assert journal.head() == (5, sealed(0, GENESIS, given)[-1].hash)
    assert journal.oldest_unsealed() is None


def test_sealing_continues_from_the_head(journal: AuditTables) -> None:
    """Batches make the same chain as one batch; a late record comes last."""
    given = records(7)
    journal.append(given[1:])
    counts = [seal(journal, 2), seal(journal, 2), seal(journal, 2)]
    journal.append(given[:1])
    counts += [seal(journal, 2), seal(journal, 2)]

    assert counts == [2, 2, 2, 1, 0]
    assert list(journal.sealed(0, 10)) == sealed(0, GENESIS, [*given[1:], given[0]])
    assert [each.sequence for each in journal.sealed(3, 2)] == [4, 5]


def test_missing_records_are_found(journal: AuditTables) -> None:
    """However many: each of those that are not stored, in the given order."""
    given = records(1203)
    stored = [*given[:3], *given[498:503], given[1202]]
    journal.append(stored)
    seal(journal, 4)

    expected = [each for each in reversed(given) if each not in stored]
    assert list(journal.missing_records([*reversed(given)])) == expected
    assert list(journal.missing_records(stored)) == []
    assert list(journal.missing_records([])) == []


def test_any_text_is_stored_exactly(journal: AuditTables) -> None:
    given = record(text='ﬁ "é" e\u0301 \U0001f512 \u2028 \x7f', empty="")
    journal.append([given])
    seal(journal)

    assert [each.record for each in journal.sealed(0, 10)] == [given]


def test_records_are_appended_all_or_none(journal: AuditTables) -> None:
    first, second = records(2)
    journal.append([first])
    with pytest.raises(StoreError):
        journal.append([second, first])

    assert seal(journal) == 1


def test_the_newest_start_of_a_kind_of_process_is_found(journal: AuditTables) -> None:
    """Starts of other kinds, and other records, are not taken for it."""
    starts = [
        record(
            n,
            event="configuration-loaded",
            at=START + timedelta(seconds=n),
            details={"process": process},
        )
        for n, process in enumerate(("worker", "api", "worker", "api"))
    ]
    quoting = record(9, event='"event":"configuration-loaded","process":"worker"')
    journal.append([*starts, quoting])
    seal(journal)

    assert journal.last_configuration("worker") == starts[2]
    assert journal.last_configuration("api") == starts[3]
    assert journal.last_configuration("work") is None


def test_write_belongs_to_the_transaction_of_its_caller(journal: AuditTables) -> None:
    """A record of ``write`` is committed or rolled back with its transaction."""
    kept, lost = records(2)

    def failing(connection: object) -> None:
        write(connection, ROW_MACS, lost)  # type: ignore[arg-type]  # The database's own.
        raise StoreError("afterwards")

    journal._database.transaction(lambda c: write(c, ROW_MACS, kept))
    with pytest.raises(StoreError, match="afterwards"):
        journal._database.transaction(failing)
    seal(journal)

    assert [each.record for each in journal.sealed(0, 10)] == [kept]


def test_an_intent_needs_the_active_key(journal: AuditTables) -> None:
    _enrol(journal, ADDRESS, KeyState.ACTIVE)
    given = records(2)
    journal.append(given[:1], condition=signing_condition(ADDRESS))
    with pytest.raises(KeyRotatedError):
        journal.append(given[1:], condition=signing_condition(OTHER))
    _change(journal, state=KeyState.DRAINING)
    with pytest.raises(KeyRotatedError):
        journal.append(given[1:], condition=signing_condition(ADDRESS))

    assert seal(journal) == 1


def test_a_record_has_a_limited_length(journal: AuditTables) -> None:
    """An id of 64 bytes, and a body of 8 MiB."""
    longest = Record("x" * 64, "x" * 8 * 2**20)
    journal.append([longest])
    for refused in (Record("y" * 65, "x"), Record("y", "é" * 4 * 2**20 + "x")):
        with pytest.raises(StoreError):
            journal.append([refused])
    seal(journal)

    assert next(each.record for each in journal.sealed(0, 2)) == longest
    assert journal.oldest_unsealed() is None


def test_checkpoints_of_one_size_stay(journal: AuditTables) -> None:
    """Checkpoints are returned by size, and none replaces another or keeps it out."""
    links = chain(3)
    later = checkpoint(links, 3, at=START + timedelta(days=1))
    kept = [checkpoint(links, 1), checkpoint(links, 3), later]
    for each in reversed(kept):
        journal.keep_checkpoint(each)

    assert list(journal.checkpoints()) == kept
    assert list(journal.checkpoints(limit=2)) == kept[:2]
    assert list(journal.checkpoints(kept[1])) == kept[2:]
    assert list(journal.checkpoints(later)) == []
    assert list(journal.newest_checkpoints(0, 3, 2)) == [later, kept[1]]
    assert list(journal.newest_checkpoints(0, 2, 2)) == kept[:1]
    assert list(journal.newest_checkpoints(1, 3, 9)) == [later, kept[1]]


def _filled(journal: AuditTables) -> list[object]:
    """Fill *journal* with two sealed records and an unsealed one; return the rows."""
    given = records(3)
    journal.append(given[:2])
    seal(journal)
    journal.append(given[2:])
    journal.keep_checkpoint(checkpoint(chain(2), 2))
    journal.keep_shipping(None, AuditShipping(1, "file:///place", 2, GENESIS, START))
    return _rows(journal)


def _rows(journal: AuditTables) -> list[object]:
    def read(connection: Connection) -> list[object]:
        return [
            *connection.execute(text("SELECT * FROM audit_records ORDER BY id")),
            *connection.execute(text("SELECT * FROM audit_checkpoints")),
            *connection.execute(text("SELECT * FROM audit_shipping")),
        ]

    return journal._database.run(read)


def test_records_cannot_be_rewritten(journal: AuditTables, database_url: str) -> None:
    """Neither the store nor raw SQL can change a record or checkpoint (A10)."""
    before = _filled(journal)
    for statement in REWRITINGS:
        changing = partial(_execute, text(statement))
        with pytest.raises(StoreError):
            journal._database.transaction(changing)
        with pytest.raises((sqlite_dbapi.IntegrityError, psycopg.Error)):
            _raw(database_url, statement)

        assert _rows(journal) == before


def test_what_is_shipped_is_one_row(journal: AuditTables) -> None:
    """It is replaced by compare-and-set, whatever another program made of it."""
    new = AuditShipping(1, "file:///place", 3, GENESIS, START)
    stored = journal.keep_shipping(None, new)
    moved = journal.keep_shipping(stored, replace(stored, sequence=4))
    for before in (None, stored):
        with pytest.raises(StaleStateError):
            journal.keep_shipping(before, new)
    found = journal.shipping()
    forged = text("UPDATE audit_shipping SET sequence = 9, version = version + 1")
    journal._database.transaction(partial(_execute, forged))
    changed = journal.shipping()

    assert found == moved
    assert (moved.sequence, moved.version) == (4, 1)
    assert changed is not None
    assert not changed.is_authentic
    assert journal.keep_shipping(changed, new).version == 3


def _execute(statement: TextClause, connection: Connection) -> None:
    connection.execute(statement)


def test_records_cannot_be_replaced(sqlite_url: str, sqlite_store: SQLStore) -> None:
    """SQLite refuses statements that overwrite rows and run no DELETE trigger."""
    journal = AuditTables(sqlite_store._database, ROW_MACS)
    before = _filled(journal)
    for statement in REPLACEMENTS:
        with pytest.raises(sqlite_dbapi.IntegrityError):
            _raw(sqlite_url, statement)

        assert _rows(journal) == before


def _raw(url: str, statement: str) -> None:
    if url.startswith("postgresql"):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.encode())
        return
    with closing(sqlite_dbapi.connect(url.removeprefix("sqlite:///"))) as file:
        file.execute(statement)


def test_tables_cannot_be_truncated(postgresql_url: str) -> None:
    for table in ("audit_records", "audit_checkpoints"):
        with pytest.raises(psycopg.Error, match="for ever"):
            _raw(postgresql_url, f"TRUNCATE {table}")


def _append_and_seal(store: object, index: int) -> int:
    """Append 40 records, one by one, and seal after every fourth; return how many."""
    journal = AuditTables(store._database, ROW_MACS)  # type: ignore[attr-defined]  # SQLStore
    done = 0
    for number, each in enumerate(records(40)):
        journal.append([each])
        if number % 4 == index % 4:
            done += seal(journal, 7) or 0
    return done


def test_processes_make_one_chain(database_url: str, journal: AuditTables) -> None:
    """Four processes that append and seal at once make one chain without a gap."""
    done = sum(race(_append_and_seal, database_url, 4))
    while count := seal(journal):
        done += count
    links = list(journal.sealed(0, 1000))

    assert done == 160
    assert links == sealed(0, GENESIS, [each.record for each in links])
    assert len({each.record.id for each in links}) == 160


def test_a_second_sealer_does_not_wait(postgresql_url: str) -> None:
    """While one process seals, another one gets None without waiting."""
    database = Database(postgresql_url, pool_size=2, timeout=5.0)
    journal = AuditTables(database, ROW_MACS)
    journal.append(records(1))
    with psycopg.connect(postgresql_url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", [SEALING_LOCK])
        busy = seal(journal)

    assert busy is None
    assert seal(journal) == 1
    database.close()


def test_threads_share_a_journal(journal: AuditTables) -> None:
    """Threads may append and seal at once."""
    given = records(60)

    def work(number: int) -> int:
        journal.append([given[number]])
        return seal(journal, 5) or 0

    with ThreadPoolExecutor(4) as pool:
        done = sum(pool.map(work, range(60)))
    while count := seal(journal):
        done += count

    assert done == 60
    assert {each.record for each in journal.sealed(0, 100)} == set(given)
