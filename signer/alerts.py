"""
What somebody must look at now: an event, a number, and a word to whoever is on duty.

An alert never stands in the way of what it is about: when it cannot be counted or
passed on, it is logged all the same.
"""

from enum import StrEnum

import structlog

from signer.errors import HotWalletError
from signer.ports import AlertCounters, Clock, Notifier, utc_now
from signer.redact import sanitize


class Alert(StrEnum):
    """The alerts there are; ``docs/how-to/alarms.md`` says what to do."""

    KEY_UNHEALTHY = "key-unhealthy"
    KEY_MISMATCH = "key-mismatch"
    ROTATION_REFUSED = "rotation-refused"
    CHAIN_BROKEN = "audit-chain-broken"
    SEALING_LATE = "audit-sealing-late"
    SIGNING_LATE = "audit-signing-late"


class Alerts:
    """Raises alerts."""

    def __init__(
        self,
        counters: AlertCounters | None = None,
        notifier: Notifier | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self._counters = counters
        self._notifier = notifier
        self._clock = clock
        self._log = structlog.get_logger("alerts")

    def sound(self, alert: Alert, **facts: str | int | None) -> None:
        """Raise *alert*; *facts* are named as in the log, and hold no secrets."""
        at = self._clock()
        self._log.error("alert", alert=str(alert), **facts)
        if self._counters is not None:
            try:
                self._counters.count_alert(str(alert), at)
            except HotWalletError as e:
                self._log.warning("alert-not-counted", alert=str(alert), code=e.code)
        if self._notifier is not None:
            shown = {
                name: sanitize(fact) if isinstance(fact, str) else fact
                for name, fact in facts.items()
            }
            self._notifier.notify(
                {"alert": str(alert), "at": at.isoformat(), "facts": shown}
            )
