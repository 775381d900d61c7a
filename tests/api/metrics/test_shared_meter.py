"""Refusals and decisions are counted for all processes together, in few commits."""

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from api.metrics import metric_names
from api.metrics.shared_meter import FLUSH_SECONDS, SharedMeter, read_shared
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
        ("hotwallet_refusals_total", "policy-violation"): 10,
        ("hotwallet_refusals_total", "invalid-input"): 10,
        ("hotwallet_policy_decisions_total", "sweep", "allow", "sweep"): 4,
        ("hotwallet_signatures_total", "aws-kms", "success"): 4,
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
    assert sqlite_store.shared_counts() == {
        ("hotwallet_refusals_total", "tenant-blocked"): 1
    }


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

    assert sqlite_store.shared_counts() == {
        ("hotwallet_refusals_total", "tenant-blocked"): 1
    }


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

    found = read_shared(counts)
    assert found.of(metric_names.HTTP_REQUESTS) == {
        ("GET", route, "200"): 4,
        ("other", "none", "404"): 2,
    }
    (times,) = found.families([metric_names.HTTP_SECONDS])
    samples = {
        (each.name[31:], each.labels["route"], each.labels.get("le")): each.value
        for each in times.samples
    }
    assert samples["sum", route, None] == pytest.approx(0.608)
    for bound in ("0.01", "0.025", "0.05", "0.1", "0.25"):
        assert samples["bucket", route, bound] == 2
    for bound in ("0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "+Inf"):
        assert samples["bucket", route, bound] == 4
    assert samples["bucket", "none", "30.0"] == 0
    assert samples["bucket", "none", "+Inf"] == 2


def test_what_another_program_wrote_is_no_route() -> None:
    """Nor a method or a status: labels stay bounded."""
    bad = {
        ("hotwallet_http_requests_total", "GET", "no-slash", "200"): 1,
        ("hotwallet_http_requests_total", "BREW", "/x", "200"): 1,
        ("hotwallet_http_requests_total", "GET", "/x", "999"): 1,
        ("hotwallet_http_requests_total", "GET", "/x" * 99, "200"): 1,
        ("hotwallet_http_requests_total", "GET", "/x"): 1,
        ("hotwallet_http_request_seconds", "evil", "0.01"): 1,
        ("else", "GET", "/x", "200"): 1,
    }

    assert read_shared(bad).of(metric_names.HTTP_REQUESTS) == {}
    (times,) = read_shared(bad).families([metric_names.HTTP_SECONDS])
    assert times.samples == []
