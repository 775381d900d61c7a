"""
What a whole trace says about acceptances, keys and stops.

The order of a chain is not exactly that of the commits.  The sealer takes the records
that it finds, ordered by the time at which they were drafted.  A record is drafted
before its commit, and the clocks of hosts differ.  ``surely_before`` allows for that.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from signer.audit.trace_events import (
    ACCEPTED,
    RESUMING,
    REVOKED,
    ROTATED,
    STOPPED,
    Event,
)
from signer.model.audit_record import Operation
from signer.model.refund import is_refund_id


SKEW = timedelta(seconds=5)
"""How far the times of records that were sealed together may differ."""

_OF_TRANSACTIONS = frozenset({Operation.TRANSACTION_SIGNING, Operation.KEY_SWEEP})


def surely_before(first: Event, second: Event) -> bool:
    """Return whether *first* was committed before *second*, on all clocks."""
    # Records that were sealed together have ascending times.
    may_be_sealed_together = timedelta(0) <= second.at - first.at <= SKEW
    return first.sequence < second.sequence and not may_be_sealed_together


class History:
    """The facts in all *events* of a trace, which are in the order of the chain."""

    def __init__(self, events: Iterable[Event]) -> None:
        self._accepted = dict[str, Event]()
        self._first_active: str | None = None
        self._rotations = list[tuple[Event, str]]()
        self._revoked = dict[str, Event]()
        # By network, or None for all: stops, and the requests that may end them.
        self._stops = defaultdict[str | None, list[Event]](list)
        for event in events:
            self._add(event)

    def _add(self, event: Event) -> None:
        details = event.details
        if event.name == ACCEPTED:
            self._accepted.setdefault(str(event.refund_id), event)
        elif event.name == ROTATED:
            self._rotate(event)
        elif event.name == REVOKED:
            self._revoked.setdefault(str(details.get("key_address")), event)
        elif event.name in {STOPPED, RESUMING} and "chain_id" not in details:
            self._stops[details.get("network")].append(event)
        elif event.is_reservation and self._first_active is None:
            self._first_active = event.address

    def _rotate(self, event: Event) -> None:
        previous = event.details.get("previous_key_address")
        if not self._rotations:
            self._first_active = previous
        if previous is not None and event.details.get("compromised") is True:
            self._revoked.setdefault(previous, event)
        self._rotations.append((event, str(event.details.get("key_address"))))

    def is_accepted(self, event: Event) -> bool:
        """
        Return whether the refund of *event* may have been accepted before it.

        Sweeps have no acceptance, nor have refunds from before the first audited one.
        """
        id_ = str(event.refund_id)
        if event.fields.get("operation") == Operation.KEY_SWEEP or not self._accepted:
            return True
        acceptance = self._accepted.get(id_)
        if acceptance is not None:
            return not surely_before(event, acceptance)
        first = next(iter(self._accepted.values()))
        return is_refund_id(id_) and _made_at(id_) < first.at - SKEW

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
        """Return whether the key with *address* was revoked before *event*."""
        revocation = self._revoked.get(address)
        return revocation is not None and surely_before(revocation, event)

    def may_be_revoked(self, address: str, event: Event) -> bool:
        """Return whether it may have been revoked before *event*."""
        revocation = self._revoked.get(address)
        return revocation is not None and not surely_before(event, revocation)

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
