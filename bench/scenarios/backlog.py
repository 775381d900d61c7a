"""
Refunds of one tenant, alone and beside a long queue of another, in two measurements.

First, all of 50,000 queued refunds can be paid: the worker pays both tenants in turns.
Then 30,000 wait for a limit of their tenant, which costs a few lines of the log.  The
measured client posts its refunds one after another, each until it is broadcast.
"""

import contextlib
import json
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.harness import Figure, Goal, Prepared, Scenario, Values
from bench.processes import children, resident_mb
from bench.refund_rates import percentile
from bench.service import BAD_REQUEST, SUBJECT, Service, refund_body, require_created
from bench.two_tenants import ABOVE_LIMIT, HOSTILE, two_tenants


_POSTS = 100
_BATCH, _REQUESTS, _CLIENTS = 500, 120, 4
"""More than 50,000 refunds, since the worker pays some while they are posted."""

_OVER_LIMIT = 60
"""Requests: 30,000 refunds, of which the daily limit lets at most one be paid."""

_SECONDS = 900.0
_MEDIAN, _SLOWEST = "POST to the broadcast, median", "POST to the broadcast, p99"
_LINES = "lines of the worker's log, while nothing else is paid"
_MOST = 2.0  # Times the same without the queue.
_MOST_LINES = 2.0
_PROCESSES = ("worker", "API")


def _beside(name: str) -> str:
    return f"{name}, beside the queue"


def _before(name: str) -> str:
    return f"{name}, before the refunds over a limit"


def _waiting(name: str) -> str:
    return f"{name}, beside 30,000 over a limit"


_PAID_FIGURES = (
    Figure(_MEDIAN, "ms"),
    Figure(_SLOWEST, "ms"),
    Figure(_beside(_MEDIAN), "ms", (Goal(_MEDIAN, at_most=_MOST),)),
    Figure(_beside(_SLOWEST), "ms", (Goal(_SLOWEST, at_most=_MOST),)),
    Figure("queued when the client begins", "refunds"),
    Figure("refunds of both, meanwhile", "1/s"),
    *(Figure(f"memory of the {name}", "MB") for name in _PROCESSES),
    *(Figure(_beside(f"memory of the {name}"), "MB") for name in _PROCESSES),
)

_WAITING_FIGURES = (
    *(Figure(_before(name), "ms") for name in (_MEDIAN, _SLOWEST)),
    *(
        Figure(_waiting(name), "ms", (Goal(_before(name), at_most=_MOST),))
        for name in (_MEDIAN, _SLOWEST)
    ),
    Figure(_LINES, "1/min", (Goal(_MOST_LINES, at_most=1.0),)),
)


class _Tenants:
    """What the two tenants send, and what it costs the service."""

    def __init__(self, service: Service, *, is_quick: bool) -> None:
        self.service = service
        self.is_quick = is_quick
        self._posts = 3 if is_quick else _POSTS
        self._batch = 5 if is_quick else _BATCH

    def post(self) -> list[float]:
        """Return how long each refund took to the broadcast."""
        body = json.dumps(refund_body("%08d"))
        raw = self.service.request("/v1/refunds", body, key="bench-%08d")
        run = self.service.send(raw, 1, _SECONDS, count=self._posts)
        require_created(run)
        return run.latencies_ms()

    def queue(self, requests: int, **changes: str) -> int:
        """
        Post refunds of the other tenant, with *changes*; return how many.

        Raises:
            RuntimeError: A request was not accepted.
        """
        requests = 2 if self.is_quick else requests
        members = [
            {
                "idempotency_key": f"queued-%08d-{member:03d}",
                **refund_body(f"%08d-{member:03d}"),
                **changes,
            }
            for member in range(self._batch)
        ]
        raw = self.service.request(
            "/v1/refunds/batch",
            json.dumps({"refunds": members}),
            token=self.service.token(HOSTILE),
        )
        run = self.service.send(raw, _CLIENTS, _SECONDS, count=requests)
        if refused := [s.status for s in run.samples if s.status >= BAD_REQUEST]:
            raise RuntimeError(f"the queue: {refused[0]}")
        return requests * self._batch

    def memory(self) -> dict[str, float]:
        """Return what the worker and the larger process of the API hold."""
        processes = self.service.stack.processes
        servers = children(processes["serve"].pid)
        sizes = (
            resident_mb(processes["worker"].pid),
            max(resident_mb(pid) for pid in servers),
        )
        return {
            f"memory of the {name}": size
            for name, size in zip(_PROCESSES, sizes, strict=True)
        }

    def log_lines(self) -> int:
        """Return how many lines the worker has written."""
        log = self.service.stack.logs()["worker"]
        return log.read_bytes().count(b"\n")


def _measure_paid(tenants: _Tenants, seconds: float) -> Values:
    """Return the times in milliseconds, and memory in megabytes."""
    service = tenants.service
    alone, memory = tenants.post(), tenants.memory()
    sent = service.sent_count()
    queued = tenants.queue(_REQUESTS) - (service.sent_count() - sent)
    sent, began = service.sent_count(), time.perf_counter()
    beside = tenants.post()
    spent = time.perf_counter() - began
    rate = (service.sent_count() - sent) / spent
    more = {_beside(name): size for name, size in tenants.memory().items()}
    for subject in (SUBJECT, HOSTILE):
        service.settle(_SECONDS, subject)
    return {
        _MEDIAN: statistics.median(alone),
        _SLOWEST: percentile(alone, 99),
        _beside(_MEDIAN): statistics.median(beside),
        _beside(_SLOWEST): percentile(beside, 99),
        "queued when the client begins": queued,
        "refunds of both, meanwhile": rate,
        **memory,
        **more,
    }


def _measure_waiting(tenants: _Tenants, seconds: float) -> Values:
    """Return the times in milliseconds, and the lines of the log in a minute."""
    before = tenants.post()
    tenants.queue(_OVER_LIMIT, amount=ABOVE_LIMIT)
    beside = tenants.post()
    tenants.service.settle(_SECONDS)
    lines = tenants.log_lines()
    minutes = 0.05 if tenants.is_quick else 2.0
    time.sleep(60 * minutes)
    return {
        _before(_MEDIAN): statistics.median(before),
        _before(_SLOWEST): percentile(before, 99),
        _waiting(_MEDIAN): statistics.median(beside),
        _waiting(_SLOWEST): percentile(beside, 99),
        _LINES: (tenants.log_lines() - lines) / minutes,
    }


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    with two_tenants(folder) as service:
        require_created(service.load(clients=2, seconds=60.0, count=20))
        service.settle()
        tenants = _Tenants(service, is_quick=is_quick)
        works = [partial(each, tenants) for each in (_measure_paid, _measure_waiting)]
        yield Prepared([*_PAID_FIGURES, *_WAITING_FIGURES], works)


SCENARIO = Scenario(
    "backlog", "A refund beside a long queue of another tenant, SQLite", _open, rounds=1
)
