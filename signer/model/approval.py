"""What an administrator asks for, and what another administrator decided about it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

import rfc8785


class ApprovalState(StrEnum):
    """A stored value."""

    WAITING = "waiting"
    APPROVED = "approved"
    EXECUTING = "executing"
    DONE = "done"
    REJECTED = "rejected"
    EXPIRED = "expired"


UNUSED = frozenset({ApprovalState.WAITING, ApprovalState.APPROVED})
"""The states that a rejection or the end of the time can still end."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """
    Exactly what will be done: an action, and everything that it applies to.

    ``facts`` name the state that the action ends, such as the time of a stop.  An
    approval then fits this one change, and cannot be used for a later one.
    """

    action: str
    facts: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The proposal as canonical JSON (RFC 8785)."""
        return rfc8785.dumps({"action": self.action, **self.facts}).decode()

    @property
    def digest(self) -> str:
        """The SHA-256 digest of ``text``, as 64 hex digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Approval:
    """
    The request to approve one proposal, identified by the digest of the proposal.

    ``requested_by`` and ``decided_by`` are actors, as audit records name them.  After a
    rejection or the end of its time, a repeated request replaces the row.  ``version``
    counts the changes: each is a compare-and-set on it.  ``is_authentic`` is not
    stored: it is False if the MAC of the stored row is not valid.  No other field of
    such a row can be trusted.
    """

    digest: str
    action: str
    proposal: str
    reason: str
    requested_by: str
    requested_at: datetime
    expires_at: datetime
    state: ApprovalState = ApprovalState.WAITING
    decided_by: str | None = None
    decided_at: datetime | None = None
    version: int = 0
    # ``signer.row_macs`` of all fields above; the store makes it.
    mac: str | None = field(default=None, compare=False, repr=False)
    is_authentic: bool = True

    @classmethod
    def of(
        cls,
        proposal: Proposal,
        *,
        reason: str,
        requested_by: str,
        at: datetime,
        expires_at: datetime,
    ) -> Self:
        """Return the request to approve *proposal*."""
        return cls(
            proposal.digest,
            proposal.action,
            proposal.text,
            reason,
            requested_by,
            at,
            expires_at,
        )

    def is_unused(self, now: datetime) -> bool:
        """Return whether it may be decided at *now*: nothing was changed yet."""
        return self.is_authentic and self.state in UNUSED and now < self.expires_at

    def is_expired(self, now: datetime) -> bool:
        """Return whether its time was over at *now* before it was used."""
        return self.is_authentic and self.state in UNUSED and now >= self.expires_at

    def is_usable(self, now: datetime) -> bool:
        """
        Return whether the change may be made at *now*.

        A change that has begun may be completed at any time: its process may have died.
        """
        has_begun = self.is_authentic and self.state is ApprovalState.EXECUTING
        is_approved = self.state is ApprovalState.APPROVED and self.is_unused(now)
        return has_begun or is_approved
