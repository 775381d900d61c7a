"""
A key that an administrator names proves itself before it serves.

It is found and it signs, within five seconds all in all, whatever hangs; and until then
the ring is as it was.
"""

from collections.abc import Callable
from dataclasses import replace

from signer.alerts import Alert, Alerts
from signer.audit.record import Actor, Operation, Purpose
from signer.deadline import Deadlines
from signer.errors import NewKeyUnhealthyError, RecoveryError, SigningError
from signer.keyring import OpenSigner
from signer.keys import Key, KeyState
from signer.ports import Clock, KeyDirectory


_STEP_SECONDS = 2.2
"""To find the new key, and to let it sign: within five seconds all in all."""

_AT_ONCE = 4
"""So many administrators may ask at once; one who loses is told by the ledger."""


class Prover:
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
        self._deadlines = Deadlines(at_once=_AT_ONCE)

    def find(self, name: str, actor: Actor) -> Key:
        """
        Return the key that *name* means now, by what never moves.

        Raises:
            InvalidInputError: *name* is malformed.
            NewKeyUnhealthyError: There is none that could sign, or no answer in time.
        """
        return self._healthy(lambda: self._find(name, actor))

    def prove(self, key: Key, actor: Actor, operation: Operation) -> None:
        """
        Let *key* sign what is of no use to anybody.

        Raises:
            NewKeyUnhealthyError: The signature does not recover to it, or there is
                none in time.
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

        self._healthy(signed)

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

    def _healthy(self, work: Callable[[], Key]) -> Key:
        """Return what *work* returns, if the new key answers well and in time."""
        try:
            return self._deadlines.within(_STEP_SECONDS, work, name="new-key")
        except SigningError as e:
            if isinstance(e, RecoveryError):
                self._alerts.sound(Alert.KEY_MISMATCH, code=e.code)
            raise NewKeyUnhealthyError(str(e), reason=e.code) from None
