"""
A thief of a database role who wants that no checkpoint counts any more.

The role may insert checkpoints, and no checkpoint can be deleted.  So one row that is
not a checkpoint would end each verification, and the signing of checkpoints.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import psycopg
import pytest
import structlog

from backends.sql import SQLStore, sqlite_dbapi
from signer.alerts import Alert
from signer.audit.checkpointer import Checkpointer, CheckpointSettings
from signer.audit.checkpoints import MAX_READ, CheckpointKey, find_newest
from signer.audit.export import export
from signer.audit.sealer import Sealer
from signer.audit.verify import verify
from signer.errors import InvalidInputError
from tests.fixtures.roles import Roles
from tests.support.audit import KEY, ORIGIN, START, VERIFIER, records
from tests.support.ledgers import open_ledger


HUGE = 2**62
ATTACKER = CheckpointKey.generate()

Insert = Callable[[int, str], None]


@dataclass(frozen=True, slots=True)
class Victim:
    """A ledger, and how the attacker inserts the size and the note of a checkpoint."""

    store: SQLStore
    insert: Insert


@pytest.fixture(params=["sqlite", "worker", "admin"])
def victim(request: pytest.FixtureRequest) -> Iterator[Victim]:
    """The ledger on SQLite, or on PostgreSQL for a thief of a shipped role."""
    if request.param == "sqlite":
        url = request.getfixturevalue("sqlite_url")
        with closing(open_ledger(url)) as store:
            yield Victim(store, _sqlite_insert(url))
        return
    shipped: Roles = request.getfixturevalue("shipped")
    shipped.clear()
    with closing(open_ledger(shipped.superuser)) as store:
        yield Victim(store, _postgresql_insert(shipped.of(request.param)))


def _sqlite_insert(url: str) -> Insert:
    def insert(size: int, note: str) -> None:
        path = url.removeprefix("sqlite:///")
        with closing(sqlite_dbapi.connect(path)) as file:
            file.execute(f"INSERT INTO audit_checkpoints {_values('?')}", (size, note))

    return insert


def _postgresql_insert(url: str) -> Insert:
    def insert(size: int, note: str) -> None:
        with psycopg.connect(url) as connection:
            values = _values("%s").encode()
            connection.execute(b"INSERT INTO audit_checkpoints " + values, (size, note))

    return insert


def _values(mark: str) -> str:
    return f"(size, note) VALUES ({mark}, {mark})"


def _sealer(store: SQLStore) -> Sealer:
    return Sealer(Checkpointer(store, CheckpointSettings(KEY, ORIGIN, records=1)))


def _sign(victim: Victim, sealer: Sealer, count: int) -> None:
    """Write *count* records, and sign a checkpoint of them."""
    victim.store.append(records(count))
    sealer.work()


def _sizes(store: SQLStore) -> set[int]:
    """Return the sizes of the checkpoints that are ours."""
    found = set()
    for stored in store.checkpoints():
        try:
            statement = VERIFIER.verify(stored.note)
        except InvalidInputError:
            continue
        if statement.size == stored.size and statement.origin == ORIGIN:
            found.add(stored.size)
    return found


def _malformed(victim: Victim) -> None:
    victim.insert(2, "not a checkpoint")


def _huge_size(victim: Victim) -> None:
    victim.insert(HUGE, "not a checkpoint")


def _signed_by_the_attacker(victim: Victim) -> None:
    for size in (2, 3, HUGE):
        victim.insert(size, ATTACKER.sign(ORIGIN, size, b"x" * 32, START).note)


def _with_an_invalid_signature(victim: Victim) -> None:
    (genuine,) = victim.store.checkpoints()
    victim.insert(HUGE, genuine.note.replace("\n3\n", f"\n{HUGE}\n", 1))


def _of_another_ledger(victim: Victim) -> None:
    """A checkpoint that our key signed for another origin."""
    for size in (3, 5, HUGE):
        victim.insert(size, KEY.sign("hotwallet/other", size, b"x" * 32, START).note)


def _replayed(victim: Victim) -> None:
    """A genuine checkpoint, copied to other sizes."""
    (genuine,) = victim.store.checkpoints()
    for size in (2, 5, HUGE):
        victim.insert(size, genuine.note)


def _taking_the_next_sizes(victim: Victim) -> None:
    for size in range(4, 40):
        victim.insert(size, ATTACKER.sign(ORIGIN, size, b"x" * 32, START).note)


def _many(victim: Victim) -> None:
    """More than are read at once, above the chain and at sizes that follow."""
    for number in range(MAX_READ + 20):
        victim.insert(HUGE - number, "x")
        victim.insert(5, f"{number}")


ATTACKS = (
    _malformed,
    _huge_size,
    _signed_by_the_attacker,
    _with_an_invalid_signature,
    _of_another_ledger,
    _replayed,
    _taking_the_next_sizes,
    _many,
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_forged_checkpoints_do_not_end_the_evidence(
    victim: Victim, attack: Callable[[Victim], None]
) -> None:
    """Running and new processes sign on, and the export verifies."""
    running = _sealer(victim.store)
    _sign(victim, running, 3)
    attack(victim)
    with structlog.testing.capture_logs() as logs:
        _sign(victim, running, 2)
        _sign(victim, running, 2)
    with structlog.testing.capture_logs() as later:
        new = _sealer(victim.store)
        _sign(victim, new, 2)
        _sign(victim, new, 2)
    verdict = verify(export(victim.store, ORIGIN), VERIFIER)
    alerts = [
        [each["alert"] for each in found if each["event"] == "alert"]
        for found in (logs, later)
    ]
    newest = find_newest(victim.store, CheckpointSettings(KEY, ORIGIN).verify)

    assert {3, 5, 7, 9, 11} <= _sizes(victim.store)
    assert verdict.finding is None
    assert (verdict.records, verdict.signed) == (11, 11)
    # At most once in each process, and nothing else is alerted.
    assert all(len(each) <= 1 for each in alerts)
    if attack in {_huge_size, _replayed, _taking_the_next_sizes}:
        (found,) = [each for each in logs if each["event"] == "alert"]
        assert found["size"] in {39, HUGE}
    assert {*alerts[0], *alerts[1]} <= {Alert.CHECKPOINT_FORGED}
    assert newest.checkpoint is not None
    assert newest.checkpoint.size == 11


def test_the_verification_lists_forged_checkpoints(victim: Victim) -> None:
    """Those with the form of a checkpoint are exported, and named."""
    sealer = _sealer(victim.store)
    _sign(victim, sealer, 3)
    _signed_by_the_attacker(victim)
    _sign(victim, sealer, 1)
    found = verify(export(victim.store, ORIGIN), VERIFIER)

    assert found.finding is None
    assert found.checkpoints == 2
    assert found.forged_checkpoints is not None
    assert (found.forged_checkpoints.count, found.forged_checkpoints.sequence) == (3, 2)
    assert "trusted key" in found.forged_checkpoints.problem


@pytest.mark.parametrize("size", [0, -1])
def test_the_database_refuses_an_empty_chain(victim: Victim, size: int) -> None:
    with pytest.raises((sqlite_dbapi.IntegrityError, psycopg.IntegrityError)):
        victim.insert(size, "x")


def test_the_database_refuses_a_long_note(victim: Victim) -> None:
    """A checkpoint of ours has less than a thousand bytes."""
    with pytest.raises((sqlite_dbapi.IntegrityError, psycopg.IntegrityError)):
        victim.insert(1, "x" * 2001)
