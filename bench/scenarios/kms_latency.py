"""Signatures a second through a KMS that answers after 20 ms, as over a network."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.devices import bare_kms, kms_stand_in, open_kms
from bench.harness import Figure, Goal, Prepared, Scenario, Values, Work
from bench.kms_worker import WorkerOnKMS, worker_on_kms
from bench.signing import OpenKey
from bench.timing import rate


_THREADS = 64
_WANTED = 1000.0
_LATENCY_MS = 20
_QUEUE = 500  # Refunds that wait for the worker, per second of the round.

_BARE = f"bare boto3 sign, {_THREADS} threads"
_DIGEST = f"Signer.sign_digest, {_THREADS} threads"
_WHOLE = f"whole transaction, {_THREADS} threads"
_WORKER = "whole worker, from the queue to the broadcast: signatures"
_IN_FLIGHT = "whole worker: requests to KMS in flight, on average"
_WORKER_CPU = "whole worker: CPU time of the worker per refund"
_WORKER_BUSY = "whole worker: cores that the worker uses"
_CHAIN_CPU = "whole worker: CPU time of the chain per refund"


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    options = "--latency", str(_LATENCY_MS)
    with kms_stand_in(*options) as stand_in, contextlib.ExitStack() as cleanup:
        bare = bare_kms(stand_in, _THREADS)
        key = OpenKey(open_kms(stand_in, _THREADS), stand_in.key_id)
        figures = [
            Figure(_BARE, "/s", (Goal(_WANTED),)),
            Figure(_DIGEST, "/s", (Goal(_WANTED, at_least=1.0), Goal(_BARE))),
            Figure(_WHOLE, "/s", (Goal(_WANTED), Goal(_BARE))),
            Figure(_WORKER, "/s", (Goal(_WANTED, at_least=1.0), Goal(_WHOLE))),
            Figure(_IN_FLIGHT, ""),
            Figure(_WORKER_CPU, "ms", (Goal(1000 / _WANTED),)),
            Figure(_WORKER_BUSY, ""),
            Figure(_CHAIN_CPU, "ms"),
        ]
        works = [
            rate(_BARE, bare, _THREADS),
            rate(_DIGEST, key.sign_digest, _THREADS),
            rate(_WHOLE, key.sign_transaction, _THREADS),
        ]
        if not is_quick:  # The scenario of the quota starts a worker in any case.
            worker = cleanup.enter_context(worker_on_kms(folder, *options))
            works.append(_drain(worker))
        yield Prepared(figures, works)


def _drain(worker: WorkerOnKMS) -> Work:
    """Start a worker beside a queue, and measure from the first quarter to the end."""

    def work(seconds: float) -> Values:
        count = max(_THREADS, int(seconds * _QUEUE))
        before = worker.service.sent_count()
        worker.post(count)
        with worker.running() as pid:
            started = worker.look(pid)
            warm = worker.await_signed(pid, started, count // 4)
            end = worker.await_signed(pid, started, count)
            worker.service.await_sent(before + count)
        rate, signed = end.rate_since(warm), end.signed_since(warm)
        cpu = end.worker_cpu - warm.worker_cpu
        return {
            _WORKER: rate,
            _IN_FLIGHT: rate * _LATENCY_MS / 1000,  # Little's law.
            _WORKER_CPU: 1000 * cpu / signed,
            _WORKER_BUSY: cpu / (end.at - warm.at),
            _CHAIN_CPU: 1000 * (end.chain_cpu - warm.chain_cpu) / signed,
        }

    return work


SCENARIO = Scenario(
    "kms-latency",
    "One process, KMS with a latency of 20 ms",
    _open,
    rounds=7,
    seconds=2.0,
    quick_seconds=0.2,
)
