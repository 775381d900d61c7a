"""Refused requests are counted for all processes together, in few commits."""

from collections.abc import Callable

from structlog.testing import capture_logs

from api.metrics.refusals import FLUSH_SECONDS, RefusalMeter
from backends.sql import SQLStore
from signer.errors import (
    InvalidInputError,
    PolicyViolationError,
    StoreUnavailableError,
    TenantBlockedError,
)
from tests.api.support import SettableClock
from tests.support.refunds import altered


def _refuse(meter: RefusalMeter, times: int) -> None:
    for _ in range(times):
        meter.refused(PolicyViolationError("not this", rule="network"))
        meter.refused(InvalidInputError("not a number", field="amount"))


def test_processes_share_the_counts(
    sqlite_store: SQLStore, clock: SettableClock
) -> None:
    """Each adds what it has counted since the last time."""
    meters = [RefusalMeter(sqlite_store, clock) for _ in range(2)]
    for times, meter in enumerate((*meters, *meters), 1):
        _refuse(meter, times)
        meter.flush()
        meter.flush()

    assert sqlite_store.refusal_counts() == {
        ("policy-violation", "network"): 10,
        ("invalid-input", ""): 10,
    }


def _turns(*done: bool) -> Callable[[float], bool]:
    """Return a wait that ends after these turns."""
    turns = iter(done)

    def wait(seconds: float) -> bool:
        assert seconds == FLUSH_SECONDS
        return next(turns)

    return wait


def test_counts_survive_an_outage(sqlite_store: SQLStore, clock: SettableClock) -> None:
    errors = [StoreUnavailableError("down")]

    def count(*arguments: object) -> None:
        if errors:
            raise errors.pop()
        sqlite_store.count_refusals(*arguments)  # type: ignore[arg-type]

    meter = RefusalMeter(altered(sqlite_store, count_refusals=count), clock)
    meter.refused(TenantBlockedError("blocked"))
    with capture_logs() as logs:
        meter.run(_turns(False, False, True))

    assert logs == [
        {
            "event": "refusals-not-counted",
            "log_level": "warning",
            "code": "store-unavailable",
        }
    ]
    assert sqlite_store.refusal_counts() == {("tenant-blocked", ""): 1}


def test_the_last_counts_are_stored_at_the_end(
    sqlite_store: SQLStore, clock: SettableClock
) -> None:
    """If the database answers; otherwise the process ends all the same."""
    meter = RefusalMeter(sqlite_store, clock)
    _refuse(meter, 1)
    meter._flush_at_exit()
    down = altered(sqlite_store, count_refusals=StoreUnavailableError("down"))
    other = RefusalMeter(down, clock)
    _refuse(other, 1)
    other._flush_at_exit()

    assert sum(sqlite_store.refusal_counts().values()) == 2
