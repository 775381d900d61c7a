"""What the core asks of the ledger about its signing keys."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from signer.model.approval import ApprovalUse
from signer.model.audit_record import Record
from signer.model.key import ROTATION_HOLD, Key


class KeyStore(Protocol):
    """
    The rows of the key ring.  Every method is one transaction.

    The schema allows at most one active key and at most one pending key.  A change of a
    key raises ``StaleStateError`` if the stored version is not that of the argument.
    """

    def keys(self) -> Sequence[Key]:
        """Return every key: the latest epoch first, then those never activated."""

    def ring_version(self) -> tuple[int, int]:
        """Return what every change of a key changes: how many there are, and a sum."""

    def active_key(self) -> Key | None:
        """Return the active key; None before the first key is enrolled."""

    def enrol(self, key: Key) -> Key:
        """
        Make *key* the active key, unless there is an active key.

        Returns:
            The active key, which another process may have enrolled.

        Raises:
            ConflictError: Another key of the ring has the id or the address of *key*.
        """

    def begin_rotation(
        self, key: Key, now: datetime, hold: timedelta = ROTATION_HOLD
    ) -> Key:
        """
        Make *key* the pending key, or resume its rotation; hold it for *hold*.

        A pending key whose hold has expired does not block this call.  If it is another
        key, it returns to the state that it had before its rotation.

        Raises:
            RotationInProgressError: The hold on the pending key has not expired.
            ConflictError: Another key of the ring has the id or the address of *key*.
            StaleStateError: *key* is the active key, or is blocked.
        """

    def wait_for(self, key: Key, blocked_by: str, at: datetime) -> Key:
        """Leave *key* pending and release the hold; *blocked_by* is the reason code."""

    def reject(self, key: Key, reason: str, at: datetime) -> Key:
        """
        End the rotation to a pending *key*; *reason* is a code.

        A key that was never active becomes rejected, a former key draining.
        """

    def activate(
        self,
        key: Key,
        at: datetime,
        record: Record,
        *,
        replacing: Key | None,
        block: bool = False,
        use: ApprovalUse | None = None,
    ) -> Key:
        """
        Make a pending *key* active, and *replacing* draining, or blocked with *block*.

        *replacing* is the active key as the caller read it, or None if there was none.
        So *record*, which is written in the same transaction, is accurate, and a key
        cannot be blocked unseen.  When this returns, no reservation with the old key is
        in progress.

        *block* marks the old key as compromised.  Refunds that hold one of its nonces
        and were never signed are queued again.  This is the only case, with ``block``,
        in which a refund loses its nonce: no signature for it can exist.  The key's
        wallets are paused until they have been compared with their chains.

        *use* ends an approval in the same transaction.

        Raises:
            KeyRotatedError: The active key is not *replacing*, or has another epoch.
            StaleStateError: The approval has changed.
        """

    def block(
        self, key: Key, at: datetime, record: Record, use: ApprovalUse | None = None
    ) -> Key:
        """
        Mark a former *key* as compromised: it signs nothing from now on.

        This ends a rotation back to the key.  Its unsigned refunds are queued again and
        its wallets paused, as in ``activate``.  In the same transaction, *record* is
        written, and *use* ends an approval.

        Raises:
            RotationInProgressError: The key is pending, and its hold has not expired.
            StaleStateError: *key* is not a former key, or the approval has changed.
        """

    def reinstate(
        self, key: Key, at: datetime, record: Record, use: ApprovalUse | None = None
    ) -> Key:
        """
        Make a revoked *key* draining again: it signs for the nonces that it still has.

        The nonces that its revocation took from refunds stay unused: gaps below refunds
        that it signed.  Its wallets are paused until they have been compared with their
        chains, as in ``block``.  *record* is written in the same transaction.

        Raises:
            StaleStateError: *key* is not revoked.
        """

    def relocate(self, key: Key, key_id: str, at: datetime, record: Record) -> Key:
        """
        Pin *key* to its replica *key_id*; the address and everything else stay.

        When this returns, no intent to sign with the old key id can become durable.
        *record* is written in the same transaction.

        Raises:
            RotationInProgressError: The hold on the pending key has not expired.
            ConflictError: A key of the ring is already pinned to *key_id*.
            StaleStateError: The state of *key* does not allow it to sign.
        """

    def prove(self, address: str, at: datetime) -> None:
        """
        Store that the key of *address* signed at *at*, if it is the active key.

        The version stays, and no MAC covers the time: it shows that a worker runs, and
        decides nothing about what is signed.
        """

    def stranded(self, address: str, limit: int) -> Sequence[str]:
        """
        Return the ids of up to *limit* open refunds that need *address*, oldest first.

        These are refunds that hold a nonce of *address*, and signed sweeps that pay it.
        """

    def retire(
        self, settled: Sequence[str], at: datetime, draft: Callable[[Key], Record]
    ) -> Sequence[tuple[Key, Record]]:
        """
        Retire the draining keys in *settled* that have no open refund or paused wallet.

        *settled* has addresses.  The audit records, which *draft* makes, are written in
        the same transaction, and returned with their keys.
        """
