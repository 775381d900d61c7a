"""
A key that an administrator names proves itself before it serves.

It is found and it signs, within five seconds all in all, whatever hangs; and until then
the ring is as it was.
"""

from collections.abc import Callable
from dataclasses import replace

from signer.alerts import Alert, Alerts
from signer.deadline import LATE, Deadlines
from signer.errors import (
    BackendUnavailableError,
    KeyNotFoundError,
    NewKeyNotFoundError,
    NewKeyUnhealthyError,
    ProofsPendingError,
    RecoveryError,
    SigningError,
)
from signer.keys.keyring import OpenSigner
from signer.model.audit_record import Actor, Operation, Purpose
from signer.model.key import Key, KeyState
from signer.ports import Clock, KeyDirectory


_STEP_SECONDS = 2.2
"""To find the new key, and to let it sign: within five seconds all in all."""

_AT_ONCE = 4
"""So many administrators may name one key at once; the ledger tells who loses."""

_IN_ALL = 20
"""So many threads may hang in devices, whatever keys are named."""

_UNENDED = "earlier proofs of the key are not over yet: its device hangs; ask again"


class CandidateTester:
    """Finds keys and has them sign, for administrators; threads share it."""

    def __init__(
        self,
        directory: KeyDirectory,
        open_signer: OpenSigner,
        alerts: Alerts,
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._open_signer = open_signer
        self._alerts = alerts
        self._clock = clock
        self._deadlines = Deadlines(_AT_ONCE, _IN_ALL)

    def find(self, name: str, actor: Actor) -> Key:
        """
        Return the key that *name* means now, by what never moves.

        Raises:
            InvalidInputError: *name* is malformed.
            NewKeyNotFoundError: No key has this name.
            NewKeyUnhealthyError: There is none that could sign, or no answer in time.
            ProofsPendingError: It was not asked, since it never answered before.
        """
        try:
            return self._healthy(lambda: self._find(name, actor), name)
        except NewKeyUnhealthyError as e:
            if e.reason != KeyNotFoundError.code:
                raise
            raise NewKeyNotFoundError(str(e)) from None

    def prove(self, key: Key, actor: Actor, operation: Operation) -> None:
        """
        Let *key* sign what is of no use to anybody.

        Raises:
            NewKeyUnhealthyError: The signature does not recover to it, or there is
                none in time.
            ProofsPendingError: It was not asked, since it never answered before.
        """
        purpose = Purpose(
            operation,
            actor=actor.name,
            request_id=actor.request_id,
            token_id=actor.token_id,
        )

        def signed() -> Key:
            self._open_signer(key).prove(purpose)
            return key

        self._healthy(signed, key.key_id)

    def _find(self, name: str, actor: Actor) -> Key:
        now = self._clock()
        key = Key(
            backend=self._directory.name,
            key_id=self._directory.resolve(name),
            address="",
            state=KeyState.PENDING,
            created_at=now,
            updated_at=now,
            requested_by=actor.name,
        )
        return replace(key, address=self._open_signer(key).address)

    def _healthy(self, work: Callable[[], Key], name: str) -> Key:
        """Return what *work* returns, if the key *name* answers well and in time."""
        pending = self._deadlines.start(work, name="new-key", subject=name)
        if not pending.is_begun:
            raise ProofsPendingError(_UNENDED)
        try:
            if not pending.wait(_STEP_SECONDS):
                raise BackendUnavailableError(LATE)
            return pending.result()
        except SigningError as e:
            if isinstance(e, RecoveryError):
                self._alerts.sound(Alert.KEY_MISMATCH, code=e.code)
            raise NewKeyUnhealthyError(str(e), reason=e.code) from None
