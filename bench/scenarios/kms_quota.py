"""More signatures offered than KMS's quota allows."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from bench.devices import kms_stand_in, open_kms
from bench.harness import Figure, Goal, Prepared, Scenario, Values, Work
from bench.kms_worker import WorkerOnKMS, worker_on_kms
from bench.offered_load import Offered, calls_between
from bench.signing import OpenKey


_THREADS = 64
_EXCESS = 1.2
_SHARE = 0.95
# The second is low enough to be exceeded on a small machine.
_QUOTAS = (1000, 250)
# What a worker can exceed on two cores, which it shares with the API and the chain.
_WORKER_QUOTA = 150
_BATCH_SECONDS = 0.5


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    with contextlib.ExitStack() as cleanup:
        works = [cleanup.enter_context(_offer(quota)) for quota in _QUOTAS]
        figures = [
            figure for quota in _QUOTAS for figure in _figures(_names(quota), quota)
        ]
        worker = worker_on_kms(
            folder, *_options(_WORKER_QUOTA), per_second=int(_WORKER_QUOTA * _SHARE)
        )
        works.append(_offer_refunds(cleanup.enter_context(worker)))
        figures += _figures(_worker_names(), _WORKER_QUOTA)
        yield Prepared(figures, works)


@contextlib.contextmanager
def _offer(quota: int) -> Iterator[Work]:
    with kms_stand_in(*_options(quota)) as stand_in:
        # As the documentation advises: a little below the quota.
        backend = open_kms(stand_in, _THREADS, per_second=int(quota * _SHARE))
        key = OpenKey(backend, stand_in.key_id)
        offered = Offered(key.sign_digest, rate=quota * _EXCESS, threads=_THREADS)

        def work(seconds: float) -> Values:
            before = stand_in.counts()
            outcome = offered.run(seconds)
            calls = calls_between(before, stand_in.counts())
            made = max(1, outcome.succeeded + outcome.failed)
            signed, errors, per_signature, waiting = _names(quota)
            return {
                signed: outcome.succeeded / outcome.seconds,
                errors: 100 * outcome.failed / made,
                per_signature: calls / max(1, outcome.succeeded),
                waiting: outcome.waiting / seconds,
            }

        yield work


def _offer_refunds(worker: WorkerOnKMS) -> Work:
    """Accept refunds at the rate, in bulk, while a whole worker pays them."""

    def work(seconds: float) -> Values:
        size = int(_WORKER_QUOTA * _EXCESS * _BATCH_SECONDS)
        before, offered = worker.service.sent_count(), size
        with worker.running() as pid:
            started = worker.look(pid)
            worker.post(size)
            start = worker.await_signed(pid, started, size)
            due = start.at
            while due < start.at + seconds:
                time.sleep(max(0.0, due - time.monotonic()))
                worker.post(size)
                offered += size
                due += _BATCH_SECONDS
            end = worker.look(pid)
            worker.service.await_sent(before + offered)
            last = worker.look(pid)
        signed, errors, per_signature, waiting = _worker_names()
        queued = offered - end.signed_since(started)
        return {
            signed: end.rate_since(start),
            errors: 100 * worker.delayed_count() / offered,
            per_signature: last.requests_since(started) / last.signed_since(started),
            waiting: queued / (end.at - start.at),
        }

    return work


def _options(quota: int) -> tuple[str, ...]:
    return "--latency", "20", "--quota", str(quota)


def _worker_names() -> tuple[str, str, str, str]:
    signed, errors, per_signature, waiting = _names(_WORKER_QUOTA)
    prefix = "whole worker, "
    return prefix + signed, prefix + errors, prefix + per_signature, prefix + waiting


def _names(quota: int) -> tuple[str, str, str, str]:
    name = f"quota {quota:,}, offered {quota * _EXCESS:,.0f}"
    return (
        f"{name}: signatures",
        f"{name}: errors",
        f"{name}: calls per signature",
        f"{name}: growth of the queue",
    )


def _figures(names: tuple[str, str, str, str], quota: int) -> list[Figure]:
    signed, errors, per_signature, waiting = names
    excess = quota * (_EXCESS - 1)
    return [
        Figure(signed, "/s", (Goal(float(quota), at_least=0.9),)),
        Figure(errors, "%", (Goal(1.0, at_most=1.0),)),
        Figure(per_signature, "", (Goal(1.0),)),
        Figure(waiting, "/s", (Goal(excess),)),
    ]


SCENARIO = Scenario(
    "kms-quota",
    "KMS's quota exceeded by a fifth",
    _open,
    rounds=5,
    seconds=5.0,
    quick_seconds=0.3,
)
