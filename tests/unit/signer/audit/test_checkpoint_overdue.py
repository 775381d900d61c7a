"""Alerts about overdue checkpoints at start-up, and about a broken chain."""

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from backends.sql.audit import AuditTables
from signer.alerts import Alert
from signer.audit.checkpoints import CheckpointKey
from signer.audit.export import export
from signer.audit.hash_chain import GENESIS, sealed
from signer.audit.verify import verify
from signer.model.audit_record import Record
from tests.support.audit import VERIFIER, checkpoint, overruled, record
from tests.support.refunds import FakeClock
from tests.unit.signer.audit.sealers import alerts, sealer, sizes


LATE = str(Alert.SIGNING_LATE)


def _run(journal: AuditTables, clock: FakeClock, minutes: int) -> None:
    """Let a process seal and sign one record per second for *minutes*."""
    ours = sealer(journal, clock)
    for _ in range(minutes):
        journal.append(
            [record(n, at=clock() + timedelta(seconds=n)) for n in range(60)]
        )
        ours.work()
        clock.advance(seconds=61)


def _rewrite(journal: AuditTables, url: str, kept: int) -> None:
    """Rewrite the records after a checkpoint, and remove later checkpoints."""
    rewritten = [each.record for each in journal.sealed(0, 1000)]
    rewritten[kept] = Record(rewritten[kept].id, record(666).body)
    overruled(
        url,
        f"DELETE FROM audit_checkpoints WHERE size > {kept}",
        *(
            f"UPDATE audit_records SET body = '{each.record.body}',"
            f" hash = x'{each.hash.hex()}' WHERE sequence = {each.sequence}"
            for each in sealed(0, GENESIS, rewritten)
        ),
    )


def _start(journal: AuditTables, clock: FakeClock) -> list[tuple[object, ...]]:
    """Start a new process; return its alerts."""
    with capture_logs() as logs:
        ours = sealer(journal, clock)
        ours.work()
        ours.work()
    return alerts(logs)


def test_a_rewritten_chain_sounds_an_alert(
    journal: AuditTables, sqlite_url: str, clock: FakeClock
) -> None:
    """Verification and a new process both report removed checkpoints."""
    _run(journal, clock, minutes=5)
    _rewrite(journal, sqlite_url, kept=60)
    before = verify(export(journal, "hotwallet/tests"), VERIFIER).finding
    started = _start(journal, clock)
    after = verify(export(journal, "hotwallet/tests"), VERIFIER)

    assert before is not None
    assert (before.code, before.sequence) == ("overdue", 61)
    assert started == [(LATE, 61)]
    assert sizes(journal) == [60, 300]
    assert [(each.first, each.records) for each in after.late] == [(61, 240)]


def test_a_checkpoint_of_another_key_does_not_hide_the_gap(
    journal: AuditTables, sqlite_url: str, clock: FakeClock
) -> None:
    """A checkpoint by an unknown key does not count as ours."""
    _run(journal, clock, minutes=5)
    _rewrite(journal, sqlite_url, kept=60)
    overruled(sqlite_url, "DELETE FROM audit_checkpoints")
    clock.advance(seconds=3600)
    theirs = checkpoint(
        journal.sealed(0, 1000), 299, key=CheckpointKey.generate(), at=clock()
    )
    journal.keep_checkpoint(theirs)
    journal.append([record(at=clock())])
    clock.advance(seconds=61)

    assert _start(journal, clock) == [(LATE, 1)]


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, []), (118, []), (121, [(LATE, 61)])]
)
def test_after_a_stop(
    journal: AuditTables,
    clock: FakeClock,
    seconds: float,
    expected: list[tuple[object, ...]],
) -> None:
    """A process that starts after a long gap sounds one alert, and signs."""
    _run(journal, clock, minutes=1)
    journal.append([record(at=clock())])
    clock.advance(seconds=seconds)

    assert _start(journal, clock) == expected
    assert sizes(journal) == [60, 61]
    clock.advance(seconds=86400)  # A quiet time: all records were signed before it.
    journal.append([record(at=clock())])
    assert _start(journal, clock) == []


def test_the_alert_of_a_broken_chain_is_repeated(
    journal: AuditTables, sqlite_url: str, clock: FakeClock
) -> None:
    """A process that does not sign repeats the alert every five minutes."""
    _run(journal, clock, minutes=1)
    overruled(sqlite_url, "UPDATE audit_records SET hash = x'00' WHERE sequence = 60")
    ours = sealer(journal, clock)
    with capture_logs() as logs:
        for _ in range(22):
            clock.advance(seconds=30)
            ours.work()

    assert alerts(logs) == [(str(Alert.CHAIN_BROKEN), 60)] * 3
    assert sizes(journal) == [60]


def test_a_record_of_another_form_is_not_overdue(
    journal: AuditTables, sqlite_url: str, clock: FakeClock
) -> None:
    """The id of a record that another program inserted proves no time."""
    _run(journal, clock, minutes=1)
    clock.advance(seconds=600)
    overruled(sqlite_url, "INSERT INTO audit_records (id, body) VALUES ('au_0', '')")
    started = _start(journal, clock)

    assert [name for name, _ in started] == [str(Alert.RECORD_FORGED)]
    verdict = verify(export(journal, "hotwallet/tests"), VERIFIER)
    assert verdict.finding is None
    assert verdict.late == ()
