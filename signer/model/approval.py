"""What an administrator asks for, and what another administrator decided about it."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from signer import strict_json
from signer.errors import InvalidInputError
from signer.model.audit_record import WORKER, Record, is_identified
from signer.model.decision import ApprovalNeed
from signer.model.sealed_fields import FreeText, NotStored, PrimaryKey, Small, sealed


REFUND_PAY = "refund-pay"
"""The action of the proposals to pay a refund."""

BETWEEN_NAMES = " "
"""Between the names in ``decided_by`` of several people."""


class ApprovalState(StrEnum):
    """
    A stored value.

    ::

        waiting --> approved --> done
           |           |
           +-----------+--> rejected
           |           |
           +-----------+--> expired

    ``done`` is stored in the transaction that makes the change.
    """

    WAITING = "waiting"
    APPROVED = "approved"
    DONE = "done"
    REJECTED = "rejected"
    EXPIRED = "expired"


_UNUSED = frozenset({ApprovalState.WAITING, ApprovalState.APPROVED})


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
        import rfc8785  # noqa: PLC0415  An account has no approvals.

        return rfc8785.dumps({"action": self.action, **self.facts}).decode()

    @property
    def digest(self) -> str:
        """The SHA-256 digest of ``text``, as 64 hex digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@sealed("approval")
@dataclass(frozen=True)
class Approval:
    """
    The request to approve one proposal, identified by the digest of the proposal.

    ``requested_by`` and ``decided_by`` are actors, as audit records name them.  After a
    rejection or the end of its time, a repeated request replaces the row.
    ``decided_by`` has several names if the proposal needs several approvals, also those
    of a row that still waits for others.
    ``refund_id`` is the refund that the proposal is to pay.  ``signatures`` are those
    of people with keys of their own (``signer.model.approvers``), each on a line after
    what it decides; the row alone then proves nothing.  ``version`` counts the
    changes: each is a compare-and-set on it.  ``is_authentic`` is not
    stored: it is False if the MAC of the stored row is not valid.  No other field of
    such a row can be trusted.
    """

    digest: PrimaryKey[str]
    action: str
    proposal: str
    reason: FreeText
    requested_by: str
    requested_at: datetime
    expires_at: datetime
    state: ApprovalState = ApprovalState.WAITING
    decided_by: str | None = None
    decided_at: datetime | None = None
    refund_id: str | None = None
    signatures: str | None = None
    version: Small = 0
    mac: str | None = field(default=None, compare=False, repr=False)
    is_authentic: NotStored[bool] = True

    @classmethod
    def of(
        cls,
        proposal: Proposal,
        *,
        reason: str,
        requested_by: str,
        at: datetime,
        expires_at: datetime,
        refund_id: str | None = None,
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
            refund_id=refund_id,
        )

    def verified(self) -> Self:
        """
        Return it as not authentic unless action and digest are those of its proposal.

        A process that has the MAC key and may ask for refunds could otherwise show one
        proposal and have another one approved.
        """
        text = self.proposal.encode(errors="replace")
        if hashlib.sha256(text).hexdigest() == self.digest:
            with suppress(InvalidInputError):
                # Programs that show it parse it again, and must not crash.
                if strict_json.parse(text).get("action") == self.action:
                    return self
        return replace(self, is_authentic=False)

    @property
    def need(self) -> ApprovalNeed | None:
        """What its proposal names; None if the row is not authentic."""
        with suppress(InvalidInputError, ValueError):
            if self.is_authentic:
                facts = strict_json.parse(self.proposal.encode(errors="replace"))
                return ApprovalNeed.parse(facts)
        return None

    @property
    def needed(self) -> int:
        """How many people must approve it."""
        return 1 if self.need is None else self.need.count

    @property
    def approvers(self) -> Sequence[str]:
        """The names of the people who approved it so far, in their order."""
        if self.decided_by is None or self.state is ApprovalState.REJECTED:
            return ()
        if self.needed == 1 and self.signatures is None:
            return (self.decided_by,)
        return tuple(self.decided_by.split(BETWEEN_NAMES))

    @property
    def can_be_approved(self) -> bool:
        """Whether two people can agree: the one who asked is identified, or no person.

        Else only an emergency completes it: the user name of a host proves nothing.
        """
        return self.requested_by == WORKER.name or is_identified(self.requested_by)

    @property
    def is_alone(self) -> bool:
        """Whether fewer people approved it than it needs, in an emergency."""
        if self.decided_by is None or self.state is ApprovalState.WAITING:
            return False
        if self.signatures is not None:
            return "break-glass " in self.signatures
        is_other = is_other_person(self.requested_by, self.decided_by)
        return not is_other or 0 < len(self.approvers) < self.needed

    def is_unused(self, now: datetime) -> bool:
        """Return whether it can be decided at *now*: nothing was changed yet."""
        return self.is_authentic and self.state in _UNUSED and now < self.expires_at

    def is_usable(self, now: datetime) -> bool:
        """Return whether the change may be made at *now*."""
        return self.state is ApprovalState.APPROVED and self.is_unused(now)

    def is_expired(self, now: datetime) -> bool:
        """Return whether its time was over at *now*, and this is not recorded yet."""
        return self.is_authentic and self.state in _UNUSED and now >= self.expires_at


@dataclass(frozen=True, slots=True)
class ApprovalUse:
    """
    The use of an *approval* by the change that it allows.

    The store replaces the approval by *done*, and writes *record*, in the transaction
    of the change.  So the change is made once, and only while it is approved.
    """

    approval: Approval
    done: Approval
    record: Record


def is_other_person(one: str, other: str) -> bool:
    """
    Return whether the actors *one* and *other* are certainly two people.

    Each must be the subject of a token: one person can have several user names.
    Subjects that differ only in upper and lower case count as one person.
    """
    are_identified = is_identified(one) and is_identified(other)
    return are_identified and one.casefold() != other.casefold()
