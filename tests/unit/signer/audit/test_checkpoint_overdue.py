"""That nobody signs is heard: at the start, and for as long as a chain is broken."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from backends.sql.audit import AuditTables
from backends.sql.database import Database
from signer.alerts import Alert
from signer.audit.checkpoints import CheckpointKey
from signer.audit.export import export
from signer.audit.hash_chain import GENESIS, sealed
from signer.audit.verify import verify
from signer.model.audit_record import Record
from tests.support.audit import START, VERIFIER, checkpoint, overruled, record
from tests.unit.signer.audit.sealers import Clock, alerts, sealer, sizes


LATE = str(Alert.SIGNING_LATE)


@pytest.fixture
def journal(sqlite_url: str) -> Iterator[AuditTables]:
    """Return an empty journal."""
    database = Database(sqlite_url, pool_size=2, timeout=5.0)
    yield AuditTables(database)
    database.close()


@pytest.fixture
def clock() -> Clock:
    """Return a clock at the time of the tests' records."""
    return Clock()


def _lived(journal: AuditTables, clock: Clock, minutes: int) -> None:
    """Let a process seal and sign a record a second, for so many minutes."""
    ours = sealer(journal, clock)
    for _ in range(minutes):
        journal.append(
            [record(n, at=clock() + timedelta(seconds=n)) for n in range(60)]
        )
        ours.work()
        clock.pass_by(61)


def _rewritten(journal: AuditTables, url: str, kept: int) -> None:
    """Write all records anew behind a checkpoint, and take the later ones away."""
    told = [each.record for each in journal.sealed(0, 1000)]
    told[kept] = Record(told[kept].id, record(666).body)
    overruled(
        url,
        f"DELETE FROM audit_checkpoints WHERE size > {kept}",
        *(
            f"UPDATE audit_records SET body = '{each.record.body}',"
            f" hash = x'{each.hash.hex()}' WHERE sequence = {each.sequence}"
            for each in sealed(0, GENESIS, told)
        ),
    )


def _begun(journal: AuditTables, clock: Clock) -> list[tuple[object, ...]]:
    """Let a new process begin; return its alerts."""
    with capture_logs() as logs:
        ours = sealer(journal, clock)
        ours.work()
        ours.work()
    return alerts(logs)


def test_a_rewritten_chain_is_not_signed_in_silence(
    journal: AuditTables, sqlite_url: str, clock: Clock
) -> None:
    """Where checkpoints are gone, a verification says so, and so does a new process."""
    _lived(journal, clock, minutes=5)
    _rewritten(journal, sqlite_url, kept=60)
    before = verify(export(journal, "hotwallet/tests"), VERIFIER).finding
    told = _begun(journal, clock)
    after = verify(export(journal, "hotwallet/tests"), VERIFIER)

    assert before is not None
    assert (before.code, before.sequence) == ("overdue", 61)
    assert told == [(LATE, 61)]
    assert sizes(journal) == [60, 300]
    assert [(each.first, each.records) for each in after.late] == [(61, 240)]


def test_who_signs_in_our_place_is_not_believed(
    journal: AuditTables, sqlite_url: str, clock: Clock
) -> None:
    """A checkpoint by somebody else does not hide that ours are gone."""
    _lived(journal, clock, minutes=5)
    _rewritten(journal, sqlite_url, kept=60)
    overruled(sqlite_url, "DELETE FROM audit_checkpoints")
    clock.pass_by(3600)
    theirs = checkpoint(
        journal.sealed(0, 1000), 299, key=CheckpointKey.generate(), at=clock()
    )
    journal.keep_checkpoint(theirs)
    journal.append([record(at=clock())])
    clock.pass_by(61)

    assert _begun(journal, clock) == [(LATE, 1)]


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, []), (118, []), (121, [(LATE, 61)])]
)
def test_after_a_stop(
    journal: AuditTables,
    clock: Clock,
    seconds: float,
    expected: list[tuple[object, ...]],
) -> None:
    """Who comes back after minutes without a checkpoint says so once, and signs."""
    _lived(journal, clock, minutes=1)
    journal.append([record(at=clock())])
    clock.pass_by(seconds)

    assert _begun(journal, clock) == expected
    assert sizes(journal) == [60, 61]


def test_after_a_quiet_time(journal: AuditTables, clock: Clock) -> None:
    """A stop before which all was signed for is none to speak of."""
    _lived(journal, clock, minutes=1)
    clock.pass_by(86400)
    journal.append([record(at=clock())])

    assert _begun(journal, clock) == []
    assert sizes(journal) == [60, 61]


@pytest.mark.parametrize(("hours", "expected"), [(1, []), (2, [(LATE, 1)])])
def test_before_anybody_signed(
    journal: AuditTables,
    clock: Clock,
    hours: int,
    expected: list[tuple[object, ...]],
) -> None:
    """A system that is being set up has an hour; a chain without any is told of."""
    journal.append([record(at=START)])
    clock.pass_by(hours * 3600)

    assert _begun(journal, clock) == expected


def test_a_broken_chain_is_told_again(
    journal: AuditTables, sqlite_url: str, clock: Clock
) -> None:
    """As long as a process does not sign, it says so every five minutes."""
    _lived(journal, clock, minutes=1)
    overruled(sqlite_url, "UPDATE audit_records SET hash = x'00' WHERE sequence = 60")
    ours = sealer(journal, clock)
    with capture_logs() as logs:
        for _ in range(22):
            clock.pass_by(30)
            ours.work()

    assert alerts(logs) == [(str(Alert.CHAIN_BROKEN), 60)] * 3
    assert sizes(journal) == [60]
