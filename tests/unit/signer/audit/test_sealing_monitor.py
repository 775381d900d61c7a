"""Records that wait too long for their seal cause one alert per process."""

from datetime import datetime, timedelta

import pytest
from structlog.testing import capture_logs

from signer.alerts import Alerts
from signer.audit.sealer import SealingAlert, SealingMonitor
from signer.model.audit_record import made_at, new_record_id
from tests.support.audit import START


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
