"""
Alerts for the operator on duty: each is logged, counted and sent to the webhook.

An alert never fails the operation that it is about: an alert that cannot be counted or
sent is still logged.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from threading import Lock
from typing import TYPE_CHECKING

from signer.errors import HotWalletError, RowNotAuthenticError
from signer.ports.clock import Clock, utc_now
from signer.redact import sanitize


if TYPE_CHECKING:  # They need pydantic, which an auditor does not.
    from signer.ports.ledger import SharedState
    from signer.ports.outside_services import Notifier


REMIND_SECONDS = 300.0
"""How long after an alert it is repeated while the problem lasts, unless ``LASTING``
has another time."""


class Alert(StrEnum):
    """The alerts; ``docs/how-to/alarms.md`` explains what to do about each."""

    KEY_UNHEALTHY = "key-unhealthy"
    KEY_MISMATCH = "key-mismatch"
    ROTATION_REFUSED = "rotation-refused"
    CHAIN_BROKEN = "audit-chain-broken"
    SEALING_LATE = "audit-sealing-late"
    SHIPPING_LATE = "audit-shipping-late"
    SHIPPING_DIFFERS = "audit-shipping-differs"
    SIGNING_STOPPED = "signing-stopped"
    SIGNING_LATE = "audit-signing-late"
    RECORD_FORGED = "audit-record-forged"
    CHECKPOINT_FORGED = "audit-checkpoint-forged"
    ROW_CHANGED = "row-not-authentic"
    FEES_ABOVE_RECENT = "fees-above-recent"
    APPROVAL_REQUESTED = "approval-requested"
    APPROVER_KEY_COPIED = "approver-key-copied"
    BREAK_GLASS = "break-glass"
    WORKER_STOPPED = "worker-stopped"
    LOW_BALANCE = "low-balance"
    TOP_UP_FAILING = "top-up-failing"
    VAULT_LIMIT = "vault-limit"
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


TICKETS = frozenset(
    {
        Alert.APPROVAL_REQUESTED,
        Alert.BACKEND_THROTTLED,
        Alert.NODE_DOWN,
        Alert.NODE_LAGGING,
        Alert.WEBHOOK_FAILING,
    }
)
"""Alerts that wake no operator.  The rules for Prometheus have the same severities."""

_HAVE_RECORDS = frozenset(
    {
        Alert.BREAK_GLASS,
        Alert.RECORD_FORGED,
        Alert.ROTATION_REFUSED,
        Alert.SIGNING_STOPPED,
    }
)
"""Alerts about what the audit log has a record of."""

_HOURS = 6 * 3600.0

LASTING: Mapping[Alert, float] = {
    **dict.fromkeys((Alert.KEY_UNHEALTHY, Alert.SIGNING_STOPPED), 0.0),
    **dict.fromkeys((Alert.WORKER_STOPPED, Alert.POLICY_NOT_RELOADED), 0.0),
    **dict.fromkeys((Alert.SEALING_LATE, Alert.TOP_UP_FAILING), REMIND_SECONDS),
    Alert.SHIPPING_LATE: REMIND_SECONDS,
    Alert.WEBHOOK_FAILING: REMIND_SECONDS,
    Alert.DATABASE_UNREACHABLE: REMIND_SECONDS,
    **dict.fromkeys((Alert.NODE_DOWN, Alert.NODE_LAGGING, Alert.QUORUM_LOST), _HOURS),
    **dict.fromkeys((Alert.CHAIN_STALLED, Alert.REFUNDS_LATE), _HOURS),
    **dict.fromkeys((Alert.LOW_BALANCE, Alert.WALLET_DELEGATED), _HOURS),
    **dict.fromkeys((Alert.BACKEND_THROTTLED, Alert.FEES_ABOVE_RECENT), _HOURS),
    Alert.VAULT_LIMIT: _HOURS,
}
"""
Problems whose end is reported, and after how many seconds each is repeated.

All processes together raise one alert until then, except for those with 0: each raises
its own.  Alerts about what an intruder does are not here, and are always raised: who
can write the database could pretend that they were.
"""

_IDENTITY = ("network", "node", "asset", "token", "backend", "tenant", "address")
"""The facts that distinguish problems with the same alert."""

_SLACK = timedelta(seconds=30)
"""How much earlier another process may repeat an alert: their timers differ."""

_REFRESH = timedelta(seconds=300)


Facts = Mapping[str, str | int | None]


@dataclass(eq=False, repr=False)
class Alerts:
    """
    Logs, counts and sends alerts, with links to their sections of the page *runbooks*.

    *record* writes those that wake an operator to the audit log, if it has no other
    record of them.  *source* is the name of the service, of which an *environment*
    may have several.
    """

    counters: SharedState | None = None
    notifier: Notifier | None = None
    clock: Clock = utc_now
    _: KW_ONLY
    record: Callable[[str, Facts], None] | None = None
    runbooks: str = RUNBOOKS
    environment: str = "test"
    source: str = "hotwallet"

    def __post_init__(self) -> None:
        import structlog  # noqa: PLC0415  An account has no alerts.

        self._log = structlog.get_logger("alerts")
        self._lock = Lock()
        # The problems that last, as far as this process knows, and when it raised them.
        self._raised: dict[str, datetime | None] = {}
        # Those of them that could not be written to the ledger.
        self._unwritten: set[str] = set()
        self._refreshed_at: datetime | None = None
        # When this process reminded of each problem, by its key, and what it is about.
        self._reminded: dict[tuple[str, Hashable], datetime] = {}

    @property
    def are_sent(self) -> bool:
        """Whether this process also sends them, and does not only log and count."""
        return self.notifier is not None

    def sound(self, alert: Alert, **facts: str | int | None) -> None:
        """
        Sound *alert*; *facts* are log fields and must not contain secrets.

        A problem of ``LASTING`` is sounded once by all processes until it is resolved.
        """
        at = self.clock()
        key = _key(alert, facts)
        if alert in LASTING and not self._is_due(key, LASTING[alert], at):
            return
        self._log.error("alert", alert=str(alert), **facts)
        if self.counters is not None:
            try:
                self.counters.count_alert(str(alert), at)
                if self.record is not None and alert not in TICKETS | _HAVE_RECORDS:
                    self.record(str(alert), facts)
            except HotWalletError as e:
                self._log.warning("alert-not-counted", alert=str(alert), code=e.code)
        self._notify("firing", alert, key, at, facts)

    def remind(
        self, alert: Alert, about: Hashable = None, **facts: str | int | None
    ) -> None:
        """
        Sound *alert* about a problem that lasts, if that ``is_due``.

        Call it whenever there is the problem.
        """
        if self.is_due(alert, about, **facts):
            self.sound(alert, **facts)

    def is_due(
        self, alert: Alert, about: Hashable = None, **facts: str | int | None
    ) -> bool:
        """
        Return whether to sound *alert* now; if so, count it as sounded.

        The first one of this process *about* something is due at once, and again after
        the time of ``LASTING``, or ``REMIND_SECONDS``.
        """
        found = _key(alert, facts), about
        remind = timedelta(seconds=LASTING.get(alert) or REMIND_SECONDS)
        now = self.clock()
        with self._lock:
            last = self._reminded.get(found)
            if last is not None and timedelta(0) <= now - last < remind:
                return False
            self._reminded[found] = now
            return True

    def report_row(self, error: HotWalletError, subject: str) -> None:
        """
        Remind that another program changed a row, if *error* is about a row's MAC.

        *subject* is the id of a refund or of a transaction, "keys", "stops" or
        "wallets".
        """
        if isinstance(error, RowNotAuthenticError):
            problem = str(error)
            self.remind(Alert.ROW_CHANGED, subject, subject=subject, problem=problem)

    def resolve(
        self,
        alert: Alert,
        *,
        is_known: bool = True,
        due_at_once: bool = True,
        **identity: str | None,
    ) -> None:
        """
        Report that a problem has ended, if it lasted; *identity* is of its facts.

        It costs nothing otherwise: call it whenever there is no problem.  Without
        *is_known* the problem may be unknown to this process, and the ledger is asked.
        Without *due_at_once* the next alert is a reminder of this one.
        """
        key = _key(alert, identity)
        with self._lock:
            if due_at_once:
                for each in [each for each in self._reminded if each[0] == key]:
                    del self._reminded[each]
            if is_known and key not in self._raised:
                return
            self._raised.pop(key, None)
            is_written = key not in self._unwritten
            self._unwritten.discard(key)
        at = self.clock()
        with suppress(HotWalletError):  # Rather twice than never.
            if (
                self.counters
                and not self.counters.resolve_problem(key, at)
                and is_written
            ):
                return  # Another process did.
        self._log.info("alert-resolved", alert=str(alert), **identity)
        self._notify("resolved", alert, key, at, identity)

    def refresh(self) -> None:
        """Read now and then which problems last: who raised one may have ended."""
        at = self.clock()
        last = self._refreshed_at
        if self.counters is None or (last is not None and at - last < _REFRESH):
            return
        self._refreshed_at = at
        for key in self.counters.lasting_problems():
            with self._lock:
                self._raised.setdefault(key, None)

    def _is_due(self, key: str, remind: float, at: datetime) -> bool:
        """Return whether this process is the one that sounds the alert now."""
        before = at - max(timedelta(seconds=remind) - _SLACK, timedelta(0))
        with self._lock:
            last = self._raised.setdefault(key, None)
        is_due = last is None or last <= before or last > at
        is_written = False
        if self.counters is not None:
            with suppress(HotWalletError):
                is_due = self.counters.raise_problem(key, at, before)
                is_written = True
        with self._lock:
            if is_written:
                self._unwritten.discard(key)
            elif is_due:
                self._unwritten.add(key)
            if is_due:
                self._raised[key] = at
        return is_due

    def _notify(
        self,
        status: str,
        alert: Alert,
        key: str,
        at: datetime,
        facts: Facts,
    ) -> None:
        if self.notifier is None:
            return
        sanitized = {
            name: sanitize(fact) if isinstance(fact, str) else fact
            for name, fact in facts.items()
        }
        self.notifier.notify(
            {
                "alert": str(alert),
                "status": status,
                "severity": "ticket" if alert in TICKETS else "page",
                "environment": self.environment,
                "source": self.source,
                "key": f"{self.source}/{sanitize(key)}",
                "at": at.isoformat(),
                "facts": sanitized,
                "runbook": find_runbook(alert, self.runbooks),
            }
        )


def _key(alert: Alert, facts: Facts) -> str:
    """Return the name of a problem: the same in all processes, until it ends."""
    found = [str(facts[name]) for name in _IDENTITY if facts.get(name) is not None]
    return "/".join([str(alert), *found])
