"""What the core asks of the ledger for the sake of its keys."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from signer.model.audit_record import Record
from signer.model.key import Key


class KeyStore(Protocol):
    """
    The key ring's rows.  Every method is one transaction.

    At most one key is active and at most one pending, by the schema.
    """

    def keys(self) -> Sequence[Key]:
        """Return every key: the latest epoch first, then those that never served."""

    def active_key(self) -> Key | None:
        """Return the key that signs; None before the first one was enrolled."""

    def enrol(self, key: Key) -> Key:
        """
        Make *key* the active one, unless there is an active key.

        Returns:
            The active key, whoever enrolled it.
        """

    def begin_rotation(self, key: Key, now: datetime) -> Key:
        """
        Make *key* the pending one, or take up its rotation again.

        A pending key whose hold is over is not in the way; another one becomes what it
        was before.

        Raises:
            RotationInProgressError: Somebody holds the pending key.
            ConflictError: The ring knows its id, or its address, of another key.
            StaleStateError: *key* is the active one, or blocked.
        """

    def wait_for(self, key: Key, blocked_by: str, at: datetime) -> Key:
        """
        Keep a pending *key* pending, and let go of it; *blocked_by* says why.

        Raises:
            StaleStateError: The stored version is not that of *key*.
        """

    def reject(self, key: Key, reason: str, at: datetime) -> Key:
        """
        End the rotation to a pending *key*: rejected, or draining as it was before.

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
        Make a pending *key* the active one, and *replacing* draining or blocked.

        *replacing* is the active key as it was seen, or None if there was none: what
        *record* says of it is true, and nobody blocks a key that he has not seen.  Once
        this returns, no reservation with it is under way either.  With *block*, refunds
        that it has a nonce for and never signed are queued again: the one case in which
        a refund loses its nonce, since no signature can be out.  *record* is written
        with it.

        Raises:
            KeyRotatedError: *replacing*, with its epoch, is no more the active key.
            StaleStateError: The stored version is not that of *key*.
        """

    def block(self, key: Key, at: datetime, record: Record) -> Key:
        """
        Give up a former *key* as compromised: it signs nothing any more.

        That ends a rotation back to it.  Refunds that it never signed are queued again,
        as ``activate`` does it.

        Raises:
            RotationInProgressError: It is pending, and somebody holds it.
            StaleStateError: The stored version is not that of *key*, or it is no former
                one.
        """

    def relocate(self, key: Key, key_id: str, at: datetime, record: Record) -> Key:
        """
        Pin *key*, which may sign, to another place: *key_id*.  All else stays.

        Once this returns, no intent to sign in the old place becomes durable any more.
        *record* is written with it.

        Raises:
            RotationInProgressError: Somebody holds the pending key.
            ConflictError: *key_id* is another key's of the ring.
            StaleStateError: The stored version is not that of *key*, or it may sign
                nothing.
        """

    def stranded(self, address: str, limit: int) -> Sequence[str]:
        """
        Return the ids of open refunds with nonces of *address*, oldest first.

        And of signed sweeps that pay it.
        """

    def retire(
        self, settled: Sequence[str], at: datetime, draft: Callable[[Key], Record]
    ) -> Sequence[tuple[Key, Record]]:
        """
        Retire the draining keys that no open refund has, and no paused wallet.

        Only those with an address in *settled*.

        Returns:
            Each with the record that *draft* made of it, and that was written with it.
        """
