"""Refusals and decisions are counted for all processes together, in few commits."""

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from api.metrics.shared_meter import (
    ANSWERED,
    FLUSH_SECONDS,
    SharedMeter,
    read_counts,
    read_times,
)
from backends.sql import SQLStore
from signer.errors import (
    InvalidInputError,
    PolicyViolationError,
    StoreUnavailableError,
    TenantBlockedError,
)
from signer.model.decision import Verdict
from signer.policy.facts import Path
from tests.api.support import SettableClock
from tests.support.refunds import altered


def _refuse(meter: SharedMeter, times: int) -> None:
    for _ in range(times):
        meter.refused(PolicyViolationError("not this", rule="network"))
        meter.refused(InvalidInputError("not a number", field="amount"))


def test_processes_share_the_counts(
    sqlite_store: SQLStore, clock: SettableClock
) -> None:
    """Each adds what it has counted since the last time."""
    meters = [SharedMeter() for _ in range(2)]
    for times, meter in enumerate((*meters, *meters), 1):
        _refuse(meter, times)
        meter.decided(Path.SWEEP, Verdict.ALLOW, "sweep")
        meter.signed("aws-kms", "success", 0.1, attempts=2, throttled=1)
        meter.flush(sqlite_store, clock)
        meter.flush(sqlite_store, clock)

    assert sqlite_store.shared_counts() == {
        ("refused", "policy-violation"): 10,
        ("refused", "invalid-input"): 10,
        ("decided", "sweep", "allow", "sweep"): 4,
        ("signed", "aws-kms", "success"): 4,
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

    def add(*arguments: object) -> None:
        if errors:
            raise errors.pop()
        sqlite_store.add_counts(*arguments)  # type: ignore[arg-type]

    meter = SharedMeter()
    meter.refused(TenantBlockedError("blocked"))
    failing = altered(sqlite_store, add_counts=add)
    with capture_logs() as logs:
        meter.run(failing, clock, _turns(False, False, True))

    assert logs == [
        {
            "event": "counts-not-stored",
            "log_level": "warning",
            "code": "store-unavailable",
        }
    ]
    assert sqlite_store.shared_counts() == {("refused", "tenant-blocked"): 1}


def test_the_last_counts_are_stored_at_the_end(
    sqlite_store: SQLStore, clock: SettableClock
) -> None:
    """If the database answers; otherwise the process ends all the same."""
    meter, other = SharedMeter(), SharedMeter()
    for each in (meter, other):
        each.refused(TenantBlockedError("blocked"))
    meter.flush_at_exit(sqlite_store, clock)
    down = altered(sqlite_store, add_counts=StoreUnavailableError("down"))
    other.flush_at_exit(down, clock)

    assert sqlite_store.shared_counts() == {("refused", "tenant-blocked"): 1}


def test_requests_are_counted_by_route_and_status(
    sqlite_store: SQLStore, clock: SettableClock
) -> None:
    """Of all processes; an unknown method or path is one label for all."""
    route = "/v1/refunds/{refund_id}"
    for meter in (SharedMeter(), SharedMeter()):
        meter.answered("GET", route, 200, 0.004)
        meter.answered("GET", route, 200, 0.3)
        meter.answered("BREW", None, 404, 99.0)
        meter.flush(sqlite_store, clock)
    counts = sqlite_store.shared_counts()

    assert read_counts(counts, ANSWERED) == {
        ("GET", route, "200"): 4,
        ("other", "none", "404"): 2,
    }
    buckets, seconds = read_times(counts)[route]
    assert seconds == pytest.approx(0.608)
    assert dict(buckets) == {
        **dict.fromkeys(("0.01", "0.025", "0.05", "0.1", "0.25"), 2),
        **dict.fromkeys(("0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "+Inf"), 4),
    }
    (last, _) = read_times(counts)["none"]
    assert dict(last)["30.0"] == 0
    assert dict(last)["+Inf"] == 2


def test_what_another_program_wrote_is_no_route() -> None:
    """Nor a method or a status: labels stay bounded."""
    bad = {
        ("http", "GET", "no-slash", "200"): 1,
        ("http", "BREW", "/x", "200"): 1,
        ("http", "GET", "/x", "999"): 1,
        ("http", "GET", "/x" * 99, "200"): 1,
        ("http", "GET", "/x"): 1,
        ("http-time", "evil", "0.01"): 1,
        ("else", "GET", "/x", "200"): 1,
    }

    assert read_counts(bad, ANSWERED) == {}
    assert read_times(bad) == {}
