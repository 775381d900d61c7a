"""Each step of a refund and each question about one, in an old and in a new ledger."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path

from backends.sql import SQLStore
from bench.growth.comparison import Comparison, Durations, Measure, Stopwatch, compare
from bench.growth.history import TENANT, fill
from bench.postgresql import postgresql_server
from signer.alerts import Alerts
from signer.config.tenants import TenantRegistry
from signer.errors import require
from signer.model.acceptance import Acceptance
from signer.model.audit_record import Record
from signer.model.refund import Refund, Status
from signer.model.spending_limits import Limits
from signer.model.transaction import CLAIM_TIME
from signer.ports.clock import utc_now
from signer.ports.refund_reports import RefundFilter
from signer.ports.refund_store import Change, Reservation
from signer.refunds.confirmations import ConfirmationTracker
from signer.refunds.explanation import Explainer
from tests.fixtures.ledger import (
    WALLET,
    change_of,
    opened,
    queued,
    step_to,
    transaction,
)
from tests.support.keys import key_at
from tests.support.ledgers import open_ledger, seal


FEW, MANY, QUICK = 10, 1_000_000, 1_000

_NAMES = (
    "accept",
    "claim",
    "reserve",
    "record the signature",
    "record the broadcast",
    "track: mined",
    "track: confirmed",
    "find by id",
    "newest page",
    "page of a payment session",
    "explain",
    "readiness query",
    "seal",
    "idle pass of a worker",
)

_LIMITS = Limits(hourly=10**15, daily=10**15)


@contextlib.contextmanager
def refund_steps(folder: Path, *, is_quick: bool) -> Iterator[list[Comparison]]:
    """Yield the comparisons on SQLite and on PostgreSQL."""
    many = QUICK if is_quick else MANY
    with contextlib.ExitStack() as cleanup:
        server = cleanup.enter_context(postgresql_server())
        urls = {
            "SQLite": [f"sqlite:///{folder / name}.db" for name in ("few", "many")],
            "PostgreSQL": [server.url(server.create()) for _ in range(2)],
        }
        comparisons = []
        for database, of_cases in urls.items():
            cases = []
            for url, size in zip(of_cases, (FEW, many), strict=True):
                store = cleanup.enter_context(_filled(url, size))
                cases.append((f"{size:,} refunds", _refunds(database, store)))
            names = [f"{database}: {name}" for name in _NAMES]
            comparisons.append(compare(names, *cases, at_least=1 if is_quick else 15))
        yield comparisons


@contextlib.contextmanager
def _filled(url: str, size: int) -> Iterator[SQLStore]:
    store = open_ledger(url)
    store.migrate()
    opened(store)
    store.close()
    fill(url, WALLET, size)
    yield store
    store.close()


def _refunds(database: str, store: SQLStore) -> Measure:
    """Return what takes one refund through all its steps, on the real clock."""
    tracker = ConfirmationTracker(store, {}, utc_now, Alerts())
    explainer = Explainer(store, {}, utc_now, TenantRegistry())
    numbers = count(1)

    def measure() -> Durations:
        watch = Stopwatch()
        refund = queued(
            tenant=TENANT,
            payment_session_id=f"session-{next(numbers)}",
            due_at=utc_now(),
        )
        _pay(store, refund, watch)
        _ask(store, refund, watch)
        watch.time("explain", lambda: explainer.explain(_get(store, refund)))
        watch.time("seal", lambda: seal(store))
        watch.time(
            "idle pass of a worker",
            lambda: (tracker.track(), _claim(store)),
        )
        return {f"{database}: {name}": each for name, each in watch.durations.items()}

    return measure


def _pay(store: SQLStore, refund: Refund, watch: Stopwatch) -> None:
    """Take *refund* to its confirmation."""
    new = Acceptance(refund, _record(), max_open=1000)
    watch.time("accept", lambda: store.accept_all([new]))
    watch.time("claim", lambda: _claim(store))
    intent = _record()
    reservation = Reservation(_get(store, refund), 65_000, _LIMITS, lambda _: intent)
    watch.time("reserve", lambda: _reserve(store, reservation))
    refund = _get(store, refund)
    first = transaction(refund)
    after = step_to(refund, Status.SIGNED, utc_now(), tx_hash=first.tx_hash)
    signed = change_of(refund, after, first, _record())
    watch.time("record the signature", lambda: _save(store, signed))
    sent = step_to(after, Status.BROADCAST, utc_now(), due_at=utc_now() + CLAIM_TIME)
    watch.time("record the broadcast", lambda: _save(store, change_of(after, sent)))
    mined = step_to(
        sent, Status.MINED, utc_now(), block_number=7, block_hash=first.tx_hash
    )
    final = step_to(mined, Status.CONFIRMED, utc_now())
    watch.time("track: mined", lambda: _track(store, change_of(sent, mined)))
    watch.time("track: confirmed", lambda: _track(store, change_of(mined, final)))


def _ask(store: SQLStore, refund: Refund, watch: Stopwatch) -> None:
    """Ask the questions of the API about *refund*."""
    newest = RefundFilter(tenant=TENANT)
    of_session = replace(newest, payment_session_id=refund.payment_session_id)
    watch.time("find by id", lambda: _get(store, refund))
    watch.time("newest page", lambda: store.search_refunds(newest, limit=FEW))
    watch.time(
        "page of a payment session", lambda: store.search_refunds(of_session, limit=50)
    )
    watch.time("readiness query", lambda: _check(store))


def _check(store: SQLStore) -> None:
    """Ask what ``/readyz`` asks the ledger."""
    store.check()
    store.oldest_unsealed()
    store.active_key()
    store.stops()


def _get(store: SQLStore, refund: Refund) -> Refund:
    found = store.get(refund.id)
    if found is None:
        raise RuntimeError("the refund is not in the ledger")
    return found


def _claim(store: SQLStore) -> object:
    now = utc_now()
    return store.claim(now, now + timedelta(seconds=10), 8)


def _reserve(store: SQLStore, reservation: Reservation) -> None:
    (outcome,) = store.reserve_all(
        [reservation],
        sender=WALLET,
        key_id=key_at(WALLET).key_id,
        counted=0,
        at=utc_now(),
    )
    require(outcome)


def _save(store: SQLStore, change: Change) -> None:
    for error in store.save_all([change]):
        if error is not None:
            raise error


def _track(store: SQLStore, change: Change) -> None:
    store.in_flight(500)
    _save(store, change)


def _record() -> Record:
    return Record.of({"event": "bench"}, utc_now())
