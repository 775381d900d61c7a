"""
The keys that sign or have signed, as rows: one is active, the others are its past.

::

    pending --> active --> draining --> retired
       |          ^            |
       v          +------------+  rolled back to
    rejected

A *blocked* key is one that was given up as compromised: it signs nothing at all, while
a draining one goes on signing for the nonces that it gave out.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


ROTATION_HOLD = timedelta(seconds=20)
"""For how long a rotation belongs to whoever began it, or took it up, last."""


class KeyState(StrEnum):
    """What a key may do."""

    PENDING = "pending"
    ACTIVE = "active"
    DRAINING = "draining"
    RETIRED = "retired"
    REJECTED = "rejected"
    BLOCKED = "blocked"


WATCHED = frozenset({KeyState.PENDING, KeyState.ACTIVE, KeyState.DRAINING})
"""Where a key's wallets are compared with their chains."""

FORMER = frozenset({KeyState.DRAINING, KeyState.RETIRED})
"""Where a key pays no refunds any more, and may be swept."""

SIGNING = WATCHED | FORMER
"""Where a key signs for the nonces that it gave out."""


@dataclass(frozen=True, slots=True)
class Key:
    """
    One key of the ring.

    ``key_id`` is what never moves: a KMS key ARN, or a CKA_ID in hex.  ``epoch`` counts
    the activations of the whole ring from 1, and is the key's last one; None means that
    it was never active.  ``held_until`` says how long a pending key's rotation belongs
    to ``requested_by``.  ``blocked_by`` is a code: why it was rejected, or still waits.
    ``version`` counts the changes: each is a compare-and-set on it.
    """

    backend: str
    key_id: str = field(repr=False)
    address: str
    state: KeyState
    created_at: datetime
    updated_at: datetime
    epoch: int | None = None
    requested_by: str | None = None
    held_until: datetime | None = None
    blocked_by: str | None = None
    version: int = 0
