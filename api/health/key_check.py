"""
Checks that the active key signs, and raises an alert when it does not.

The check is a self-test: a signature that is of no use otherwise.  The signatures of
refunds count as well, so a busy process makes no self-tests.
"""

import time
from collections.abc import Callable
from functools import partial
from threading import Lock

import structlog

from signer.alerts import Alert, Alerts
from signer.deadline import TIMEOUT_MESSAGE, Deadlines
from signer.errors import BackendUnavailableError, HotWalletError, StoreError
from signer.keys.signing_alarm import alert_of


_SELF_TEST_SECONDS = 1800.0
"""How long after a signature the key counts as healthy, unless one fails: a call of the
device costs money, and a refund tries the key when it matters."""

_RETRY_SECONDS = 5.0  # How long to wait after the key failed its self-test.
_ALERTS_AT_ONCE = 4  # Threads for alerts, since database and webhook may hang.


class KeyCheck:
    """
    Raises the error of the last self-test, and an alert when its kind changes.

    Threads share one instance.  It is called at each readiness check, but makes a
    self-test only when one is due.
    """

    def __init__(
        self,
        self_test: Callable[[], object],
        last_results: Callable[[], tuple[float | None, float | None]],
        alerts: Alerts,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Check the key by *self_test*, which raises if the key does not sign.

        *last_results* returns when a signature last succeeded, and when one last
        failed, by *timer*.
        """
        self._self_test = self_test
        self._last_results = last_results
        self._alerts = alerts
        self._timer = timer
        self._deadlines = Deadlines(_ALERTS_AT_ONCE)
        self._log = structlog.get_logger("health")
        self._lock = Lock()
        self._passed_at = float("-inf")
        self._tested_at = float("-inf")
        self._error: HotWalletError | None = None
        # The error of the last alert.  A database failure in between does not clear it.
        self._alerted: HotWalletError | None = None

    def __call__(self) -> None:
        """Return if the key signs; else raise the error of the last self-test."""
        try:
            if self._is_due():
                self._self_test()
                with self._lock:
                    self._passed_at = self._timer()
                self._record_success()
        except HotWalletError as e:  # Of the self-test, or the key cannot be opened.
            self._record_failure(e)
        with self._lock:
            error = self._error
        if error is not None:
            raise error

    def report_timeout(self) -> None:
        """Record that the self-test did not end in time."""
        self._record_failure(BackendUnavailableError(TIMEOUT_MESSAGE))

    def _is_due(self) -> bool:
        signed_at, failed_at = self._last_results()
        now = self._timer()
        with self._lock:
            passed_at = max(self._passed_at, signed_at or float("-inf"))
            is_failing = self._error is not None and passed_at <= self._tested_at
            is_in_doubt = is_failing or (failed_at or float("-inf")) > passed_at
            # A database failure is no result about the key: test again at once.
            pause = 0.0 if isinstance(self._error, StoreError) else _RETRY_SECONDS
            due = (
                now - self._tested_at >= pause
                if is_in_doubt
                else now - passed_at >= _SELF_TEST_SECONDS
            )
            if due:
                self._tested_at = now
        if not is_failing:
            self._record_success()
        return due

    def _record_success(self) -> None:
        with self._lock:
            self._error = None
            alerted, self._alerted = self._alerted, None
        if alerted is not None:
            self._log.info("key-recovered", code=alerted.code)
            end = partial(self._alerts.resolve, Alert.KEY_UNHEALTHY)
            self._deadlines.start(end, name="alert")

    def _record_failure(self, error: HotWalletError) -> None:
        # The database failed before the device was used: no alert about the key.
        alert = None if isinstance(error, StoreError) else alert_of(error)
        with self._lock:
            self._error = error
            if alert is None:
                return
            last, self._alerted = self._alerted, error
            if last is not None and alert_of(last) is alert:
                return
        sound = partial(self._alerts.sound, alert, code=error.code)
        # In a thread of its own: the alert is counted in the database, which may hang.
        self._deadlines.start(sound, name="alert")
