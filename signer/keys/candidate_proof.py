"""
Finds and self-tests a key that an administrator has named, before it may sign.

Each of the two steps has a time limit, so that both end within five seconds even if
the device hangs.  Neither step changes the ring.
"""

from collections.abc import Callable
from dataclasses import replace

from signer.alerts import Alert, Alerts
from signer.deadline import TIMEOUT_MESSAGE, Deadlines
from signer.errors import (
    BackendUnavailableError,
    KeyNotFoundError,
    NewKeyNotFoundError,
    NewKeyUnhealthyError,
    RecoveryError,
    SelfTestPendingError,
    SigningError,
)
from signer.keys.signer import SignerFactory
from signer.model.audit_record import Actor, Operation, Purpose
from signer.model.key import Key, KeyState
from signer.ports.clock import Clock


_STEP_SECONDS = 2.2
"""The time limit of each of the two steps."""

_MAX_THREADS_PER_KEY = 4
"""Administrators may name one key at the same time; the ledger decides who wins."""

_MAX_THREADS = 20
"""How many threads may hang in devices, for all key names together."""

_PENDING = (
    "earlier self-tests of this key have not ended, because its device hangs; try again"
    " later"
)


class CandidateTester:
    """Finds and self-tests candidate keys; thread-safe."""

    def __init__(self, signers: SignerFactory, alerts: Alerts, clock: Clock) -> None:
        self._signers = signers
        self._alerts = alerts
        self._clock = clock
        self._deadlines = Deadlines(_MAX_THREADS_PER_KEY, _MAX_THREADS)

    def find(self, name: str, actor: Actor) -> Key:
        """
        Return the key that *name* currently resolves to, as a pending key.

        Raises:
            InvalidInputError: *name* is malformed.
            NewKeyNotFoundError: There is no such key.
            NewKeyUnhealthyError: The key cannot sign, or its device did not answer in
                time.
            SelfTestPendingError: The device was not asked, because earlier requests
                for the same key still hang.
        """
        try:
            return self._within_deadline(lambda: self._find(name, actor), name)
        except NewKeyUnhealthyError as e:
            if e.reason != KeyNotFoundError.code:
                raise
            raise NewKeyNotFoundError(str(e)) from None

    def self_test(self, key: Key, actor: Actor, operation: Operation) -> None:
        """Sign a random digest with *key*, and verify it; raises as ``find``."""
        purpose = Purpose(
            operation,
            actor=actor.name,
            request_id=actor.request_id,
            token_id=actor.token_id,
        )

        def sign() -> Key:
            self._signers.open(key).self_test(purpose)
            return key

        self._within_deadline(sign, key.key_id)

    def _find(self, name: str, actor: Actor) -> Key:
        now = self._clock()
        directory = self._signers.directory
        key = Key(
            backend=directory.name,
            key_id=directory.resolve(name),
            address="",
            state=KeyState.PENDING,
            created_at=now,
            updated_at=now,
            requested_by=actor.name,
        )
        return replace(key, address=self._signers.open(key).address)

    def _within_deadline(self, work: Callable[[], Key], name: str) -> Key:
        pending = self._deadlines.start(work, name="new-key", subject=name)
        if not pending.is_started:
            raise SelfTestPendingError(_PENDING)
        try:
            if not pending.wait(_STEP_SECONDS):
                raise BackendUnavailableError(TIMEOUT_MESSAGE)
            return pending.result()
        except SigningError as e:
            if isinstance(e, RecoveryError):
                self._alerts.sound(Alert.KEY_MISMATCH, code=e.code)
            raise NewKeyUnhealthyError(str(e), reason=e.code) from None
