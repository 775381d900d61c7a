"""The sealer seals every record, and signs only a chain that it has verified."""

import io
from contextlib import closing
from datetime import datetime, timedelta
from itertools import count

import psycopg
import pytest
from structlog.testing import capture_logs

from api.logs import audit_logger
from backends.sql import sqlite_dbapi
from backends.sql.audit import SEALING_LOCK, AuditTables
from backends.sql.database import Database
from signer.alerts import Alert, Alerts
from signer.audit import hash_chain
from signer.audit.actions import AuditAction
from signer.audit.checkpointer import VERIFY_SECONDS, Checkpointer, CheckpointSettings
from signer.audit.checkpoints import (
    CheckpointKey,
    NewestCheckpoints,
    Statement,
    find_newest,
    parse,
)
from signer.audit.export import export
from signer.audit.hash_chain import (
    BATCH,
    BrokenChainError,
    ChainReader,
    declared_by,
    hash_id,
)
from signer.audit.log import AuditLog, parse_line
from signer.audit.sealer import (
    FOLLOW_SECONDS,
    LOOK_SECONDS,
    REST_SECONDS,
    Sealer,
    SealingAlert,
    SealingMonitor,
)
from signer.audit.verify import verify
from signer.errors import InvalidInputError, StoreError
from signer.model.audit_record import Actor, Operation, Record, made_at, new_record_id
from signer.ports.audit_journal import Sealing
from signer.refunds.standby import PATIENCE
from tests.support.audit import (
    KEY,
    ORIGIN,
    START,
    VERIFIER,
    checkpoint,
    overruled,
    record,
    records,
    wiped,
)
from tests.support.ledgers import DRAFTS, ROW_MACS, seal
from tests.support.refunds import FakeClock, altered
from tests.support.ring import SILENCE
from tests.unit.signer.audit.sealers import alerts, sealer, sizes


def _ours(journal: AuditTables) -> list[Statement]:
    """Return what the checkpoints of our key state."""
    settings = CheckpointSettings(KEY, ORIGIN)
    found = map(settings.verify, journal.checkpoints())
    return [statement for statement in found if statement is not None]


def _signed(journal: AuditTables) -> list[Statement]:
    return [VERIFIER.verify(each.note) for each in journal.checkpoints()]


def test_seals_everything(journal: AuditTables, clock: FakeClock) -> None:
    """One round seals all waiting records, and signs and logs a checkpoint."""
    journal.append(records(2345))
    seal(journal, 2)  # By a process that was killed before it signed.
    clock.advance(seconds=3600)
    with capture_logs() as logs:
        sealed = sealer(journal, clock).work()

    assert sealed == 2343
    (logged,) = logs  # No alert: nothing was late once a process ran.
    assert (logged["event"], logged["size"]) == ("audit-checkpoint", 2345)
    assert logged["note"] == journal.checkpoints()[0].note
    assert journal.oldest_unsealed() is None
    assert _signed(journal) == [Statement(ORIGIN, 2345, journal.head()[1], clock())]


def _sealed_by_a_thief(journal: AuditTables, url: str, *forged: Record) -> None:
    """Insert *forged* with their right hashes, and without MACs."""
    overruled(
        url,
        *(
            "INSERT INTO audit_records (id, body, sequence, hash) VALUES"
            f" ('{each.record.id}', '{each.record.body}', {each.sequence},"
            f" x'{each.hash.hex()}')"
            for each in hash_chain.sealed(*journal.head(), forged)
        ),
    )


def test_finds_a_sealed_record_without_a_mac(
    journal: AuditTables, sqlite_url: str, clock: FakeClock
) -> None:
    """Also while no record waits; one process declares it, once."""
    ours = sealer(journal, clock)
    other = sealer(AuditTables(journal._database, ROW_MACS), clock)
    journal.append(records(1))
    ours.work()
    other.work()
    forged = record(7)
    _sealed_by_a_thief(journal, sqlite_url, forged)
    later = sealer(AuditTables(journal._database, ROW_MACS), clock)
    with capture_logs() as logs:
        for each in (ours, other, later, ours, other):
            clock.advance(seconds=60)
            each.work()

    found = [each for each in logs if each.get("alert") == str(Alert.RECORD_FORGED)]
    assert [(each["records"], each["first"]) for each in found] == [(1, forged.id)]
    assert [declared_by(each.record) for each in journal.sealed(2, 9)] == [
        {hash_id(forged.id)}
    ]


def test_the_alert_has_the_start_of_a_long_id(
    journal: AuditTables, sqlite_url: str, clock: FakeClock
) -> None:
    """An attacker must not be able to make the alert too large to deliver."""
    overruled(
        sqlite_url,
        f"INSERT INTO audit_records (id, body) VALUES ('{'x' * 100_000}', '{{}}')",
    )
    with capture_logs() as logs:
        sealer(journal, clock).work()

    (found,) = [each for each in logs if each.get("alert") == str(Alert.RECORD_FORGED)]
    assert found["first"] == "x" * 64


@pytest.mark.parametrize("mac", ["NULL", "'removed:00'"])
def test_records_from_before_the_macs_are_trusted(
    journal: AuditTables, sqlite_url: str, mac: str
) -> None:
    """They come before the first record with a valid MAC; a later one is forged."""
    _sealed_by_a_thief(journal, sqlite_url, *records(3))
    overruled(sqlite_url, f"UPDATE audit_records SET mac = {mac}")
    journal.append([record(4)])
    assert journal.seal(10, DRAFTS.forged) == Sealing(1)
    restarted = AuditTables(journal._database, ROW_MACS)
    restarted.append([record(6)])
    assert restarted.seal(10, DRAFTS.forged) == Sealing(1)
    forged = record(7)
    _sealed_by_a_thief(journal, sqlite_url, forged)
    journal.append([record(5)])

    assert journal.seal(10, DRAFTS.forged) == Sealing(1, (forged.id,))


@pytest.mark.parametrize(("later", "is_found"), [(BATCH - 1, True), (BATCH, False)])
def test_a_new_process_verifies_the_last_records(
    journal: AuditTables, sqlite_url: str, later: int, is_found: bool
) -> None:
    """A running one verifies all since its last round."""
    journal.append([record(-1)])
    seal(journal)
    forged = record(-2)
    _sealed_by_a_thief(journal, sqlite_url, forged)
    journal._verified = 2
    journal.append(records(later))
    seal(journal)
    restarted = AuditTables(journal._database, ROW_MACS)

    done = restarted.seal(10, DRAFTS.forged)

    assert done == Sealing(0, (forged.id,) if is_found else ())


def test_a_rolled_back_round_verified_nothing(
    journal: AuditTables, sqlite_url: str
) -> None:
    """The next round finds what it found."""
    journal.append([record(1)])
    seal(journal)
    forged = record(7)
    _sealed_by_a_thief(journal, sqlite_url, forged)

    def fail(_: object) -> Record:
        raise StoreError("no")

    with pytest.raises(StoreError):
        journal.seal(10, fail)

    assert journal.seal(10, DRAFTS.forged) == Sealing(0, (forged.id,))


def test_the_changes_of_administrators_are_logged_when_they_are_sealed(
    journal: AuditTables, sqlite_url: str
) -> None:
    """The log of a command goes to a terminal; that of the sealer to the log store."""
    operator, audit = Actor("cli:alice"), AuditLog(SILENCE, journal=journal)
    revoked, stopped, paid = (
        audit.result(action, operation, operator)
        for action, operation in (
            (AuditAction.KEY_REVOKE, Operation.KEY_ROTATION),
            (AuditAction.SIGNING_STOP, Operation.ADMINISTRATION),
            (AuditAction.REFUND_CANCEL, Operation.REFUND),
        )
    )
    audit.write(revoked, stopped, paid)
    forged = DRAFTS.result(AuditAction.KEY_REVOKE, Operation.KEY_ROTATION, operator)
    overruled(
        sqlite_url,
        f"INSERT INTO audit_records (id, body) VALUES ('{forged.id}', '{forged.body}')",
    )
    stream = io.StringIO()
    ours = Sealer(
        Checkpointer(journal), audit=AuditLog(audit_logger(stream), journal=journal)
    )

    for _ in range(2):
        ours.work()

    lines = stream.getvalue().encode().splitlines()
    assert [parse_line(line) for line in lines] == [revoked, stopped]
    assert [parse_line(line).mac for line in lines] == [revoked.mac, stopped.mac]


def test_signs_when_a_checkpoint_is_due(journal: AuditTables, clock: FakeClock) -> None:
    """A checkpoint is signed for new records, after a minute or enough of them."""
    ours = sealer(journal, clock, records=10)
    for size, seconds in ((1, 0), (1, 59), (0, 1), (0, 120), (9, 1), (1, 1), (1, -90)):
        clock.advance(seconds=seconds)
        journal.append(records(size))
        ours.work()

    assert sizes(journal) == [1, 2, 12, 13]


def test_signs_the_last_records_before_a_quiet_time(
    journal: AuditTables, clock: FakeClock
) -> None:
    """Records after the last checkpoint get one in time, even if no more follow."""
    signing = CheckpointSettings(KEY, ORIGIN, interval=timedelta(seconds=5))
    ours = Sealer(Checkpointer(journal, signing, Alerts(clock=clock), clock))
    for number, seconds in ((1, 0), (1, 1), (0, 3), (0, 2)):
        clock.advance(seconds=seconds)
        journal.append(records(number))
        ours.work()

    assert sizes(journal) == [1, 2]


def test_without_a_key_it_seals_and_verifies(
    journal: AuditTables, sqlite_url: str, clock: FakeClock
) -> None:
    """A process without a key finds that the chain differs from stored checkpoints."""
    journal.append(records(3))
    ours = Sealer(Checkpointer(journal, clock=clock))

    assert ours.work() == 3
    assert ours.checkpointer.checkpoint() is None
    assert sizes(journal) == []

    sealer(journal, clock).work()
    with capture_logs() as logs:
        Sealer(Checkpointer(journal, clock=clock)).work()
    assert logs == []
    overruled(sqlite_url, "UPDATE audit_records SET hash = x'00' WHERE sequence = 3")
    with capture_logs() as logs:
        Sealer(Checkpointer(journal, clock=clock)).work()
    assert alerts(logs) == [(str(Alert.CHECKPOINT_FORGED), None)]


def test_an_export_verifies(journal: AuditTables, clock: FakeClock) -> None:
    """An export of records that were sealed and signed in many rounds verifies."""
    ours = sealer(journal, clock, records=5)
    for number in (3, 0, 4, 1, 12):
        journal.append(records(number))
        ours.work()
    journal.append(records(2))
    verdict = verify(export(journal, ORIGIN), VERIFIER)

    assert verdict.finding is None
    assert (verdict.records, verdict.checkpoints, verdict.signed) == (20, 3, 20)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("UPDATE audit_records SET hash = x'00' WHERE sequence = 3", 3),
        ("DELETE FROM audit_records WHERE sequence = 3", 3),
        ("DELETE FROM audit_records WHERE sequence > 1", 3),
    ],
)
def test_does_not_sign_a_chain_that_differs_from_a_checkpoint(
    journal: AuditTables, sqlite_url: str, clock: FakeClock, damage: str, expected: int
) -> None:
    """A chain that differs sounds an alert; nothing is signed, records are sealed."""
    journal.append(records(3))
    sealer(journal, clock).work()
    overruled(sqlite_url, damage)
    again = sealer(journal, clock)
    sealed = []
    with capture_logs() as logs:
        for number in (4, 5):
            clock.advance(seconds=120)
            journal.append([record(number, at=clock())])
            sealed.append(again.work())

    assert alerts(logs) == [(str(Alert.CHAIN_BROKEN), expected)]
    assert sealed == [1, 1]
    assert len(sizes(journal)) == 1


def test_detects_a_removed_checkpoint_that_it_signed(
    journal: AuditTables, sqlite_url: str, clock: FakeClock
) -> None:
    """A running process detects truncation even if its checkpoint was removed."""
    ours = sealer(journal, clock)
    journal.append(records(3))
    ours.work()
    overruled(
        sqlite_url,
        "DELETE FROM audit_records WHERE sequence > 1",
        "DELETE FROM audit_checkpoints",
    )
    clock.advance(seconds=60)
    journal.append(records(4))
    with capture_logs() as logs:
        ours.work()

    assert alerts(logs) == [(str(Alert.CHAIN_BROKEN), 3)]
    with pytest.raises(BrokenChainError):
        ours.checkpointer.checkpoint()


def test_a_new_key_signs_the_whole_chain(
    journal: AuditTables, clock: FakeClock
) -> None:
    """A changed key is logged, and the new key signs the whole chain."""
    journal.append(records(3))
    sealer(journal, clock, key=CheckpointKey.generate()).work()
    clock.advance(seconds=60)
    journal.append(records(1))
    with capture_logs() as logs:
        sealer(journal, clock).work()

    assert [each["event"] for each in logs] == [
        "audit-checkpoint-of-another-key",
        "audit-checkpoint",
    ]
    assert sizes(journal) == [3, 4]


def test_detects_a_removed_record(journal: AuditTables, sqlite_url: str) -> None:
    """A record that was removed from the middle is detected by its sequence."""
    journal.append(records(4))
    seal(journal)
    overruled(sqlite_url, "DELETE FROM audit_records WHERE sequence = 2")

    with pytest.raises(BrokenChainError, match="audit record 2 is missing"):
        ChainReader(journal).advance()


def test_a_checkpoint_on_request(journal: AuditTables, clock: FakeClock) -> None:
    """A checkpoint can be signed at once; an empty chain has none."""
    ours = sealer(journal, clock)
    with pytest.raises(InvalidInputError):
        ours.checkpointer.checkpoint()
    journal.append(records(2))
    ours.work()
    journal.append(records(1))
    ours.work()
    made = ours.checkpointer.checkpoint()

    assert made is not None
    assert parse(made.note).statement.size == 3
    assert made in journal.checkpoints()


@pytest.fixture
def refusing(sqlite_url: str) -> str:
    """Return the URL of a store in which records can be added but not sealed."""
    with closing(sqlite_dbapi.connect(sqlite_url.removeprefix("sqlite:///"))) as file:
        file.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON audit_records"
            " BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    return sqlite_url


@pytest.mark.usefixtures("refusing")
def test_late_records_are_an_alert(journal: AuditTables, clock: FakeClock) -> None:
    """An alert sounds if records cannot be sealed for long, and is repeated."""
    journal.append([record()])
    ours = sealer(journal, clock)
    with capture_logs() as logs:
        for seconds in (19, 2, 60, 240, 1):
            clock.advance(seconds=seconds)
            with pytest.raises(StoreError):
                ours.work()

    late = str(Alert.SEALING_LATE)
    assert alerts(logs) == [(late, 21), (late, 321)]


def test_alerts_while_another_process_holds_the_lock(
    postgresql_url: str, clock: FakeClock
) -> None:
    """Other processes notice a process that holds the lock and does nothing."""
    database = Database(wiped(postgresql_url), pool_size=1, timeout=5.0)
    journal = AuditTables(database, ROW_MACS)
    journal.append(records(1))
    clock.advance(seconds=31)
    ours = sealer(journal, clock)
    with capture_logs() as logs:
        with psycopg.connect(postgresql_url) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s)", [SEALING_LOCK])
            busy = ours.work()
        free = ours.work()
    database.close()

    assert (busy, free) == (0, 1)
    assert alerts(logs) == [(str(Alert.SEALING_LATE), 31)]


@pytest.mark.parametrize(
    ("error", "level", "code"),
    [
        (StoreError("it is gone"), "warning", StoreError.code),
        (ZeroDivisionError(), "error", "internal-error"),
    ],
)
def test_continues_after_a_failure(
    journal: AuditTables, clock: FakeClock, error: Exception, level: str, code: str
) -> None:
    """It is logged, a bug as an error, and the next round follows."""
    journal.append(records(1))
    broken = altered(journal, oldest_unsealed=error)
    passes = iter([False, True])
    with capture_logs() as logs:
        Sealer(Checkpointer(broken, clock=clock)).run(lambda seconds: next(passes))

    assert [(each["event"], each["log_level"], each["code"]) for each in logs] == [
        ("audit-sealing-failed", level, code)
    ] * 2


@pytest.mark.parametrize(
    ("taken", "rest"), [(0.1, LOOK_SECONDS - 0.1), (5.0, REST_SECONDS)]
)
def test_rounds_start_at_a_steady_rate(
    journal: AuditTables, clock: FakeClock, taken: float, rest: float
) -> None:
    """The duration of a round counts towards the pause, which has a minimum."""
    waited = list[float]()
    ours = Sealer(
        Checkpointer(journal, clock=clock, timer=count(taken, taken).__next__)
    )

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return True

    ours.run(wait)

    assert waited == pytest.approx([rest])


def test_a_round_without_news_reads_nothing(
    journal: AuditTables, clock: FakeClock
) -> None:
    """Once everything is sealed, a round waits until something is written."""
    worked = list[int]()

    class Counting(Sealer):
        def work(self, *, leave: bool = False) -> int:
            worked.append(super().work(leave=leave))
            return worked[-1]

    rounds = iter([False] * 4 + [True])
    Counting(Checkpointer(journal, clock=clock)).run(lambda _: next(rounds))

    assert 1 <= len(worked) < 5


@pytest.mark.parametrize("leads", [True, False])
def test_a_process_that_follows_seals_what_it_finds_twice(
    journal: AuditTables, clock: FakeClock, *, leads: bool
) -> None:
    """It leaves new records to the process that leads, as long as that seals them."""
    other, rounds = sealer(journal, clock), count(1)
    pauses, worked = list[float](), list[int]()

    class Counting(Sealer):
        def work(self, *, leave: bool = False) -> int:
            worked.append(super().work(leave=leave))
            return worked[-1]

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        if leads:
            other.work()
        number = next(rounds)
        journal.append([record(number, at=START + timedelta(seconds=number))])
        return number == 6

    Counting(Checkpointer(journal, clock=clock), patience=lambda: PATIENCE).run(wait)

    assert worked == [0] * 6 if leads else [0, 0, 2, 0, 2, 0]
    assert set(pauses) == {FOLLOW_SECONDS}


def test_a_process_that_leads_waits_for_news(
    journal: AuditTables, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is woken by what is written, and pauses only after it has worked."""
    monkeypatch.setattr("signer.audit.sealer.IDLE_SECONDS", 0.01)
    pauses = list[float]()

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return len(pauses) == 20

    journal.append([record(1)])
    sealer(journal, clock).run(wait)

    assert pauses[0] > 0
    assert pauses[-1] == 0


def _slow_sealer(journal: AuditTables, clock: FakeClock) -> Sealer:
    """Return a sealer that verifies one batch in each round."""
    return Sealer(
        Checkpointer(
            journal,
            CheckpointSettings(KEY, ORIGIN),
            clock=clock,
            timer=count(VERIFY_SECONDS, VERIFY_SECONDS).__next__,
        )
    )


def _append_sealed(journal: AuditTables, batches: int) -> None:
    """Seal this many batches of records without a checkpoint."""
    journal.append(records(batches * BATCH))
    while seal(journal, BATCH):
        pass


def test_seals_between_verification_steps(
    journal: AuditTables, clock: FakeClock
) -> None:
    _append_sealed(journal, 3)
    ours = _slow_sealer(journal, clock)
    sealed, signed = [], []
    for number in range(5):
        journal.append([record(number, at=START + timedelta(hours=number + 1))])
        sealed.append(ours.work())
        signed.append(sizes(journal))

    assert sealed == [1, 1, 1, 1, 1]
    assert signed[:3] == [[], [], []]
    assert signed[3] == [3 * BATCH + 4]
    assert ChainReader(journal).advance()


def test_starts_from_a_checkpoint_of_another_process(
    journal: AuditTables, clock: FakeClock
) -> None:
    _append_sealed(journal, 3)
    ours = _slow_sealer(journal, clock)
    ours.work()
    sealer(journal, clock).work()
    ours.work()
    clock.advance(seconds=60)
    journal.append([record(at=clock())])
    ours.work()

    assert sizes(journal) == [3 * BATCH, 3 * BATCH + 1]


def test_detects_a_change_in_a_later_step(
    journal: AuditTables, sqlite_url: str, clock: FakeClock
) -> None:
    """A change that a later step finds sounds the alert, and nothing is signed."""
    _append_sealed(journal, 2)
    ours = _slow_sealer(journal, clock)
    ours.work()
    overruled(sqlite_url, "UPDATE audit_records SET body = '{}' WHERE sequence = 1500")
    with capture_logs() as logs:
        for _ in range(3):
            ours.work()

    assert alerts(logs) == [(str(Alert.CHAIN_BROKEN), 1500)]
    assert sizes(journal) == []


def test_finds_the_newest_checkpoint_of_a_long_chain(
    journal: AuditTables, clock: FakeClock
) -> None:
    """The last checkpoint is found even if the chain has grown a lot since."""
    journal.append(records(1200))
    seal(journal, 2000)
    links = list(journal.sealed(0, 10))
    assert find_newest(journal, None) == NewestCheckpoints(None, [], [])
    stored = [checkpoint(links, size) for size in (1, 2)]
    for each in stored:
        journal.keep_checkpoint(each)

    assert find_newest(journal, None).checkpoint == stored[1]


@pytest.mark.parametrize(
    "damage", ["SET note = 'x'", "SET size = 2", "SET size = 9 WHERE size = 3"]
)
def test_a_changed_checkpoint_does_not_count(
    journal: AuditTables, sqlite_url: str, clock: FakeClock, damage: str
) -> None:
    """It is reported, and the chain is verified and signed from its start."""
    journal.append(records(3))
    sealer(journal, clock).work()
    overruled(sqlite_url, f"UPDATE audit_checkpoints {damage}")
    again = sealer(journal, clock)
    with capture_logs() as logs:
        again.work()
        clock.advance(seconds=120)
        again.work()

    assert alerts(logs) == [(str(Alert.CHECKPOINT_FORGED), None)]
    assert again.checkpointer.checkpoint() in journal.checkpoints()
    assert 3 in [statement.size for statement in _ours(journal)]


def test_without_a_key_a_true_checkpoint_counts(journal: AuditTables) -> None:
    """A process without a key cannot verify: one that agrees with the chain counts."""
    journal.append(records(2))
    seal(journal)
    links = list(journal.sealed(0, 10))
    other = CheckpointKey.generate()
    true = checkpoint(links, 1, key=other)
    false = other.sign(ORIGIN, 2, b"x" * 32, START)
    for each in (true, false):
        journal.keep_checkpoint(each)

    assert find_newest(journal, None) == NewestCheckpoints(true, [], [false])


OLD, YOUNG = (new_record_id(START + timedelta(seconds=n)) for n in (0, 1))


HOURS_AGO = [new_record_id(START + timedelta(hours=-5, seconds=n)) for n in range(9)]


class Time:
    """A clock and a timer that tests set."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def clock(self) -> datetime:
        """Return the present."""
        return START + timedelta(seconds=self.seconds)

    def timer(self) -> float:
        """Return the seconds since the start."""
        return self.seconds


@pytest.fixture
def time() -> Time:
    """A time that stands still."""
    return Time()


@pytest.fixture
def alert(time: Time) -> SealingAlert:
    """An alert that goes to the log only."""
    return SealingAlert(Alerts(clock=time.clock))


@pytest.fixture
def monitor(time: Time, alert: SealingAlert) -> SealingMonitor:
    """A monitor that shares the alert."""
    return SealingMonitor(alert, time.timer)


def _alerts(
    time: Time, monitor: SealingMonitor, *seen: tuple[float, str | None]
) -> list[int]:
    """Observe at each of these seconds; return the waiting time of each alert."""
    with capture_logs() as logs:
        for time.seconds, oldest in seen:
            monitor.observe(oldest)
    return [each["seconds"] for each in logs if each["event"] == "alert"]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (((0, OLD), (19, OLD)), []),
        (((0, OLD), (21, OLD), (200, OLD), (320, OLD), (322, OLD)), [21, 322]),
        (((0, OLD), (15, None), (21, OLD), (40, OLD)), []),
        (((0, OLD), (15, YOUNG), (34, YOUNG)), []),
        (((0, YOUNG), (15, OLD), (21, OLD)), [21]),
        (((0, OLD), (31, OLD), (32, None), (33, YOUNG), (64, YOUNG)), [31, 31]),
        (((0, None), (99, None)), []),
        # A wrong clock: times of hours ago are not late while they are being sealed.
        (tuple((20 * n, each) for n, each in enumerate(HOURS_AGO)), []),
    ],
)
def test_the_monitor_alerts_when_the_oldest_record_stays(
    time: Time,
    monitor: SealingMonitor,
    seen: tuple[tuple[float, str | None], ...],
    expected: list[int],
) -> None:
    """The alert sounds after the same record was the oldest one for 20 seconds."""
    assert _alerts(time, monitor, *seen) == expected


@pytest.mark.parametrize("moves_on", [True, False], ids=["backlog", "stuck"])
def test_observers_that_disagree_cause_one_alert(
    time: Time, alert: SealingAlert, monitor: SealingMonitor, moves_on: bool
) -> None:
    """With a backlog or a wrong clock, only one of the two observers sees a problem."""
    with capture_logs() as logs:
        for second in range(290):
            time.seconds = second
            moving = new_record_id(START + timedelta(seconds=second))
            alert.report(timedelta(seconds=60 * moves_on), "sealer")
            monitor.observe(moving if moves_on else OLD)

    assert [each["event"] for each in logs].count("alert") == 1


def test_the_time_in_a_record_id() -> None:
    assert made_at(OLD) == START
    assert made_at("x") is None
    assert made_at("au_" + "f" * 32) is None
