"""The sealer: everything finds its place, and what was signed stays what it was."""

import sqlite3
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from structlog.testing import capture_logs

from backends.sql.audit import SEALING_LOCK, AuditTables
from backends.sql.database import Database
from signer.alerts import Alert, Alerts
from signer.audit.chain_reader import BATCH, BrokenChainError, ChainReader, newest
from signer.audit.checkpointer import WALK_SECONDS, CheckpointSettings
from signer.audit.checkpoints import CheckpointKey, Statement, Verifier, read
from signer.audit.export import export
from signer.audit.sealer import LOOK_SECONDS, REST_SECONDS, Sealer
from signer.audit.verify import verify
from signer.errors import InvalidInputError, StoreError
from signer.model.audit_record import Record
from tests.support.audit import (
    KEY,
    ORIGIN,
    START,
    checkpoint,
    overruled,
    record,
    records,
    wiped,
)
from tests.support.refunds import altered
from tests.unit.signer.audit.sealers import Clock, alerts, sealer, sizes


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


def _signed(journal: AuditTables) -> list[Statement]:
    verifier = Verifier(KEY.public_pem())
    return [verifier.verify(each.note) for each in journal.checkpoints()]


def test_seals_everything(journal: AuditTables, clock: Clock) -> None:
    """One pass seals all that waits, however much that is, and signs for it."""
    journal.append(records(2345))
    sealed = sealer(journal, clock).work()

    assert sealed == 2345
    assert journal.oldest_unsealed() is None
    assert _signed(journal) == [Statement(ORIGIN, 2345, journal.head()[1], START)]


def test_signs_now_and_then(journal: AuditTables, clock: Clock) -> None:
    """A checkpoint follows after a minute, or enough records, and never for nothing."""
    ours = sealer(journal, clock, records=10)
    for count, seconds in ((1, 0), (1, 59), (0, 1), (0, 120), (9, 1), (1, 1), (1, -90)):
        clock.pass_by(seconds)
        journal.append(records(count))
        ours.work()

    assert sizes(journal) == [1, 2, 12, 13]


def test_signs_for_the_last_ones_too(journal: AuditTables, clock: Clock) -> None:
    """What came too soon for a checkpoint gets one in time, though nothing follows."""
    signing = CheckpointSettings(KEY, ORIGIN, every=timedelta(seconds=5))
    ours = Sealer(journal, signing, Alerts(clock=clock), clock)
    for count, seconds in ((1, 0), (1, 1), (0, 3), (0, 2)):
        clock.pass_by(seconds)
        journal.append(records(count))
        ours.work()

    assert sizes(journal) == [1, 2]


def test_another_process_signs_as_well(journal: AuditTables, clock: Clock) -> None:
    """Who sees that another one has signed does not sign again."""
    ours, theirs = sealer(journal, clock), sealer(journal, clock)
    journal.append(records(1))
    ours.work()
    theirs.work()
    clock.pass_by(60)
    journal.append(records(1))
    ours.work()
    theirs.work()

    assert sizes(journal) == [1, 2]


def test_signs_for_what_a_killed_one_sealed(journal: AuditTables, clock: Clock) -> None:
    """Whoever dies between seal and checkpoint leaves that to the next one."""
    journal.append(records(3))
    journal.seal(2)
    sealer(journal, clock).work()

    assert sizes(journal) == [3]
    walk = ChainReader(journal)
    assert walk.go_on()
    assert (walk.size, walk.head) == journal.head()


def test_without_a_key_it_seals(journal: AuditTables, clock: Clock) -> None:
    """In development there may be no key, and then there are no checkpoints."""
    journal.append(records(3))
    ours = Sealer(journal, clock=clock)

    assert ours.work() == 3
    assert ours.checkpoint() is None
    assert sizes(journal) == []


def test_tells_the_log(journal: AuditTables, clock: Clock) -> None:
    """Each checkpoint is told to the log as it is, so that it is kept elsewhere."""
    journal.append(records(3))
    with capture_logs() as logs:
        sealer(journal, clock).work()

    (told,) = [each for each in logs if each["event"] == "audit-checkpoint"]
    assert told["size"] == 3
    assert told["note"] == journal.checkpoints()[0].note


def test_what_it_makes_can_be_verified(journal: AuditTables, clock: Clock) -> None:
    """An export of what was sealed and signed, in many passes, holds."""
    ours = sealer(journal, clock, records=5)
    for count in (3, 0, 4, 1, 12):
        journal.append(records(count))
        ours.work()
    journal.append(records(2))
    verdict = verify(export(journal, ORIGIN), Verifier(KEY.public_pem()))

    assert verdict.finding is None
    assert (verdict.records, verdict.checkpoints, verdict.signed) == (20, 3, 20)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("UPDATE audit_records SET hash = x'00' WHERE sequence = 3", 3),
        ("DELETE FROM audit_records WHERE sequence = 3", 3),
        ("DELETE FROM audit_records WHERE sequence > 1", 3),
        ("UPDATE audit_checkpoints SET note = 'x'", 3),
        ("UPDATE audit_checkpoints SET size = 2", 2),
    ],
)
def test_signs_for_nothing_that_contradicts(
    journal: AuditTables, sqlite_url: str, clock: Clock, damage: str, expected: int
) -> None:
    """A chain that is not what was signed is told of; it is sealed on, not signed."""
    journal.append(records(3))
    sealer(journal, clock).work()
    overruled(sqlite_url, damage)
    again = sealer(journal, clock)
    sealed = []
    with capture_logs() as logs:
        for number in (4, 5):
            clock.pass_by(120)
            journal.append([record(number, at=clock())])
            sealed.append(again.work())

    assert alerts(logs) == [(str(Alert.CHAIN_BROKEN), expected)]
    assert sealed == [1, 1]
    assert len(sizes(journal)) == 1


def test_signs_for_nothing_that_does_not_follow(
    journal: AuditTables, sqlite_url: str, clock: Clock
) -> None:
    """A record that was changed before it was signed for is found when it is."""
    ours = sealer(journal, clock)
    journal.append(records(3))
    ours.work()
    journal.append(records(3))
    ours.work()
    overruled(sqlite_url, "UPDATE audit_records SET body = '{}' WHERE sequence = 5")
    clock.pass_by(60)
    with capture_logs() as logs:
        ours.work()

    assert alerts(logs) == [(str(Alert.CHAIN_BROKEN), 5)]
    assert sizes(journal) == [3]


def test_remembers_what_it_signed(
    journal: AuditTables, sqlite_url: str, clock: Clock
) -> None:
    """While it runs, a truncated chain is found though its checkpoint went as well."""
    ours = sealer(journal, clock)
    journal.append(records(3))
    ours.work()
    overruled(
        sqlite_url,
        "DELETE FROM audit_records WHERE sequence > 1",
        "DELETE FROM audit_checkpoints",
    )
    clock.pass_by(60)
    journal.append(records(4))
    with capture_logs() as logs:
        ours.work()

    assert alerts(logs) == [(str(Alert.CHAIN_BROKEN), 3)]
    with pytest.raises(BrokenChainError):
        ours.checkpoint()


def test_a_gap_is_found(journal: AuditTables, sqlite_url: str) -> None:
    """A record that was taken out of the middle is missed by its number."""
    journal.append(records(4))
    journal.seal()
    overruled(sqlite_url, "DELETE FROM audit_records WHERE sequence = 2")

    with pytest.raises(BrokenChainError, match="missing at record 2"):
        ChainReader(journal).go_on()


def test_a_new_key_goes_on(journal: AuditTables, clock: Clock) -> None:
    """After the key was changed that is told, and the new one signs for all of it."""
    journal.append(records(3))
    sealer(journal, clock, key=CheckpointKey.generate()).work()
    clock.pass_by(60)
    journal.append(records(1))
    with capture_logs() as logs:
        sealer(journal, clock).work()

    assert [each["event"] for each in logs] == [
        "audit-checkpoint-of-another-key",
        "audit-checkpoint",
    ]
    assert sizes(journal) == [3, 4]


def test_a_checkpoint_when_asked(journal: AuditTables, clock: Clock) -> None:
    """Somebody may have one made at once; there is none of nothing."""
    ours = sealer(journal, clock)
    with pytest.raises(InvalidInputError):
        ours.checkpoint()
    journal.append(records(2))
    ours.work()
    journal.append(records(1))
    ours.work()
    made = ours.checkpoint()

    assert made is not None
    assert read(made.note).size == 3
    assert made in journal.checkpoints()


@pytest.fixture
def refusing(sqlite_url: str) -> str:
    """Return the URL of a store that takes records, and lets none be sealed."""
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as file:
        file.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON audit_records"
            " BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    file.close()
    return sqlite_url


@pytest.mark.usefixtures("refusing")
def test_late_records_are_an_alert(journal: AuditTables, clock: Clock) -> None:
    """When nothing can be sealed for long that is told, and again after a while."""
    journal.append(records(1))
    ours = sealer(journal, clock)
    with capture_logs() as logs:
        for seconds in (29, 2, 60, 240, 1):
            clock.pass_by(seconds)
            with pytest.raises(StoreError):
                ours.work()

    late = str(Alert.SEALING_LATE)
    assert alerts(logs) == [(late, 31), (late, 331)]


def test_sealed_late_is_sealed(journal: AuditTables, clock: Clock) -> None:
    """Records that waited while nothing ran are no alert: they are sealed at once."""
    journal.append(records(1))
    clock.pass_by(3600)
    with capture_logs() as logs:
        sealed = sealer(journal, clock).work()

    assert sealed == 1
    assert alerts(logs) == []


@pytest.mark.usefixtures("refusing")
def test_alerts_reach_the_log_anyhow(journal: AuditTables, clock: Clock) -> None:
    """Without anybody to tell, the log is told."""
    journal.append([record(at=START - timedelta(hours=1)), record()])
    with capture_logs() as logs, pytest.raises(StoreError):
        Sealer(journal, clock=clock).work()

    assert alerts(logs) == [(str(Alert.SEALING_LATE), 3600)]


def test_late_while_another_one_seals(postgresql_url: str, clock: Clock) -> None:
    """A process that has the lock and does nothing is noticed by the others."""
    database = Database(wiped(postgresql_url), pool_size=1, timeout=5.0)
    journal = AuditTables(database)
    journal.append(records(1))
    clock.pass_by(31)
    ours = sealer(journal, clock)
    with capture_logs() as logs:
        with psycopg.connect(postgresql_url) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s)", [SEALING_LOCK])
            busy = ours.work()
        free = ours.work()
    database.close()

    assert (busy, free) == (0, 1)
    assert alerts(logs) == [(str(Alert.SEALING_LATE), 31)]


@pytest.mark.usefixtures("refusing")
def test_a_name_that_is_none_is_not_late(journal: AuditTables, clock: Clock) -> None:
    """Of a record with a name that holds no time nobody knows how late it is."""
    journal.append([Record("x", "{}")])
    clock.pass_by(3600)
    with capture_logs() as logs, pytest.raises(StoreError):
        sealer(journal, clock).work()

    assert alerts(logs) == []


def test_runs_through_failures(
    journal: AuditTables, sqlite_url: str, clock: Clock
) -> None:
    """A store that refuses is told of, and tried again; nothing ends the thread."""
    journal.append(records(1))
    overruled(sqlite_url, "ALTER TABLE audit_records RENAME TO elsewhere")
    passes = iter([False, True])

    def wait(seconds: float) -> bool:
        stop = next(passes)
        if not stop:
            overruled(sqlite_url, "ALTER TABLE elsewhere RENAME TO audit_records")
        return stop

    with capture_logs() as logs:
        sealer(journal, clock).run(wait)

    assert [each["event"] for each in logs] == [
        "audit-sealing-failed",
        "audit-checkpoint",
    ]
    assert logs[0]["code"] == StoreError.code


class Stopwatch:
    """A timer that moves on by *step* whenever somebody reads it."""

    def __init__(self, step: float) -> None:
        self.step = step
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time, in seconds."""
        self.now += self.step
        return self.now


def test_a_bug_does_not_end_it(journal: AuditTables, clock: Clock) -> None:
    """Whatever a look ends in, it is told as an error, and the next look follows."""

    def broken() -> None:
        raise ZeroDivisionError

    ours = Sealer(altered(journal, oldest_unsealed=broken), clock=clock)
    passes = iter([False, True])
    with capture_logs() as logs:
        ours.run(lambda seconds: next(passes))

    assert [each["event"] for each in logs] == ["audit-sealing-failed"] * 2
    assert [each["log_level"] for each in logs] == ["error"] * 2
    assert logs[0]["code"] == "internal-error"


@pytest.mark.parametrize(
    ("taken", "rest"), [(0.1, LOOK_SECONDS - 0.1), (5.0, REST_SECONDS)]
)
def test_looks_at_a_steady_pace(
    journal: AuditTables, clock: Clock, taken: float, rest: float
) -> None:
    """What a look has taken is not waited for again, and some rest there always is."""
    waited = list[float]()
    ours = Sealer(journal, clock=clock, timer=Stopwatch(taken))

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return True

    ours.run(wait)

    assert waited == pytest.approx([rest])


def _behind(journal: AuditTables, batches: int) -> None:
    """Let so many batches of records be sealed, and nobody sign for them."""
    journal.append(records(batches * BATCH))
    while journal.seal(BATCH):
        pass


def test_seals_while_it_walks(journal: AuditTables, clock: Clock) -> None:
    """However far behind the last checkpoint is, records are sealed at every look."""
    _behind(journal, 3)
    ours = Sealer(
        journal,
        CheckpointSettings(KEY, ORIGIN),
        clock=clock,
        timer=Stopwatch(WALK_SECONDS),
    )
    sealed, signed = [], []
    for number in range(5):
        journal.append([record(number, at=START + timedelta(hours=number + 1))])
        sealed.append(ours.work())
        signed.append(sizes(journal))

    assert sealed == [1, 1, 1, 1, 1]
    assert signed[:3] == [[], [], []]
    assert signed[3] == [3 * BATCH + 4]
    assert ChainReader(journal).go_on()


def test_walks_on_though_nothing_comes(journal: AuditTables, clock: Clock) -> None:
    """A way that was begun is gone to its end, whether or not there are new records."""
    _behind(journal, 2)
    ours = Sealer(
        journal,
        CheckpointSettings(KEY, ORIGIN),
        clock=clock,
        timer=Stopwatch(WALK_SECONDS),
    )
    for _ in range(3):
        ours.work()

    assert sizes(journal) == [2 * BATCH]


def test_leaves_a_walk_that_another_one_ended(
    journal: AuditTables, clock: Clock
) -> None:
    """Who is on the way when another process signs goes on from that checkpoint."""
    _behind(journal, 3)
    ours = Sealer(
        journal,
        CheckpointSettings(KEY, ORIGIN),
        clock=clock,
        timer=Stopwatch(WALK_SECONDS),
    )
    ours.work()
    sealer(journal, clock).work()
    ours.work()
    clock.pass_by(60)
    journal.append([record(at=clock())])
    ours.work()

    assert sizes(journal) == [3 * BATCH, 3 * BATCH + 1]


def test_a_break_on_the_way_is_found(
    journal: AuditTables, sqlite_url: str, clock: Clock
) -> None:
    """A chain that breaks in a later piece is told of, and not signed for."""
    _behind(journal, 2)
    ours = Sealer(
        journal,
        CheckpointSettings(KEY, ORIGIN),
        clock=clock,
        timer=Stopwatch(WALK_SECONDS),
    )
    ours.work()
    overruled(sqlite_url, "UPDATE audit_records SET body = '{}' WHERE sequence = 1500")
    with capture_logs() as logs:
        for _ in range(3):
            ours.work()

    assert alerts(logs) == [(str(Alert.CHAIN_BROKEN), 1500)]
    assert sizes(journal) == []


def test_finds_the_newest_far_behind(journal: AuditTables, clock: Clock) -> None:
    """However far the chain has grown since, the last checkpoint is found."""
    journal.append(records(1200))
    journal.seal(2000)
    links = list(journal.sealed(0, 10))
    assert newest(journal) is None
    kept = [checkpoint(links, size) for size in (1, 2)]
    for each in kept:
        journal.keep_checkpoint(each)

    assert newest(journal) == kept[1]


def test_without_a_key_it_still_looks(journal: AuditTables, clock: Clock) -> None:
    """A process without the key believes no less in what another one signed."""
    journal.append(records(2))
    sealer(journal, clock).work()
    with capture_logs() as logs:
        Sealer(journal, clock=clock).work()

    assert logs == []


def test_a_checkpoint_of_more_is_handed_out(
    journal: AuditTables, sqlite_url: str, clock: Clock
) -> None:
    """An export of a chain that lost its tail brings the proof of that with it."""
    journal.append(records(3))
    sealer(journal, clock).work()
    overruled(sqlite_url, "DELETE FROM audit_records WHERE sequence = 3")
    found = verify(export(journal, ORIGIN), Verifier(KEY.public_pem())).finding

    assert found is not None
    assert (found.code, found.sequence) == ("missing", 3)


def test_an_export_is_of_one_moment(journal: AuditTables, clock: Clock) -> None:
    """What is sealed while somebody exports is left for the next export."""
    ours = sealer(journal, clock)
    journal.append(records(2))
    ours.work()
    lines = export(journal, ORIGIN)
    told = [next(lines)]
    journal.append(records(3))
    ours.work()
    verdict = verify([*told, *lines], Verifier(KEY.public_pem()))

    assert (verdict.finding, verdict.records) == (None, 2)
