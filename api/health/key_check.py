"""
Does the key sign?  Proved by a signature now and then, and told when it turns.

Signatures that the process makes anyway are proof as well, so that a busy process
never signs for the sake of its health.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from threading import Lock

import structlog

from signer.alerts import Alert, Alerts, AlertThrottle
from signer.deadline import TIMEOUT_MESSAGE, Deadlines
from signer.errors import (
    BackendUnavailableError,
    HotWalletError,
    StoreError,
)
from signer.keys.signing_alarm import alert_of


PROOF_SECONDS = 30.0
"""For how long a signature proves that the key signs."""

RETRY_SECONDS = 5.0
"""How soon a key that did not sign is asked again."""

# Whoever counts and passes on alerts may hang as well.
_ALERTS_AT_ONCE = 4


class KeyCheck:
    """
    Raises what ails the key, and sounds an alert when it falls ill.

    Threads share one.  It is called for every round of the readiness; the device is
    not.
    """

    def __init__(
        self,
        self_test: Callable[[], object],
        last_signature_at: Callable[[], float | None],
        alerts: Alerts,
        *,
        every: float = PROOF_SECONDS,
        again: float = RETRY_SECONDS,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Prove the key by *self_test*, unless it signed by itself in the meantime.

        *last_signature_at* answers when a signature last succeeded, by *timer*, whose
        seconds *every* and *again* are in.
        """
        self._self_test = self_test
        self._last_signature_at = last_signature_at
        self._alerts = alerts
        self._every = every
        self._again = again
        self._timer = timer
        self._throttle = AlertThrottle(timer, remind=math.inf)
        self._deadlines = Deadlines(_ALERTS_AT_ONCE)
        self._log = structlog.get_logger("health")
        self._lock = Lock()
        self._proved_at = float("-inf")
        self._asked_at = float("-inf")
        self._error: HotWalletError | None = None
        # What was called for, since when the key was not well: a database that is ill
        # in between takes nothing of that back.
        self._ailment: HotWalletError | None = None

    def __call__(self) -> None:
        """
        Do nothing, if the key signs.

        Raises:
            HotWalletError: What its last self test failed with.
        """
        try:
            due = self._is_due()
        except HotWalletError as e:  # The key cannot even be opened.
            self._failed(e)
            raise
        if due:
            self._prove()
        with self._lock:
            error = self._error
        if error is not None:
            raise error

    def is_late(self) -> None:
        """Take note that the key does not answer."""
        self._failed(BackendUnavailableError(TIMEOUT_MESSAGE))

    def _is_due(self) -> bool:
        signed_at = self._last_signature_at()
        now = self._timer()
        with self._lock:
            proved_at = max(self._proved_at, signed_at or float("-inf"))
            ill = self._error is not None and proved_at <= self._asked_at
            due = (
                now - self._asked_at >= self._again
                if ill
                else now - proved_at >= self._every
            )
            if due:
                self._asked_at = now
        if not ill:
            self._recovered()
        return due

    def _prove(self) -> None:
        try:
            self._self_test()
        except HotWalletError as e:
            self._failed(e)
        else:
            with self._lock:
                self._proved_at = self._timer()
            self._recovered()

    def _recovered(self) -> None:
        with self._lock:
            self._error = None
            was, self._ailment = self._ailment, None
            self._throttle.clear()
        if was is not None:
            self._log.info("key-recovered", code=was.code)

    def _failed(self, error: HotWalletError) -> None:
        alert = _alert_of(error)
        with self._lock:
            self._error = error
            if alert is None:
                return
            self._ailment = error
            if not self._throttle.is_due(alert):
                return
        sound = partial(self._alerts.sound, alert, code=error.code)
        # Not here: counting needs the database, which may be what hangs.
        self._deadlines.start(sound, name="alert")


def _alert_of(error: HotWalletError) -> Alert | None:
    if isinstance(error, StoreError):
        return None  # No record, no signature: the key was not asked.
    return alert_of(error)
