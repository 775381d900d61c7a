"""
What a whole trace says about acceptances, approvals, keys and stops.

The order of a chain is not exactly that of the commits.  The sealer takes the records
that it finds, ordered by the time at which they were drafted.  A record is drafted
before its commit, and the clocks of hosts differ.  ``surely_before`` allows for that.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from signer.model.approval import ApprovalState
from signer.model.audit_record import Operation
from signer.model.refund import is_refund_id
from tests.support.conformance.events import (
    ACCEPTED,
    APPROVED,
    PROPOSED,
    REINSTATED,
    RESUMING,
    REVOKED,
    ROTATED,
    STOPPED,
    Event,
)


SKEW = timedelta(seconds=5)
"""How far the times of records that were sealed together may differ."""

_OF_THE_SERVICE = frozenset({Operation.KEY_SWEEP, Operation.NONCE_FILL})

_OF_TRANSACTIONS = _OF_THE_SERVICE | {Operation.TRANSACTION_SIGNING}


def surely_before(first: Event, second: Event) -> bool:
    """Return whether *first* was committed before *second*, on all clocks."""
    # Records that were sealed together have ascending times.
    may_be_sealed_together = timedelta(0) <= second.at - first.at <= SKEW
    return first.sequence < second.sequence and not may_be_sealed_together


class History:
    """The facts in all *events* of a trace, which are in the order of the chain."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._accepted = dict[str, Event]()
        # By refund: the first proposal and its digest.  By digest: the approval.
        self._proposed = dict[str, tuple[Event, str]]()
        self._approved = dict[str, Event]()
        self._first_active: str | None = None
        self._rotations = list[tuple[Event, str]]()
        # By address: revocations and reinstatements.
        self._revocations = defaultdict[str, list[tuple[Event, bool]]](list)
        # By network, or None for all: stops, and the requests that may end them.
        self._stops = defaultdict[str | None, list[Event]](list)
        for event in events:
            self._add(event)

    def _add(self, event: Event) -> None:
        details = event.details
        if event.name == ACCEPTED:
            self._accepted.setdefault(str(event.refund_id), event)
        elif event.name == PROPOSED and event.proposed_refund_id is not None:
            proposed = event, str(details.get("digest"))
            self._proposed.setdefault(event.proposed_refund_id, proposed)
        elif event.name == APPROVED and details.get("state") == ApprovalState.DONE:
            self._approved.setdefault(str(details.get("digest")), event)
        elif event.name == ROTATED:
            self._rotate(event)
        elif event.name in {REVOKED, REINSTATED}:
            revocations = self._revocations[str(details.get("key_address"))]
            revocations.append((event, event.name == REVOKED))
        elif event.name in {STOPPED, RESUMING} and "chain_id" not in details:
            self._stops[details.get("network")].append(event)
        elif event.is_reservation and self._first_active is None:
            self._first_active = event.address

    def _rotate(self, event: Event) -> None:
        previous = event.details.get("previous_key_address")
        if not self._rotations:
            self._first_active = previous
        if previous is not None and event.details.get("compromised") is True:
            self._revocations[previous].append((event, True))
        self._rotations.append((event, str(event.details.get("key_address"))))

    def is_accepted(self, event: Event) -> bool:
        """
        Return whether the refund of *event* may have been accepted before it.

        Sweeps and fillers have no acceptance, nor have refunds from before the first
        audited one.
        """
        id_ = str(event.refund_id)
        operation = event.fields.get("operation")
        if operation in _OF_THE_SERVICE or not self._accepted:
            return True
        acceptance = self._accepted.get(id_)
        if acceptance is not None:
            return not surely_before(event, acceptance)
        first = next(iter(self._accepted.values()))
        return is_refund_id(id_) and _made_at(id_) < first.at - SKEW

    def is_unapproved(self, event: Event) -> bool:
        """Return whether the refund of *event* surely waited for an approval then."""
        proposed, digest = self._proposed.get(str(event.refund_id), (None, ""))
        if proposed is None or not surely_before(proposed, event):
            return False
        approval = self._approved.get(digest)
        return approval is None or surely_before(event, approval)

    def is_active(self, address: str, event: Event) -> bool:
        """Return whether the key with *address* may have been active at *event*."""
        possible = {self._first_active}
        for rotation, active in self._rotations:
            if surely_before(rotation, event):
                possible = {active}
            elif not surely_before(event, rotation):
                possible.add(active)
        return address in possible

    def is_surely_revoked(self, address: str, event: Event) -> bool:
        is_revoked = False
        for each, revokes in self._revocations.get(address, ()):
            if revokes:
                is_revoked = is_revoked or surely_before(each, event)
            elif not surely_before(event, each):
                is_revoked = False
        return is_revoked

    def may_be_reinstated(self, address: str, event: Event) -> bool:
        """Return whether it may have been reinstated before *event*, at any time."""
        return any(
            not revokes and not surely_before(event, each)
            for each, revokes in self._revocations.get(address, ())
        )

    def may_be_revoked(self, address: str, event: Event) -> bool:
        """Return whether it may have been revoked before *event*, at any time."""
        return any(
            revokes and not surely_before(event, each)
            for each, revokes in self._revocations.get(address, ())
        )

    def is_stopped(self, event: Event) -> bool:
        """Return whether a stop surely forbade the intent *event*."""
        if event.fields.get("operation") not in _OF_TRANSACTIONS:
            return False
        networks = (None, event.fields.get("network"))
        return any(self._was_stopped(network, event) for network in networks)

    def _was_stopped(self, network: str | None, event: Event) -> bool:
        stopped = False
        for each in self._stops.get(network, ()):
            if each.name == STOPPED:
                stopped = stopped or surely_before(each, event)
            elif not surely_before(event, each):
                stopped = False
        return stopped


def _made_at(refund_id: str) -> datetime:
    """Return the time in an id of ``new_refund_id``."""
    return datetime.fromtimestamp(int(refund_id[3:15], 16) / 1000, UTC)
