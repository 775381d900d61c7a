"""Refunds that a vault pays, up to 100 with a signature, on both databases."""

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.devices import open_softhsm
from bench.harness import Figure, Goal, Prepared, Scenario, Values, Work
from bench.postgresql import postgresql_database
from bench.refund_rates import BATCH, LOOP, percentile
from bench.servers import running_service
from bench.service import Service, require_created
from bench.timing import throughput
from bench.transfer_loop import TransferLoop
from dev.stack import Stack
from dev.vault import configure, deploy_vault


_CLIENTS = 64
_RATE = 100
_FUNDS = 10**15
_CAPS = "1000/500000000"

_SQLITE, _POSTGRESQL = "SQLite", "PostgreSQL"
_PLAIN = f"{_SQLITE} without a vault"


def _batches(where: str) -> str:
    return f"{where}: POST /v1/refunds/batch of {BATCH}, 1 client"


_PREFERENCES = {"": "", "respond-async": ", respond-async"}
"""What a figure's name ends with, by the header ``Prefer`` of its requests."""


def _singles(where: str, prefer: str) -> str:
    return f"{where}: POST /v1/refunds, {_CLIENTS} clients{_PREFERENCES[prefer]}"


def _signatures(where: str, prefer: str) -> str:
    return f"{where}: signatures per refund, {_CLIENTS} clients{_PREFERENCES[prefer]}"


def _worst(where: str) -> str:
    return f"{where}: POST /v1/refunds at {_RATE}/s, p99"


def _figures() -> Iterator[Figure]:
    yield Figure(LOOP, "/s")
    for where in (_SQLITE, _POSTGRESQL):
        yield Figure(_batches(where), "/s", (Goal(LOOP, at_least=2.0),))
        for prefer in _PREFERENCES:
            yield Figure(_singles(where, prefer), "/s", (Goal(LOOP, at_least=0.8),))
            yield Figure(_signatures(where, prefer), "", (Goal(1.0, at_most=0.02),))
    yield Figure(_worst(_PLAIN), "ms")
    yield Figure(_worst(_SQLITE), "ms", (Goal(_worst(_PLAIN), at_most=1.0),))


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    key = open_softhsm(folder / "loop")
    with contextlib.ExitStack() as opened:
        enter = opened.enter_context
        plain = enter(running_service(folder / "plain"))
        url = enter(postgresql_database())
        settings: dict[str, dict[str, str]] = {
            _SQLITE: {},
            _POSTGRESQL: {"DATABASE_URL": url},
        }
        loop = TransferLoop(key, plain.stack.chain_url, plain.stack.token)

        def run_loop(seconds: float) -> Values:
            return {LOOP: throughput(loop.send, 1, seconds)}

        works: list[Work] = [run_loop, partial(_open_loop, plain, _PLAIN)]
        for where, given in settings.items():
            service = enter(
                running_service(folder / where, settings=given, prepare=_add_vault)
            )
            works.append(partial(_post_batches, service, where))
            works += [partial(_post_singles, service, where, p) for p in _PREFERENCES]
            if where == _SQLITE:
                works.append(partial(_open_loop, service, where))
        yield Prepared(list(_figures()), works)


def _add_vault(stack: Stack) -> None:
    stack.command("db", "upgrade")
    vault = deploy_vault(stack, [stack.address], caps=_CAPS)
    vault.fund(_FUNDS)
    configure(stack, vault.address)


def _post_batches(service: Service, where: str, seconds: float) -> Values:
    service.settle()
    started = time.perf_counter()
    posted = service.post_batches(BATCH, seconds=seconds)
    service.await_broadcast()
    return {_batches(where): posted / (time.perf_counter() - started)}


def _post_singles(service: Service, where: str, prefer: str, seconds: float) -> Values:
    service.settle()
    before = service.sent_count()
    run = service.load(clients=_CLIENTS, seconds=seconds, prefer=prefer)
    answered_at = time.perf_counter()
    require_created(run)
    service.await_broadcast()
    drained = time.perf_counter() - answered_at
    paid = len(run.samples)
    return {
        _singles(where, prefer): paid / (run.seconds + drained),
        _signatures(where, prefer): (service.sent_count() - before) / paid,
    }


def _open_loop(service: Service, where: str, seconds: float) -> Values:
    service.settle()
    run = service.load(clients=16, seconds=seconds, rate=_RATE)
    require_created(run)
    service.await_broadcast()
    return {_worst(where): percentile(run.latencies_ms(), 99)}


SCENARIO = Scenario(
    "vault",
    f"Refunds that a vault pays, up to {BATCH} with a signature",
    _open,
    rounds=5,
    seconds=4.0,
    quick_seconds=0.3,
)
