"""
Alerts for the operator on duty: each is logged, counted and sent to the webhook.

An alert never fails the operation that it is about: an alert that cannot be counted or
sent is still logged.
"""

import time
from collections.abc import Callable, Hashable
from enum import StrEnum
from threading import Lock

import structlog

from signer.errors import HotWalletError
from signer.ports import AlertCounters, Clock, Notifier, utc_now
from signer.redact import sanitize


REMIND_SECONDS = 300.0
"""How long after an alert it is repeated while the problem lasts."""


class Alert(StrEnum):
    """The alerts; ``docs/how-to/alarms.md`` explains what to do about each."""

    KEY_UNHEALTHY = "key-unhealthy"
    KEY_MISMATCH = "key-mismatch"
    ROTATION_REFUSED = "rotation-refused"
    CHAIN_BROKEN = "audit-chain-broken"
    SEALING_LATE = "audit-sealing-late"
    SIGNING_STOPPED = "signing-stopped"
    SIGNING_LATE = "audit-signing-late"
    RECORD_FORGED = "audit-record-forged"
    CHECKPOINT_FORGED = "audit-checkpoint-forged"
    ROW_CHANGED = "row-not-authentic"
    FEES_ABOVE_RECENT = "fees-above-recent"
    APPROVAL_REQUESTED = "approval-requested"
    BREAK_GLASS = "break-glass"
    WORKER_STOPPED = "worker-stopped"
    LOW_BALANCE = "low-balance"
    TOP_UP_FAILING = "top-up-failing"
    WALLET_DELEGATED = "wallet-delegated"
    BOOKS_DIFFER = "books-differ"
    WEBHOOK_FAILING = "webhook-failing"
    NODE_DOWN = "node-down"
    NODE_LAGGING = "node-lagging"
    BACKEND_THROTTLED = "backend-throttled"
    POLICY_NOT_RELOADED = "policy-not-reloaded"
    QUORUM_LOST = "quorum-lost"
    CHAIN_STALLED = "chain-stalled"
    REFUNDS_LATE = "refunds-late"
    DATABASE_UNREACHABLE = "database-unreachable"


RUNBOOKS = "docs/how-to/alarms.md"
"""The page that has a section for each alert."""


def find_runbook(alert: str, page: str = RUNBOOKS) -> str:
    """Return the link to the section about *alert*; *page* is where operators read."""
    return f"{page}#{alert}"


class Alerts:
    """Logs, counts and sends alerts."""

    def __init__(
        self,
        counters: AlertCounters | None = None,
        notifier: Notifier | None = None,
        clock: Clock = utc_now,
        *,
        runbooks: str = RUNBOOKS,
    ) -> None:
        """Send alerts with links to their sections of the page *runbooks*."""
        self._counters = counters
        self._notifier = notifier
        self._clock = clock
        self._runbooks = runbooks
        self._log = structlog.get_logger("alerts")

    @property
    def are_sent(self) -> bool:
        """Whether this process also sends them, and does not only log and count."""
        return self._notifier is not None

    def sound(self, alert: Alert, **facts: str | int | None) -> None:
        """Sound *alert*; *facts* are log fields and must not contain secrets."""
        at = self._clock()
        self._log.error("alert", alert=str(alert), **facts)
        if self._counters is not None:
            try:
                self._counters.count_alert(str(alert), at)
            except HotWalletError as e:
                self._log.warning("alert-not-counted", alert=str(alert), code=e.code)
        if self._notifier is not None:
            sanitized = {
                name: sanitize(fact) if isinstance(fact, str) else fact
                for name, fact in facts.items()
            }
            self._notifier.notify(
                {
                    "alert": str(alert),
                    "at": at.isoformat(),
                    "facts": sanitized,
                    "runbook": find_runbook(alert, self._runbooks),
                }
            )


class AlertThrottle:
    """
    Decides whether an alert about a lasting problem is sounded again.

    The first alert about a subject is due at once, and so is a different alert.  The
    same alert is due again after *remind* seconds.  Threads may share one throttle.
    """

    def __init__(
        self,
        timer: Callable[[], float] = time.monotonic,
        remind: float = REMIND_SECONDS,
    ) -> None:
        """Measure time with *timer*, in seconds."""
        self._timer = timer
        self._remind = remind
        self._lock = Lock()
        self._sounded: dict[Hashable, tuple[Alert, float]] = {}

    def is_due(self, alert: Alert, subject: Hashable = None) -> bool:
        """Return whether to sound *alert* now; if so, count it as sounded."""
        now = self._timer()
        with self._lock:
            last, sounded_at = self._sounded.get(subject, (None, now))
            if last is alert and now - sounded_at < self._remind:
                return False
            self._sounded[subject] = alert, now
            return True

    def clear(self, subject: Hashable = None) -> None:
        """Record that *subject* is healthy again: its next alert is due at once."""
        with self._lock:
            self._sounded.pop(subject, None)
