"""Refunds of one tenant, alone and beside another one with a long queue."""

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import count
from pathlib import Path
from threading import Event, Thread

from bench.growth.comparison import Comparison, Durations, Measure, compare
from bench.growth.site import Site, open_site
from bench.refund_rates import percentile
from signer.config.tenants import Tenant, TenantRegistry
from signer.model.acceptance import Acceptance
from signer.model.audit_record import Actor
from signer.model.refund import Refund, RefundRequest, Status
from signer.ports.clock import utc_now
from signer.refunds.payment_checks import admit
from tests.support.refunds import REQUEST, FakeClock


MOST = 2.0
"""The largest ratio of the tenant's time beside the other one to its time alone."""

HEALTHY, LIMITED, QUICK = 4_000, 3_000, 30

_POSTS, _QUICK_POSTS = 100, 3
_BATCH = 500
_PATIENCE = 60.0
_OTHER, _BUSY = "other", "busy"
_TENANTS = TenantRegistry(
    {
        name: Tenant.model_validate(
            {
                "subjects": [name],
                "networks": {
                    "local": {
                        "gas_per_hour": 10**12,
                        # Refunds of 0.01 are paid; none of 1,000 ever fits in.
                        "tokens": {"TUSD": {"daily_limit": "900"}},
                    }
                },
            }
        )
        for name in (_OTHER, _BUSY)
    }
)


class _RealClock(FakeClock):
    """The clock of the host: the worker runs beside the requests."""

    def __init__(self) -> None:
        """Nothing is set."""

    @property
    def now(self) -> datetime:  # type: ignore[override]
        """The current time."""
        return utc_now()

    def __call__(self) -> datetime:
        return utc_now()

    def advance(self, **span: float) -> None:
        """Time passes by itself."""


class _Neighbours:
    """A service with a worker in a thread, and two tenants."""

    def __init__(self, site: Site, queued: int, amount: str, posts: int) -> None:
        site.clock = _RealClock()
        self._site, self._queued, self._amount = site, queued, amount
        self._posts = posts
        self._service = site.service_over(site.store)
        self._numbers = count(1)

    def __call__(self) -> tuple[float, float]:
        """Return the median and p99 of the seconds until a refund is broadcast."""
        self._fill()
        stopped = Event()
        thread = Thread(target=self._site.worker.run, args=(stopped.is_set, 1.0))
        thread.start()
        try:
            taken: list[float] = []
            while len(taken) < self._posts and self._is_beside(taken):
                taken.append(self._post())
        finally:
            stopped.set()
            thread.join()
        return statistics.median(taken), percentile(taken, 99)

    def _is_beside(self, taken: list[float]) -> bool:
        """Return whether the busy tenant still has refunds in the queue."""
        return not taken or not self._queued or self._waiting() > 0

    def _waiting(self) -> int:
        counted = self._site.store.open_refunds()
        return sum(
            each.number
            for each in counted
            if each.tenant == _BUSY and each.status is Status.QUEUED
        )

    def _fill(self) -> None:
        """Queue what the busy tenant lacks, in the way that the API stores it."""
        waiting = self._waiting()
        new = [self._refund() for _ in range(self._queued - waiting)]
        for first in range(0, len(new), _BATCH):
            part = new[first : first + _BATCH]
            self._site.store.accept_all([Acceptance(each) for each in part])

    def _refund(self) -> Refund:
        number = next(self._numbers)
        return admit(
            replace(self._request(number), amount=self._amount),
            refund_id=f"rf_{number:032x}",
            tenant=_BUSY,
            idempotency_key=f"queued-{number}",
            networks={"local": self._site.network},
            wallets=(),
            now=self._site.clock(),
        )

    def _request(self, number: int) -> RefundRequest:
        recipient = f"0x{number + 10**30:040d}"  # No letters: its checksum is right.
        of_number = {"reference": f"order-{number}", "recipient": recipient}
        return replace(REQUEST, amount="0.01", **of_number)

    def _post(self) -> float:
        """Accept a refund of the other tenant; return when the client has its hash."""
        number = next(self._numbers)
        began = time.perf_counter()
        accepted = self._service.submit(
            tenant=_OTHER,
            idempotency_key=f"post-{number}",
            request=self._request(number),
            actor=Actor.from_token(_OTHER, "req-1", None),
        )
        refund = self._service.await_broadcast(accepted.refund, _PATIENCE)
        taken = time.perf_counter() - began
        if refund.tx_hash is None:
            raise RuntimeError(f"the refund was not sent: {refund.blocked_by}")
        return taken


@contextlib.contextmanager
def neighbours(folder: Path, *, is_quick: bool) -> Iterator[list[Comparison]]:
    """Yield a comparison for each kind of queue of the busy tenant."""
    kinds: Mapping[str, tuple[int, str]] = {
        "refunds to pay": (QUICK if is_quick else HEALTHY, "0.01"),
        "refunds over a limit": (QUICK if is_quick else LIMITED, "1000"),
    }
    posts = _QUICK_POSTS if is_quick else _POSTS
    with contextlib.ExitStack() as cleanup:
        comparisons = []
        for kind, (queued, amount) in kinds.items():
            cases = []
            for number in (0, queued):
                path = folder / f"neighbours-{kind.replace(' ', '-')}-{number}.db"
                site = cleanup.enter_context(open_site(path, _TENANTS))
                measure = _measure(kind, _Neighbours(site, number, amount, posts))
                cases.append((f"{number:,} of another tenant", measure))
            names = list(_names(kind, 0, 0))
            comparisons.append(
                compare(names, *cases, at_least=1, at_most=1, ratio=MOST)
            )
        yield comparisons


def _measure(kind: str, work: _Neighbours) -> Measure:
    return lambda: _names(kind, *work())


def _names(kind: str, median: float, slow: float) -> Durations:
    return {
        f"refund beside {kind}: median to the broadcast": median,
        f"refund beside {kind}: p99 to the broadcast": slow,
    }
