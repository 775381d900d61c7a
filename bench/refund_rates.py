"""Refunds a second and latencies of a running service, against the non-durable loop."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from bench.devices import Token
from bench.harness import Figure, Goal, Values, Work
from bench.service import Service, require_created
from bench.timing import durable_page, throughput
from bench.transfer_loop import TransferLoop


CLIENTS = (1, 16, 64)
BATCH = 100

LOOP = "non-durable loop"
_LOOP_MS = "non-durable loop, per transaction"
_FSYNC = "write and fsync of 4 KiB, one after another"
_CONSTANT = "gunicorn and Falcon, constant answer, 16 clients"
_BATCH = f"POST /v1/refunds/batch of {BATCH}, 1 client"


def _rate(clients: int) -> str:
    return f"POST /v1/refunds, {clients} client{'s' if clients > 1 else ''}"


def _median(clients: int) -> str:
    return f"{_rate(clients)}: median"


def _worst(clients: int) -> str:
    return f"{_rate(clients)}: p99"


def refund_figures(
    *, at_least: Mapping[int, float], batch_at_least: float
) -> Sequence[Figure]:
    """Return the figures with goals against the loop, by number of clients."""
    latency_goals = {1: (Goal(_LOOP_MS, at_most=7.0),)}
    return [
        Figure(LOOP, "/s"),
        Figure(_LOOP_MS, "ms"),
        Figure(_FSYNC, "/s", (Goal(LOOP),)),
        Figure(_CONSTANT, "/s", (Goal(LOOP),)),
        *(
            Figure(_rate(n), "/s", (Goal(LOOP, at_least=at_least.get(n)),))
            for n in CLIENTS
        ),
        Figure(_BATCH, "/s", (Goal(LOOP, at_least=batch_at_least),)),
        *(Figure(_median(n), "ms", latency_goals.get(n, ())) for n in CLIENTS),
        *(Figure(_worst(n), "ms") for n in CLIENTS),
    ]


def refund_works(
    service: Service, key: Token, constant_url: str, *, settles: bool
) -> Iterator[Work]:
    """
    Yield the work for each figure; *key* is the loop's, beside the service's.

    With *settles*, each begins when the refunds of the one before are final.
    """
    for work in _works(service, key, constant_url):
        yield _settled(service, work) if settles else work


def _settled(service: Service, work: Work) -> Work:
    def run(seconds: float) -> Values:
        service.settle()
        return work(seconds)

    return run


def _works(service: Service, key: Token, constant_url: str) -> Iterator[Work]:
    loop = TransferLoop(key, service.stack.chain_url, service.stack.token)

    def run_loop(seconds: float) -> Values:
        sent = throughput(loop.send, 1, seconds)
        return {LOOP: sent, _LOOP_MS: 1000 / sent}

    def constant(seconds: float) -> Values:
        run = service.load(clients=16, seconds=seconds, url=constant_url)
        require_created(run)
        return {_CONSTANT: len(run.samples) / run.seconds}

    yield run_loop
    yield partial(_fsyncs, service.stack.home / "fsync")
    for clients in CLIENTS:
        yield _closed_loop(service, clients)
    yield _batches(service)
    yield constant


def _fsyncs(path: Path, seconds: float) -> Values:
    """Return how often a second the disk of the ledger keeps a page."""
    with durable_page(path) as write:
        return {_FSYNC: throughput(write, 1, seconds / 4)}


def _closed_loop(service: Service, clients: int) -> Work:
    def work(seconds: float) -> Values:
        before = service.sent_count()
        run = service.load(clients=clients, seconds=seconds)
        answered_at = time.perf_counter()
        require_created(run)
        # An answer that did not wait long enough has no transaction yet.
        service.await_sent(before + len(run.samples))
        drained = time.perf_counter() - answered_at
        latencies = run.latencies_ms()
        return {
            _rate(clients): len(run.samples) / (run.seconds + drained),
            _median(clients): statistics.median(latencies),
            _worst(clients): percentile(latencies, 99),
        }

    return work


def _batches(service: Service) -> Work:
    """Post one batch after another for a third of the time, then wait for the rest."""

    def work(seconds: float) -> Values:
        before, started = service.sent_count(), time.perf_counter()
        posted = service.post_batches(BATCH, seconds=seconds / 3)
        service.await_sent(before + posted)
        return {_BATCH: posted / (time.perf_counter() - started)}

    return work


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the *percent* percentile (nearest rank) of *values*."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)  # Rounded up.
    return ordered[max(rank, 1) - 1]
