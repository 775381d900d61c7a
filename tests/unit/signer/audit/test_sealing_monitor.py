"""Records that wait too long: told of by those who seal, and by those who only look."""

from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from signer.alerts import Alerts
from signer.audit.sealing_monitor import SealingAlert, SealingMonitor, made_at
from signer.model.audit_record import new_record_id


START = datetime(2026, 1, 1, tzinfo=UTC)

OLD, YOUNG = (new_record_id(START + timedelta(seconds=n)) for n in (0, 1))


class Time:
    """A clock and a timer that are put on by hand."""

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
def lateness(time: Time) -> SealingAlert:
    """Whoever tells of late records, to the log alone."""
    return SealingAlert(Alerts(clock=time.clock), time.clock)


def _told(
    time: Time, onlooker: SealingMonitor, *seen: tuple[float, str | None]
) -> list[int]:
    """Look at each of these seconds; return for how long was waited at each alert."""
    with capture_logs() as logs:
        for time.seconds, oldest in seen:
            onlooker.look(oldest)
    return [each["seconds"] for each in logs if each["event"] == "alert"]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (((0, OLD), (29, OLD)), []),
        (((0, OLD), (31, OLD), (200, OLD), (330, OLD), (332, OLD)), [31, 332]),
        (((0, OLD), (20, None), (31, OLD), (60, OLD)), []),
        (((0, OLD), (20, YOUNG), (40, YOUNG)), []),
        (((0, YOUNG), (20, OLD), (31, OLD)), [31]),
        (((0, OLD), (31, OLD), (32, None), (33, YOUNG), (64, YOUNG)), [31, 31]),
        (((0, None), (99, None)), []),
    ],
)
def test_who_only_looks_notices(
    time: Time,
    lateness: SealingAlert,
    seen: tuple[tuple[float, str | None], ...],
    expected: list[int],
) -> None:
    """The same record as the oldest for 30 s is an alert; one that moves on is none."""
    assert _told(time, SealingMonitor(lateness, time.timer), *seen) == expected


@pytest.mark.parametrize("moves_on", [True, False], ids=["backlog", "stuck"])
def test_witnesses_who_differ_are_told_of_once(
    time: Time, lateness: SealingAlert, moves_on: bool
) -> None:
    """A backlog, or a clock that is wrong: one alert, though one sees nothing late."""
    onlooker = SealingMonitor(lateness, time.timer)
    with capture_logs() as logs:
        for second in range(290):
            time.seconds = second
            moving = new_record_id(START + timedelta(seconds=second))
            lateness.note(timedelta(seconds=60 * moves_on), "sealer")
            onlooker.look(moving if moves_on else OLD)

    assert [each["event"] for each in logs].count("alert") == 1


def test_a_wrong_clock_calls_nobody(time: Time, lateness: SealingAlert) -> None:
    """Records that look hours old are none too late while they are being sealed."""
    onlooker = SealingMonitor(lateness, time.timer)
    hours_ago = [
        new_record_id(START + timedelta(hours=-5, seconds=n)) for n in range(9)
    ]
    seen = [(float(20 * n), id_) for n, id_ in enumerate(hours_ago)]

    assert _told(time, onlooker, *seen) == []


def test_one_alert_whoever_notices(time: Time, lateness: SealingAlert) -> None:
    """Sealer and onlooker of one process share what they have told."""
    onlooker = SealingMonitor(lateness, time.timer)
    onlooker.look(OLD)
    time.seconds = 31
    with capture_logs() as logs:
        lateness.note(timedelta(seconds=31), "sealer")
        onlooker.look(OLD)

    assert [each["event"] for each in logs] == ["alert"]


def test_a_name_that_holds_no_time() -> None:
    """A record's name says when it was made, if it is one that we gave."""
    assert made_at(OLD) == START
    assert made_at("x") is None
    assert made_at("au_" + "f" * 32) is None
