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

import re
from collections.abc import Iterable
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

SERVING = frozenset({KeyState.ACTIVE})
"""Where a key gives nonces out, and signs whatever else begins now."""

# What replicas share: partition, account and id.  The region stands between.
_MULTI_REGION = re.compile(
    r"(arn:aws[a-z-]*:kms:)[a-z0-9-]+(:\d{12}:key/mrk-[A-Za-z0-9-]+)"
)


@dataclass(frozen=True, slots=True)
class Key:
    """
    One key of the ring.

    ``address`` is what never moves.  ``key_id`` is where the key is pinned, and only a
    relocation changes it: a KMS key ARN, or a CKA_ID in hex.  ``epoch`` counts the
    activations of the whole ring from 1, and is the key's last one; None means that
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

    @property
    def is_former(self) -> bool:
        """
        Whether it served, and another one does: it may be given up.

        One that is being rotated back to is pending, and has its old nonces still.
        """
        waits = self.state is KeyState.PENDING and self.epoch is not None
        return waits or self.state in FORMER


@dataclass(frozen=True, slots=True)
class SigningCondition:
    """
    How a key's row must stand at the moment at which an intent to sign is durable.

    It names the place that is about to be asked, from which the key may have been
    relocated since somebody looked, and is in one of *states*.  Where it is about to
    *pay* the ring itself, that address is the active key's at the same moment.
    """

    address: str
    key_id: str = field(repr=False)
    states: frozenset[KeyState]
    pays: str | None = None


def find_key(ring: Iterable[Key], address: str) -> Key | None:
    """Return the key of *ring* with *address*, or None."""
    return next((key for key in ring if key.address == address), None)


def find_active_key(ring: Iterable[Key]) -> Key | None:
    """Return the active key of *ring*, or None before the first key is enrolled."""
    return next((key for key in ring if key.state is KeyState.ACTIVE), None)


def is_blocked(ring: Iterable[Key], address: str | None) -> bool:
    """Return whether *ring* has a key with *address* that was revoked."""
    return any(key.address == address and key.state is KeyState.BLOCKED for key in ring)


def is_same_key(one: str, other: str) -> bool:
    """
    Say whether two KMS key ARNs name one key in two regions.

    Only a multi-Region key has replicas: they share its material and its id, which
    begins with ``mrk-``, and never leave its partition or account.  A region makes up
    every other id by itself, so that the same one elsewhere would be another key.

    >>> key = ":111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
    >>> is_same_key("arn:aws:kms:eu-central-1" + key, "arn:aws:kms:eu-west-1" + key)
    True
    """
    if one == other:
        return True
    replicas = [_MULTI_REGION.fullmatch(each) for each in (one, other)]
    shared = [each.groups() for each in replicas if each is not None]
    return len(shared) == len(replicas) and shared[0] == shared[1]
