"""
Proofs that keys sign: one that an administrator has named, and the active one.

To find a named key and to self-test it have a time limit each, so that both end within
five seconds even if the device hangs.  Neither changes the ring.  That the active key
signs is recorded for the processes that have no key.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from signer.alerts import Alert, Alerts
from signer.deadline import TIMEOUT_MESSAGE, Deadlines
from signer.errors import (
    BackendUnavailableError,
    HotWalletError,
    KeyNotFoundError,
    NewKeyNotFoundError,
    NewKeyUnhealthyError,
    RecoveryError,
    SelfTestPendingError,
    SigningError,
)
from signer.keys.keyring import KeyRing
from signer.keys.signer import SignerFactory
from signer.model.audit_record import Actor, Operation, Purpose
from signer.model.key import Key, KeyState
from signer.ports.clock import Clock
from signer.ports.key_store import KeyStore


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


PROVE_EVERY_SECONDS = 10.0
"""How often a worker records that the active key signs."""

LOOK_EVERY_SECONDS = 1.0
"""How often a worker asks whether another key is active, which is proved at once."""

PROOF_VALID_SECONDS = 60.0
"""How old the last proof of the active key may be.  Several periods, since a pass of a
worker may be slow."""


@dataclass(eq=False, repr=False)
class KeyProof:
    """
    Proves the active key every ``PROVE_EVERY_SECONDS``, if it is called as often.

    *check* raises a ``HotWalletError`` if the key does not sign.
    """

    store: KeyStore
    ring: KeyRing
    check: Callable[[], object]
    clock: Clock
    timer: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._due = self._look_due = float("-inf")
        self._seen: str | None = None
        self._log = structlog.get_logger("keys")

    def __call__(self) -> None:
        """Check the key if a check is due, and record that it signs; never raises."""
        is_new = self._has_new_key()
        if self.timer() < self._due and not is_new:
            return
        self._due = self.timer() + PROVE_EVERY_SECONDS
        try:
            self.check()
            self.store.prove(self.ring.active().key.address, self.clock())
        except HotWalletError as e:
            self._log.warning("key-not-proved", code=e.code)

    def _has_new_key(self) -> bool:
        """Return whether another key is active than a moment ago; False if unknown."""
        if self.timer() < self._look_due:
            return False
        self._look_due = self.timer() + LOOK_EVERY_SECONDS
        try:
            key = self.store.active_key()
        except HotWalletError:
            return False  # The next proof reports it.
        before, self._seen = self._seen, None if key is None else key.address
        return before not in {None, self._seen}
