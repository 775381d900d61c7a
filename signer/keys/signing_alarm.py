"""
Raises an alert when signing fails, and repeats it at most every five minutes.

A device that rejects calls because of their rate is one alert until it rejects none.

It covers every signature of a refund, a sweep or a message.  Self-tests raise alerts of
their own (``api/health/readiness.py``).
"""

import time
from collections import deque
from collections.abc import Callable
from threading import Lock

from signer.alerts import Alert, Alerts
from signer.errors import EncodingError, HotWalletError, RecoveryError


WINDOW_SECONDS = 60.0
"""For how long a call counts: longer than the pause before refunds are retried."""

THROTTLED_SHARE = 0.1
"""From which share on operators are alerted."""

_FEWEST = 5  # A single rejected call is no trend.


class ThrottleWindow:
    """Counts the calls of the last ``WINDOW_SECONDS``; thread-safe."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        """Measure time with *timer*, in seconds."""
        self._timer = timer
        self._lock = Lock()
        self._calls: deque[tuple[float, int, int]] = deque()
        self._attempts = 0
        self._throttled = 0

    def add(self, attempts: int, throttled: int) -> None:
        """Count *attempts* calls, *throttled* of which the device rejected."""
        with self._lock:
            self._forget()
            self._calls.append((self._timer(), attempts, throttled))
            self._attempts += attempts
            self._throttled += throttled

    @property
    def share(self) -> float:
        with self._lock:
            self._forget()
            if self._throttled < _FEWEST:
                return 0.0
            return self._throttled / self._attempts

    @property
    def is_fine(self) -> bool:
        """Whether there were calls, and none was rejected; no calls say nothing."""
        with self._lock:
            self._forget()
            return bool(self._calls) and self._throttled == 0

    def _forget(self) -> None:
        oldest = self._timer() - WINDOW_SECONDS
        while self._calls and self._calls[0][0] < oldest:
            _, attempts, throttled = self._calls.popleft()
            self._attempts -= attempts
            self._throttled -= throttled


LASTING_SECONDS = 30.0
"""How long retryable errors must last before they raise an alert."""


class SigningAlarm:
    """Raises and throttles alerts about signing; thread-safe."""

    def __init__(
        self, alerts: Alerts, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._alerts = alerts
        self._timer = timer
        self._lock = Lock()
        self._failing_since: dict[str | None, float] = {}
        self._calls = ThrottleWindow(timer)

    def called(self, backend: str, attempts: int, throttled: int) -> None:
        """
        Record calls of the device, *throttled* of which it rejected for their rate.

        Each signature may succeed in the end, and nothing else shows it.
        """
        self._calls.add(attempts, throttled)
        share = self._calls.share
        if self._calls.is_fine:  # Not below the bound, about which it may vary.
            self._alerts.resolve(Alert.BACKEND_THROTTLED, backend=backend)
        elif share > THROTTLED_SHARE:
            percent = round(100 * share)
            self._alerts.remind(
                Alert.BACKEND_THROTTLED, backend=backend, percent=percent
            )

    def signed(self, address: str) -> None:
        with self._lock:
            self._failing_since.pop(address, None)
        # A key that signs now and then is one alert in five minutes.
        alert = Alert.KEY_UNHEALTHY
        self._alerts.resolve(alert, due_at_once=False, address=address)

    def failed(self, address: str | None, error: HotWalletError) -> None:
        """
        Record that signing with the key of *address* failed with *error*.

        A retryable error raises an alert only if errors have lasted for
        ``LASTING_SECONDS`` without a signature in between.
        """
        now, alert = self._timer(), alert_of(error)
        with self._lock:
            since = self._failing_since.setdefault(address, now)
            if error.retryable and now - since < LASTING_SECONDS:
                return
        self._alerts.remind(alert, code=error.code, address=address)


def alert_of(error: HotWalletError) -> Alert:
    if isinstance(error, RecoveryError | EncodingError):
        return Alert.KEY_MISMATCH
    return Alert.KEY_UNHEALTHY
