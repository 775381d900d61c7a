"""100 refunds a second, whether or not the answers keep up; counted on the chain."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench.harness import Figure, Goal, Prepared, Scenario, Values
from bench.refund_rates import percentile
from bench.servers import constant_server, running_service
from bench.service import (
    CONFIRMATIONS,
    SUBJECT,
    LoadRun,
    Service,
    refund_body,
    require_created,
)
from bench.signing import mark_of


_CLIENTS = 16
_RATE = 100
_LATE_SECONDS = 10.0
_DEPTH_SECONDS = CONFIRMATIONS - 1.0  # Of a second per block.

_EARLY = "answered without waiting for the broadcast"
_LOST, _DOUBLED = "lost", "doubled"
_MINED = "due to the block: p99"
_LATE = f"confirmed over {_LATE_SECONDS:g} s after the broadcast"
_CONSTANT = "gunicorn and Falcon, constant answer: p99"
_ANSWERED = "refunds answered"


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    with (
        running_service(folder) as service,
        constant_server(service) as server,
    ):

        def constant(seconds: float) -> Values:
            run = service.load(
                clients=_CLIENTS, seconds=seconds / 6, rate=_RATE, url=server.url
            )
            require_created(run)
            return {_CONSTANT: percentile(run.latencies_ms(), 99)}

        def refunds(seconds: float) -> Values:
            first, before = service.block(), service.sent_count()
            run = service.load(clients=_CLIENTS, seconds=seconds, rate=_RATE)
            require_created(run)
            service.await_sent(before + len(run.samples), seconds=300.0)
            latencies = run.latencies_ms()
            return {
                **{_percentile(n): percentile(latencies, n) for n in (50, 90, 99)},
                "POST /v1/refunds: slowest": max(latencies),
                _ANSWERED: len(run.samples) / run.seconds,
                _EARLY: sum(not sample.has_hash for sample in run.samples),
                **count_on_chain(service, run, first),
            }

        yield Prepared(_FIGURES, [constant, refunds])


def count_on_chain(service: Service, run: LoadRun, first: int) -> Values:
    """Return how many refunds of *run* the chain lost, doubled or confirmed late."""
    service.settle()
    mined: Counter[bytes] = Counter()
    mined_at: dict[bytes, float] = {}
    for block in service.blocks_from(first):
        for mark in block.marks:
            mined[mark] += 1
            mined_at[mark] = block.timestamp
    accepted = {
        _mark(sample.number): run.started_at + sample.due for sample in run.samples
    }
    broadcast_at = {
        _mark(sample.number): run.started_at + sample.answered
        for sample in run.samples
        if sample.has_hash
    }
    return {
        _LOST: sum(mark not in mined for mark in accepted),
        _DOUBLED: sum(mined[mark] > 1 for mark in accepted),
        _LATE: sum(
            mined_at[mark] + _DEPTH_SECONDS - at > _LATE_SECONDS
            for mark, at in broadcast_at.items()
            if mark in mined_at
        ),
        _MINED: percentile(
            [
                mined_at[mark] - due
                for mark, due in accepted.items()
                if mark in mined_at
            ],
            99,
        ),
    }


def _mark(number: int) -> bytes:
    return mark_of(SUBJECT, refund_body(f"{number:08d}")["payment_session_id"])


def _percentile(percent: int) -> str:
    return f"POST /v1/refunds: p{percent}"


_NONE = (Goal(1.0, at_most=0.0),)

_FIGURES = [
    Figure(_CONSTANT, "ms"),
    Figure(_percentile(50), "ms"),
    Figure(_percentile(90), "ms"),
    Figure(_percentile(99), "ms", (Goal(100.0, at_most=1.0), Goal(_CONSTANT))),
    Figure("POST /v1/refunds: slowest", "ms"),
    Figure(_ANSWERED, "/s", (Goal(float(_RATE), at_least=0.99),)),
    Figure(_MINED, "s"),
    Figure(_EARLY, ""),
    Figure(_LOST, "", _NONE),
    Figure(_DOUBLED, "", _NONE),
    Figure(_LATE, "", _NONE),
]

SCENARIO = Scenario(
    "open-loop",
    f"Open loop: {_RATE} refunds a second from {_CLIENTS} clients, SQLite",
    _open,
    rounds=5,
    seconds=60.0,
    quick_seconds=1.0,
)
