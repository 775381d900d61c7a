"""Refunds are dated by the ledger's clock (R30)."""

from datetime import UTC, datetime, timedelta

import pytest

from signer.errors import StoreUnavailableError
from signer.ports.clock import READ_EVERY_SECONDS, LedgerClock


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Host:
    """A host's monotonic timer, and a ledger that may not answer."""

    def __init__(self) -> None:
        self.seconds = 7000.0
        self.ledger = NOON
        self.answers = True
        self.reads = 0
        self.clock = LedgerClock(self._read, lambda: self.seconds)

    def sleep(self, seconds: float, ledger_seconds: float | None = None) -> None:
        """Let time pass here, and another time at the ledger."""
        self.seconds += seconds
        passed = seconds if ledger_seconds is None else ledger_seconds
        self.ledger += timedelta(seconds=passed)

    def _read(self) -> datetime:
        self.reads += 1
        if not self.answers:
            raise StoreUnavailableError("the ledger does not answer")
        return self.ledger


@pytest.fixture
def host() -> Host:
    """Return a host that was started long ago."""
    return Host()


def test_the_time_is_the_ledgers(host: Host) -> None:
    """It goes on between two reads, which are a minute apart."""
    times = []
    for _ in range(4):
        times.append(host.clock())
        host.sleep(READ_EVERY_SECONDS / 2)

    assert times == [NOON + timedelta(seconds=30 * n) for n in range(4)]
    assert host.reads == 2


def test_a_difference_is_corrected_within_a_minute(host: Host) -> None:
    """The ledger's clock may be set, or run faster."""
    host.clock()
    host.sleep(READ_EVERY_SECONDS - 1, ledger_seconds=3600)
    before = host.clock()
    host.sleep(1)

    assert before == NOON + timedelta(seconds=59)
    assert host.clock() == host.ledger


def test_the_last_read_counts_while_the_ledger_does_not_answer(host: Host) -> None:
    """A ledger that does not answer is not asked for every time."""
    host.clock()
    host.answers = False
    host.sleep(READ_EVERY_SECONDS)

    assert [host.clock() for _ in range(9)] == [host.ledger] * 9
    assert host.reads == 2


def test_without_any_read_there_is_no_time(host: Host) -> None:
    """The next call asks again."""
    host.answers = False
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            host.clock()
    host.answers = True

    assert host.clock() == NOON
