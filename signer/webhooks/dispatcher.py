"""
Gives events their order, and delivers them to webhooks, in one background thread.

The thread alone uses the database, so that it takes one connection at most from the
payments.  Each request to a receiver has a thread of its own, and their number is
bounded, in total and for each tenant: a receiver that is slow delays no other one.

A delivery is claimed before it is sent, and the claim expires.  A worker that is killed
loses nothing: another one sends the event again, with the same id.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from functools import partial
from queue import Empty, SimpleQueue

import structlog

from signer.alerts import Alert, Alerts
from signer.deadline import Deadlines, Pending
from signer.loops import IDLE_SECONDS, repeat
from signer.model.event import NOT_AUTHENTIC, DeliveryState, Event
from signer.ports.clock import Clock
from signer.ports.event_store import DeliveryAttempt, DueDelivery, EventStore
from signer.ports.outside_services import WebhookSender
from signer.ports.refund_store import Topic, Watch
from signer.webhooks.endpoint import Endpoints, EventDocument
from signer.webhooks.event_feed import EventRetention


DELAYS: Sequence[float] = (
    *(5.0, 15.0, 120.0, 600.0, 1800.0),
    *(3600.0 * hours for hours in (1, 2, 5, 10, 14, 18, 20)),
)
"""Seconds after each failed attempt; together just under three days."""

_JITTER = 0.2


def next_delay(
    attempts: int, draw: Callable[[], float], delays: Sequence[float] = DELAYS
) -> timedelta | None:
    """
    Return how long to wait after the failure number *attempts*; None to give up.

    *draw* returns a random number from 0 to 1.  The delay differs from that of the
    schedule by up to a fifth, so that many deliveries that failed together spread.
    """
    if attempts > len(delays):
        return None
    factor = 1 + _JITTER * (2 * draw() - 1)
    return timedelta(seconds=delays[attempts - 1] * factor)


LOOK_SECONDS = 0.25
"""How long an event waits at most to be noticed, on SQLite."""

_DUE_SECONDS, _QUIET_SECONDS = 1.0, 30.0
"""How long nothing is looked for while nothing is written: with receivers, to which a
delivery may become due, and without."""

CLAIM = timedelta(seconds=60)
"""How long a delivery stays claimed: longer than a request takes."""

_BATCH = 500
_PER_TENANT = 4
_IN_TOTAL = 64

_PAUSE_AFTER = 5
"""After so many failures in a row, a receiver gets one request, and then a pause."""

_LONGEST_PAUSE = 60.0

_ALERT_AFTER = 3
"""How many attempts of a delivery fail before the alert: after 20 seconds."""

_ALERT_SECONDS = 10.0
"""How long a receiver accepts nothing before the alert.  With many deliveries, it is
paused before one of them was tried three times."""

_NO_THREAD = "no-thread"
_EXPIRED = "claim-expired"


@dataclass(slots=True)
class _Health:
    """How a receiver answered last, as this process saw it."""

    failures: int = 0
    failing_since: float = 0.0
    paused_until: float = 0.0


@dataclass(frozen=True, slots=True)
class _Outcome:
    """A request that ended: its delivery, and the problem if it was not accepted."""

    due: DueDelivery
    problem: str | None


@dataclass(eq=False, repr=False)
class WebhookDispatcher:
    """
    Sequences events, and sends those of tenants that have a webhook.

    Any number of processes may do so: one at a time sequences, and each delivery is
    claimed by one of them.

    *clock* dates events, and *timer* measures pauses, in seconds.  *delays* are the
    seconds after each failure, to which *draw* adds some jitter.
    """

    store: EventStore
    sender: WebhookSender
    endpoints: Endpoints
    _: KW_ONLY
    document: EventDocument
    alerts: Alerts
    clock: Clock
    timer: Callable[[], float] = time.monotonic
    draw: Callable[[], float] = random.random
    delays: Sequence[float] = DELAYS
    claim: timedelta = CLAIM
    batch: int = _BATCH
    retention: EventRetention | None = None

    def __post_init__(self) -> None:
        self._deadlines = Deadlines(_PER_TENANT, _IN_TOTAL)
        self._running: Counter[str] = Counter()
        self._health: dict[str, _Health] = {}
        self._ended: SimpleQueue[_Outcome] = SimpleQueue()
        self._unstored: list[_Outcome] = []
        self._look_at = 0.0
        self._log = structlog.get_logger("webhooks")

    def run(self, is_stopping: Callable[[], bool]) -> None:
        """Work until *is_stopping*, which is asked after five idle seconds at most."""
        log, event = self._log, "webhooks-failed"
        with self.store.watch(Topic.CHANGED) as watch:
            work = partial(self._round, watch)
            repeat(work, lambda _: is_stopping(), 0.0, log=log, event=event)

    def _round(self, watch: Watch) -> None:
        has_ended = bool(self._unstored) or not self._ended.empty()
        is_idle = not (has_ended or self._running.total())
        left = self._look_at - self.timer() if is_idle else 0.0
        is_news = watch.wait(min(max(0.0, left), IDLE_SECONDS))
        began = self.timer()
        is_due = is_news or has_ended or began >= self._look_at
        try:
            if is_due:
                self._look_at = began  # Also if this fails.
                self.work()
        finally:
            if is_due or not is_idle:
                self._wait(LOOK_SECONDS - (self.timer() - began))

    def work(self) -> None:
        """
        Sequence events, store what requests have led to, and start new requests.

        At last delete events after their time.
        """
        is_done = self._sequence()
        self._store_outcomes()
        if self.endpoints:
            self._start_requests()
        if self.retention is not None:
            self.retention.work()
        if is_done:
            pause = _DUE_SECONDS if self.endpoints else _QUIET_SECONDS
            self._look_at = self.timer() + pause

    def _wait(self, seconds: float) -> None:
        """Wait up to *seconds*, or until a request ends."""
        try:
            self._unstored.append(self._ended.get(timeout=max(0.01, seconds)))
        except Empty:
            return

    def _sequence(self) -> bool:
        """Sequence what is new; return False if another process does."""
        while True:
            now = self.clock()
            done = self.store.sequence_events(self.batch, now, self._is_wanted)
            if done is not None and done.forged:
                self._report_forged(done.forged[0])
            if done is None or done.count < self.batch:
                return done is not None

    def _is_wanted(self, event: Event) -> bool:
        endpoint = self.endpoints.get(event.tenant)
        return endpoint is not None and endpoint.wants(event)

    def _start_requests(self) -> None:
        now = self.clock()
        expires = self.timer() + self.claim.total_seconds()
        left = _IN_TOTAL - self._running.total()
        for due in self.store.claim_deliveries(
            self._free(), left, now, now + self.claim
        ):
            self._running[due.delivery.tenant] += 1
            work = partial(self._send, due, expires)
            pending = self._deadlines.start(
                work, name="webhook", subject=due.delivery.tenant
            )
            pending.add_done_callback(partial(self._end, due))

    def _free(self) -> dict[str, int]:
        """Return how many more requests each tenant may have, in random order."""
        names = sorted(self.endpoints, key=lambda _: self.draw())
        free = {name: self._limit(name) - self._running[name] for name in names}
        return {name: count for name, count in free.items() if count > 0}

    def _limit(self, tenant: str) -> int:
        health = self._health.get(tenant)
        if health is None or health.failures < _PAUSE_AFTER:
            return _PER_TENANT
        return int(self.timer() >= health.paused_until)

    def _send(self, due: DueDelivery, expires: float) -> str | None:
        """Send the event in a thread of its own; return the problem."""
        if due.event is None or due.refund is None:
            return NOT_AUTHENTIC
        endpoint = self.endpoints[due.event.tenant]
        if self.timer() > expires:  # The thread started late.
            return _EXPIRED
        document = self.document(due.event, due.refund)
        return endpoint.send(self.sender, due.event.id, document, self.clock())

    def _end(self, due: DueDelivery, pending: Pending[str | None]) -> None:
        error = pending.exception()
        if error is None:
            problem = pending.result()
        elif pending.is_started:
            problem = type(error).__name__
        else:
            problem = _NO_THREAD
        self._ended.put(_Outcome(due, problem))

    def _store_outcomes(self) -> None:
        while not self._ended.empty():
            self._unstored.append(self._ended.get())
        if not self._unstored:
            return
        attempts = [self._attempt(each) for each in self._unstored]
        self.store.record_attempts(attempts, self.clock())
        outcomes, self._unstored = self._unstored, []
        for outcome, attempt in zip(outcomes, attempts, strict=True):
            self._running[outcome.due.delivery.tenant] -= 1
            self._observe(outcome, attempt)

    def _attempt(self, outcome: _Outcome) -> DeliveryAttempt:
        delivery, problem = outcome.due.delivery, outcome.problem
        now = self.clock()
        if problem is None:
            return DeliveryAttempt(delivery, DeliveryState.DELIVERED, now)
        delay = next_delay(delivery.attempts + 1, self.draw, self.delays)
        if delay is None or problem == NOT_AUTHENTIC:
            return DeliveryAttempt(delivery, DeliveryState.DEAD, now, problem)
        return DeliveryAttempt(delivery, DeliveryState.PENDING, now + delay, problem)

    def _observe(self, outcome: _Outcome, attempt: DeliveryAttempt) -> None:
        """Log the attempt, and adapt the pace for its receiver."""
        delivery, problem = attempt.delivery, attempt.problem
        facts = {
            "event_id": delivery.event_id,
            "refund_id": delivery.refund_id,
            "tenant": delivery.tenant,
            "attempts": delivery.attempts + 1,
        }
        health = self._health.setdefault(delivery.tenant, _Health())
        if problem is None:
            health.failures = 0
            self.alerts.resolve(Alert.WEBHOOK_FAILING, tenant=delivery.tenant)
            self._log.info("webhook-delivered", **facts)
            return
        if problem == NOT_AUTHENTIC:
            self._report_forged(delivery.event_id)
            return
        if health.failures == 0:
            health.failing_since = self.timer()
        health.failures += 1
        pause = 2.0 ** min(health.failures - _PAUSE_AFTER, 10)
        health.paused_until = self.timer() + min(pause, _LONGEST_PAUSE)
        if attempt.state is DeliveryState.DEAD:
            self._log.error("webhook-given-up", problem=problem, **facts)
        else:
            self._log.warning("webhook-refused", problem=problem, **facts)
        if (
            delivery.attempts + 1 >= _ALERT_AFTER
            or self.timer() - health.failing_since >= _ALERT_SECONDS
        ):
            self.alerts.remind(
                Alert.WEBHOOK_FAILING,
                tenant=delivery.tenant,
                attempts=delivery.attempts + 1,
                problem=problem,
            )

    def _report_forged(self, event_id: str) -> None:
        problem = f"another program wrote {event_id[:64]}, or its refund"
        alert = Alert.ROW_CHANGED
        self.alerts.remind(alert, "events", subject="events", problem=problem)
