"""
The rows of the key ring: one key is active, and the others were active or may be.

::

    pending --> active --> draining --> retired
       |          ^            |
       v          +------------+  rolled back to
    rejected

A draining key still signs transactions for nonces that were reserved before.  A
*blocked* key was revoked as compromised and signs nothing.  One that was revoked by
mistake may be reinstated for a day: it is draining again.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

from signer.model.sealed_fields import PrimaryKey, Small, Unprotected, sealed
from signer.model.spending_limits import Spending


ROTATION_HOLD = timedelta(seconds=20)
"""How long a rotation belongs to the request that last began or resumed it."""


REINSTATABLE_FOR = timedelta(hours=24)
"""How long after its revocation a key can be reinstated."""


class KeyState(StrEnum):
    """What a key may do."""

    PENDING = "pending"
    ACTIVE = "active"
    DRAINING = "draining"
    RETIRED = "retired"
    REJECTED = "rejected"
    BLOCKED = "blocked"


WATCHED = frozenset({KeyState.PENDING, KeyState.ACTIVE, KeyState.DRAINING})
"""The states in which a key's wallets are compared with their chains."""

FORMER = frozenset({KeyState.DRAINING, KeyState.RETIRED})
"""The states in which a key pays no new refunds, and its address may be swept."""

SIGNING = WATCHED | FORMER
"""The states in which a key signs transactions for its reserved nonces."""

SERVING = frozenset({KeyState.ACTIVE})
"""The states in which nonces are reserved for a key, and new operations use it."""

# Replicas share everything but the region: partition, account and id.
_MULTI_REGION = re.compile(
    r"(arn:aws[a-z-]*:kms:)[a-z0-9-]+(:\d{12}:key/mrk-[A-Za-z0-9-]+)"
)


@sealed("key")
@dataclass(frozen=True)
class Key:
    """
    One key of the ring.

    ``address`` identifies the key and never changes.  ``key_id`` is a KMS key ARN, or a
    CKA_ID in hex, and only a failover changes it.  ``epoch`` numbers the activations of
    the whole ring from 1: it is that of the key's last activation, or None if the key
    was never active.  ``held_until`` is when a pending key's rotation stops belonging
    to ``requested_by``.  ``blocked_by`` is the code of the reason why the key was
    rejected or still waits.  ``version`` counts changes; every update is a
    compare-and-set on it.  ``proved_at`` is when a worker last saw this key sign while
    it was active; only ``KeyStore.prove`` sets it, without a new version.
    """

    backend: str
    key_id: str = field(repr=False)
    address: PrimaryKey[str]
    state: KeyState
    created_at: datetime
    updated_at: datetime
    epoch: int | None = None
    requested_by: str | None = None
    held_until: datetime | None = None
    blocked_by: str | None = None
    version: Small = 0
    mac: str | None = field(default=None, compare=False, repr=False)
    # It may change between two reads of the same version.
    proved_at: Annotated[
        datetime | None,
        Unprotected("only `/readyz` reads it, and it changes without a new version"),
    ] = field(default=None, compare=False)

    @property
    def is_former(self) -> bool:
        """
        Whether the key was active and no longer is, so that it may be revoked.

        A pending key that was active before, as in a rollback, still has its nonces.
        """
        is_rollback = self.state is KeyState.PENDING and self.epoch is not None
        return is_rollback or self.state in FORMER

    @property
    def revoked_at(self) -> datetime | None:
        """When the key was revoked, which was its last change; None if it is not."""
        return self.updated_at if self.state is KeyState.BLOCKED else None

    @property
    def reinstatable_until(self) -> datetime | None:
        """Until when the revoked key may be reinstated; None if it is not revoked."""
        return None if self.revoked_at is None else self.revoked_at + REINSTATABLE_FOR


@dataclass(frozen=True, slots=True)
class SigningCondition:
    """
    A condition on the ring that must hold when an intent to sign becomes durable.

    The key with ``address`` must be in one of ``states``, and its id must still be
    ``key_id``: a failover may have changed it since it was read.  For a sweep, ``pays``
    must be the address of the active key.  No stop of the chain ``stopped_by``, of a
    token that is ``named`` there, or of everything, may be in force, unless it is None.
    ``spendings`` must be within their limits, and are counted.
    """

    address: str
    key_id: str = field(repr=False)
    states: frozenset[KeyState]
    pays: str | None = None
    stopped_by: int | None = None
    named: str = ""
    spendings: tuple[Spending, ...] = ()


def find_key(ring: Iterable[Key], address: str) -> Key | None:
    return next((key for key in ring if key.address == address), None)


def find_active_key(ring: Iterable[Key]) -> Key | None:
    return next((key for key in ring if key.state is KeyState.ACTIVE), None)


def is_blocked(ring: Iterable[Key], address: str | None) -> bool:
    return any(key.address == address and key.state is KeyState.BLOCKED for key in ring)


def is_same_key(one: str, other: str) -> bool:
    """
    Return whether two KMS key ARNs name the same key, possibly in two regions.

    Only a multi-Region key has replicas.  They share its key material, its partition,
    its account, and its id, which begins with ``mrk-``.  Other key ids are chosen per
    region, so that the same id in two regions would name two keys.

    >>> key = ":111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
    >>> is_same_key("arn:aws:kms:eu-central-1" + key, "arn:aws:kms:eu-west-1" + key)
    True
    """
    if one == other:
        return True
    replicas = [_MULTI_REGION.fullmatch(each) for each in (one, other)]
    shared = [each.groups() for each in replicas if each is not None]
    return len(shared) == len(replicas) and shared[0] == shared[1]
