"""The port to the key ring in the ledger."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from signer.model.audit_record import Record
from signer.model.key import Key


class KeyStore(Protocol):
    """
    Stores the rows of the key ring.  Every method is one transaction.

    The schema allows at most one active key and at most one pending key.
    """

    def keys(self) -> Sequence[Key]:
        """Return every key: the latest epoch first, then those never active."""

    def active_key(self) -> Key | None:
        """Return the active key, or None before the first key is enrolled."""

    def enrol(self, key: Key) -> Key:
        """
        Make *key* the active key, unless there is one already.

        Returns:
            The active key, which another process may have enrolled.
        """

    def begin_rotation(self, key: Key, now: datetime) -> Key:
        """
        Make *key* the pending key, or resume its rotation.

        Another pending key whose hold has expired returns to its state before its
        rotation.

        Raises:
            RotationInProgressError: The hold of the pending key has not expired.
            ConflictError: Another key of the ring has the id or the address of *key*.
            StaleStateError: *key* is active or blocked.
        """

    def wait_for(self, key: Key, blocked_by: str, at: datetime) -> Key:
        """
        Keep *key* pending, release its hold, and store the reason *blocked_by*.

        Raises:
            StaleStateError: The stored version is not that of *key*.
        """

    def reject(self, key: Key, reason: str, at: datetime) -> Key:
        """
        End the rotation to a pending *key*.

        The key becomes rejected, or draining if it was active before.

        Raises:
            StaleStateError: The stored version is not that of *key*.
        """

    def activate(
        self,
        key: Key,
        at: datetime,
        record: Record,
        *,
        replacing: Key | None,
        block: bool = False,
    ) -> Key:
        """
        Make a pending *key* active, and *replacing* draining, or blocked with *block*.

        *replacing* is the active key as the caller has read it, or None if there was
        none.  Only that key is replaced, so that the caller cannot block a key that it
        has not read, and *record*, written in the same transaction, is true.  Once this
        returns, no reservation with *replacing* is in progress.

        With *block*, refunds that have a nonce of *replacing* and were never signed
        return to the queue.  This is the only case in which a refund loses its nonce:
        no signature for it can exist.

        Raises:
            KeyRotatedError: *replacing*, with its epoch, is no longer the active key.
            StaleStateError: The stored version is not that of *key*.
        """

    def block(self, key: Key, at: datetime, record: Record) -> Key:
        """
        Block a former *key* as compromised: it signs nothing any more.

        This ends a rotation back to the key.  Refunds that it never signed return to
        the queue, as in ``activate``.  *record* is written in the same transaction.

        Raises:
            RotationInProgressError: The key is pending and its hold has not expired.
            StaleStateError: The stored version is not that of *key*, or it is not a
                former key.
        """

    def relocate(self, key: Key, key_id: str, at: datetime, record: Record) -> Key:
        """
        Change the id of *key* to *key_id*, that of its replica; nothing else changes.

        Once this returns, no intent to sign with the old id becomes durable.  *record*
        is written in the same transaction.

        Raises:
            RotationInProgressError: The hold of the pending key has not expired.
            ConflictError: Another key of the ring has the id *key_id*.
            StaleStateError: The stored version is not that of *key*, or its state does
                not allow it to sign.
        """

    def stranded(self, address: str, limit: int) -> Sequence[str]:
        """
        Return up to *limit* ids of open refunds with nonces of *address*, oldest first.

        Signed sweeps that pay *address* are included.
        """

    def retire(
        self, settled: Sequence[str], at: datetime, draft: Callable[[Key], Record]
    ) -> Sequence[tuple[Key, Record]]:
        """
        Retire the draining keys in *settled* without open refunds or paused wallets.

        *settled* has addresses.

        Returns:
            Each retired key with the record that *draft* made of it, which was written
            in the same transaction.
        """
