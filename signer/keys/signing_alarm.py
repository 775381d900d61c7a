"""
A key that does not sign, or a device that signs with another one: who is called.

Whoever needs a signature meets that first: the worker with a refund, the API with one
that it pays at once, an administrator who empties an address.  Readiness, which has the
key sign for the sake of its health, calls for itself (``api/health/key_check.py``).
"""

import time
from collections.abc import Callable
from threading import Lock

from signer.alerts import Alert, Alerts, AlertThrottle
from signer.errors import EncodingError, HotWalletError, RecoveryError


LASTING_SECONDS = 30.0
"""For how long a device may be away, or busy, before anybody is called."""


class SigningAlarm:
    """Sounds the alert, once and then now and then; threads share it."""

    def __init__(
        self, alerts: Alerts, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._alerts = alerts
        self._timer = timer
        self._lock = Lock()
        self._failing_since: dict[str | None, float] = {}
        self._throttle = AlertThrottle(timer)

    def signed(self, address: str) -> None:
        """Take note that the key with *address* has signed."""
        with self._lock:
            self._failing_since.pop(address, None)

    def failed(self, address: str | None, error: HotWalletError) -> None:
        """
        Call for help because the key with *address* did not sign, but of *error*.

        What may pass is told when it has lasted, without a signature in between.
        """
        now, alert = self._timer(), alert_of(error)
        with self._lock:
            since = self._failing_since.setdefault(address, now)
            if error.retryable and now - since < LASTING_SECONDS:
                return
        if self._throttle.is_due(alert, (address, alert)):
            self._alerts.sound(alert, code=error.code, address=address)


def alert_of(error: HotWalletError) -> Alert:
    """Return which alert it is that a key failed with *error*."""
    if isinstance(error, RecoveryError | EncodingError):
        return Alert.KEY_MISMATCH
    return Alert.KEY_UNHEALTHY
