"""
Refunds of one tenant, alone and beside 50,000 queued ones of another.

All of them can be paid: the worker pays both tenants in turns.  The measured client
posts its refunds one after another, each until it is broadcast.
"""

import contextlib
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from bench.harness import Figure, Goal, Prepared, Scenario, Values
from bench.processes import children, resident_mb
from bench.refund_rates import percentile
from bench.service import BAD_REQUEST, SUBJECT, Service, refund_body, require_created
from bench.two_tenants import HOSTILE, two_tenants


_POSTS = 100
_BATCH, _REQUESTS, _CLIENTS = 500, 120, 4
"""More than 50,000 refunds, since the worker pays some while they are posted."""

_SECONDS = 900.0
_MEDIAN, _SLOWEST = "POST to the broadcast, median", "POST to the broadcast, p99"
_MOST = 2.0  # Times the same without the queue.
_PROCESSES = ("worker", "API")


def _beside(name: str) -> str:
    return f"{name}, beside the queue"


_FIGURES = (
    Figure(_MEDIAN, "ms"),
    Figure(_SLOWEST, "ms"),
    Figure(_beside(_MEDIAN), "ms", (Goal(_MEDIAN, at_most=_MOST),)),
    Figure(_beside(_SLOWEST), "ms", (Goal(_SLOWEST, at_most=_MOST),)),
    Figure("queued when the client begins", "refunds"),
    Figure("refunds of both, meanwhile", "1/s"),
    *(Figure(f"memory of the {name}", "MB") for name in _PROCESSES),
    *(Figure(_beside(f"memory of the {name}"), "MB") for name in _PROCESSES),
)


class _Measurement:
    def __init__(self, service: Service, *, is_quick: bool) -> None:
        self._service = service
        self._posts = 3 if is_quick else _POSTS
        self._requests = 2 if is_quick else _REQUESTS
        self._batch = 5 if is_quick else _BATCH

    def __call__(self, seconds: float) -> Values:
        """Return the times in milliseconds, and memory in megabytes."""
        alone, memory = self._post(), self._memory()
        sent = self._service.sent_count()
        self._queue()
        queued = self._requests * self._batch - (self._service.sent_count() - sent)
        sent, began = self._service.sent_count(), time.perf_counter()
        beside = self._post()
        spent = time.perf_counter() - began
        rate = (self._service.sent_count() - sent) / spent
        more = {_beside(name): size for name, size in self._memory().items()}
        for subject in (SUBJECT, HOSTILE):
            self._service.settle(_SECONDS, subject)
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

    def _post(self) -> list[float]:
        """Return how long each refund took to the broadcast."""
        body = json.dumps(refund_body("%08d"))
        raw = self._service.request("/v1/refunds", body, key="bench-%08d")
        run = self._service.send(raw, 1, _SECONDS, count=self._posts)
        require_created(run)
        return run.latencies_ms()

    def _queue(self) -> None:
        """
        Post the refunds of the other tenant.

        Raises:
            RuntimeError: A request was not accepted.
        """
        members = [
            {
                "idempotency_key": f"queued-%08d-{member:03d}",
                **refund_body(f"%08d-{member:03d}"),
            }
            for member in range(self._batch)
        ]
        raw = self._service.request(
            "/v1/refunds/batch",
            json.dumps({"refunds": members}),
            token=self._service.token(HOSTILE),
        )
        run = self._service.send(raw, _CLIENTS, _SECONDS, count=self._requests)
        if refused := [s.status for s in run.samples if s.status >= BAD_REQUEST]:
            raise RuntimeError(f"the queue: {refused[0]}")

    def _memory(self) -> dict[str, float]:
        """Return what the worker and the larger process of the API hold."""
        processes = self._service.stack.processes
        servers = children(processes["serve"].pid)
        sizes = (
            resident_mb(processes["worker"].pid),
            max(resident_mb(pid) for pid in servers),
        )
        return {
            f"memory of the {name}": size
            for name, size in zip(_PROCESSES, sizes, strict=True)
        }


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    with two_tenants(folder) as service:
        require_created(service.load(clients=2, seconds=60.0, count=20))
        service.settle()
        yield Prepared(_FIGURES, [_Measurement(service, is_quick=is_quick)])


SCENARIO = Scenario(
    "backlog", "A refund beside 50,000 of another tenant, SQLite", _open, rounds=1
)
