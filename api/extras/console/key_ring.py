"""The keys that were active, with what each still has to finish."""

from collections.abc import Sequence
from dataclasses import dataclass

from api.container import Container
from signer.model.key import Key, find_active_key


@dataclass(frozen=True, slots=True)
class ServedKey:
    """
    A key that is or was active, and the ids of open refunds that it has signed.

    ``may_be_reinstated`` is whether it was revoked less than a day ago.
    """

    key: Key
    refunds: Sequence[str]
    may_be_reinstated: bool


@dataclass(frozen=True, slots=True)
class KeyRingView:
    """The active key, None if there is none, and all that were, the newest first."""

    active: Key | None
    served: Sequence[ServedKey]


def read_key_ring(container: Container, keys: Sequence[Key]) -> KeyRingView:
    """Return the view of *keys*; StoreError if the ledger does not answer."""
    now = container.ledger_clock()
    served = []
    for key in keys:
        if key.epoch is not None:
            until = key.reinstatable_until
            may_be_reinstated = until is not None and now < until
            refunds = container.revocation.stranded(key.address)
            served.append(ServedKey(key, refunds, may_be_reinstated))
    return KeyRingView(find_active_key(keys), served)
