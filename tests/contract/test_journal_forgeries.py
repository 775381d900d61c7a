"""Records that another program inserts are sealed, declared, exported, verified."""

import random
from collections.abc import Iterable, Sequence
from contextlib import closing

import psycopg
import pytest

from backends.sql import SQLStore, sqlite_dbapi
from backends.sql.audit import AuditTables
from signer.audit.checkpointer import Checkpointer, CheckpointSettings
from signer.audit.export import export, records
from signer.audit.hash_chain import GENESIS, sealed
from signer.audit.sealer import Sealer
from signer.audit.verify import verify
from signer.model.audit_record import Record
from signer.ports.audit_journal import Sealing
from tests.support.audit import KEY, ORIGIN, VERIFIER, record
from tests.support.ledgers import DRAFTS, ROW_MACS


MAX_ID = 64
"""How many bytes an id may have: the database refuses longer ones."""

HOSTILE = [
    ("", "{}"),
    ("au_0", ""),
    ("au_" + "f" * 32, "not json"),
    ("au_" + "0" * 32, '{"a": 1}'),
    ("\u202e\x1b[2J\n", '{"event":"digest-sign-succeeded"}'),
    ("~", "x" * 2_000_000),
    ("a" * MAX_ID, "{}\n{}"),
]


@pytest.fixture
def journal(store: SQLStore) -> AuditTables:
    """Return a journal on each database in turn."""
    return AuditTables(store._database, ROW_MACS)


def _insert(url: str, *rows: tuple[str, str]) -> None:
    """Insert records without a MAC, each an id and a body."""
    for row in rows:
        _execute(url, "INSERT INTO audit_records (id, body) VALUES (?, ?)", row)


def _execute(url: str, statement: str, values: Sequence[object]) -> None:
    if url.startswith("postgresql"):
        with psycopg.connect(url) as connection:
            connection.execute(statement.replace("?", "%s").encode(), values)
        return
    with closing(sqlite_dbapi.connect(url.removeprefix("sqlite:///"))) as file:
        file.execute(statement, values)


def _export(journal: AuditTables) -> list[bytes]:
    """Seal everything, sign a checkpoint, and return the export."""
    sealer = Sealer(Checkpointer(journal, CheckpointSettings(KEY, ORIGIN)))
    sealer.work()
    sealer.checkpointer.checkpoint()
    return list(export(journal, ORIGIN))


def _require_good(journal: AuditTables, forged: Iterable[tuple[str, str]]) -> None:
    """Require that an export verifies, and that it has *forged* as what they are."""
    lines = _export(journal)
    verdict = verify(lines, VERIFIER)
    chain = list(records(lines))
    listed = [chain[each.sequence - 1] for each in verdict.forged]

    assert verdict.finding is None
    assert chain == [each.record for each in journal.sealed(0, 1000)]
    assert {(each.id, each.body) for each in listed} == set(forged)
    for each in verdict.forged:
        declaration = chain[each.declared_by - 1]
        assert declaration.fields["event"] == "audit-records-forged"


def test_any_record_is_exported_and_verified(
    journal: AuditTables, database_url: str
) -> None:
    """No record that a role can insert makes an export bad for ever."""
    journal.append([record(1)])
    _insert(database_url, *HOSTILE)
    journal.append([record(2)])

    _require_good(journal, HOSTILE)
    journal.append([record(3)])
    _require_good(journal, HOSTILE)


def test_a_start_declares_a_record_from_before_the_macs(
    journal: AuditTables, database_url: str
) -> None:
    """Records of ours from that time have no MAC, but they have their form."""
    ours, forged = record(1), Record("au_0", "{}")
    for each in sealed(0, GENESIS, [ours, forged]):
        _insert(database_url, (each.record.id, each.record.body))
        place = "UPDATE audit_records SET sequence = ?, hash = ? WHERE id = ?"
        _execute(database_url, place, (each.sequence, each.hash, each.record.id))
    journal.append([record(2)])

    assert journal.seal(10, DRAFTS.forged) == Sealing(1, ("au_0",))


def _any_id(chance: random.Random) -> str:
    return _any_text(chance).encode()[:MAX_ID].decode(errors="ignore")


def _any_text(chance: random.Random) -> str:
    pieces = ("au_", "0" * 32, *'{}":,1 \né\U0001f512')
    return "".join(chance.choices(pieces, k=chance.randrange(8)))


@pytest.mark.parametrize("seed", range(3))
def test_random_records(journal: AuditTables, database_url: str, seed: int) -> None:
    """Before, between and after records of the service, in several rounds."""
    chance = random.Random(seed)
    forged: dict[str, str] = {}
    for number in range(4):
        new = {_any_id(chance): _any_text(chance) for _ in range(6)}
        new = {id_: body for id_, body in new.items() if id_ not in forged}
        _insert(database_url, *new.items())
        forged |= new
        journal.append([record(number)])
        _require_good(journal, forged.items())
