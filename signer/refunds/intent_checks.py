"""
Renews the checks of the intents to sign of a batch, by one read for all of them.

An intent is written at the reservation, before it is known what is signed.  The checks
of that commit are valid for a moment, and a long batch takes more time.
"""

from collections.abc import Sequence
from datetime import datetime
from threading import Lock

from signer.model.key import SIGNING, Key, find_active_key, find_key
from signer.model.payment import PaymentPurpose
from signer.model.transaction import Transaction
from signer.ports.clock import Clock
from signer.ports.ledger import Ledger
from signer.refunds.saved_steps import is_just_committed, is_valid_since


class IntentChecks:
    """
    The checks of a batch of transactions of one chain; thread-safe.

    They are those with which ``Journal.append`` writes a new intent: the key of the
    ring may sign under the same id, and no stop is in force.  Both are read after the
    time from which they are valid.  The commit of the signed bytes fails if a stop
    begins or the key is revoked after the read, as after the commit of an intent.
    """

    def __init__(
        self, store: Ledger, clock: Clock, transactions: Sequence[Transaction]
    ) -> None:
        self._store = store
        self._clock = clock
        self._transactions = transactions
        self._lock = Lock()
        self._read_at: datetime | None = None
        self._keys: Sequence[Key] = ()

    def allow(self, transaction: Transaction) -> bool:
        """
        Return whether *transaction* may be signed now with the intent that it has.

        If not, a new intent decides.  A stop of one token counts for all of the batch.

        Raises:
            StoreError: They cannot be read.
        """
        now = self._clock()
        if transaction.intent is None:
            return False
        if is_just_committed(transaction, now):
            return True
        with self._lock:
            now = self._clock()  # Another thread may have read meanwhile.
            if self._read_at is None or not is_valid_since(self._read_at, now):
                self._read_at, self._keys = now, self._read()
            keys = self._keys
        return _may_sign(transaction, keys)

    def _read(self) -> Sequence[Key]:
        """Return the keys of the ring; none if a stop forbids one of the batch."""
        named = " ".join(each.named for each in self._transactions)
        chain_id = self._transactions[0].chain_id
        is_stopped = self._store.find_stop(chain_id, named) is not None
        return () if is_stopped else self._store.keys()


def _may_sign(transaction: Transaction, keys: Sequence[Key]) -> bool:
    key, active = find_key(keys, transaction.sender), find_active_key(keys)
    return (
        key is not None
        and key.key_id == transaction.key_id
        and key.state in SIGNING
        and all(
            active is not None and each.recipient == active.address
            for each in transaction.payments
            if each.purpose is PaymentPurpose.SWEEP
        )
    )
