"""
Raises alerts: logs each one, counts it, and notifies the operator.

A failure to count or to notify is logged, and never stops the caller.
"""

from enum import StrEnum

import structlog

from signer.errors import HotWalletError
from signer.ports import AlertCounters, Clock, Notifier, utc_now
from signer.redact import sanitize


class Alert(StrEnum):
    """Every alert; ``docs/how-to/alarms.md`` says what to do about each."""

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
        """Raise *alert* with *facts*, which must not contain secrets."""
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
                {"alert": str(alert), "at": at.isoformat(), "facts": sanitized}
            )
