"""The events of refunds, in one order, and their deliveries to webhooks."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from signer.model.event import Delivery, DeliveryState, Event
from signer.model.refund import Refund
from signer.ports.refund_store import Topic, Watch


@dataclass(frozen=True, slots=True)
class Sequenced:
    """
    What one call of ``EventStore.sequence_events`` did.

    ``count`` is the number of events that were taken, and ``forged`` the ids of those
    that another program wrote, which are left out of the order.
    """

    count: int
    forged: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events with their refunds, and the sequence number to continue after."""

    events: Sequence[tuple[Event, Refund]]
    cursor: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many events were deleted, and the sequence number of the last one."""

    count: int
    last: int


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """A claimed delivery, and its event and refund; None if they are not authentic."""

    delivery: Delivery
    event: Event | None
    refund: Refund | None


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """
    What becomes of a claimed delivery after a request.

    ``due_at`` is when a pending delivery is tried again, or else when the next one of
    the refund is due.
    """

    delivery: Delivery
    state: DeliveryState
    due_at: datetime
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Selects deliveries; a field that is None selects all."""

    tenant: str | None = None
    state: DeliveryState | None = None
    refund_id: str | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """
    The deliveries of one tenant that wait, and those that were given up.

    ``failing`` counts the pending ones that failed at least once; ``oldest`` is the
    time at which the first pending one was stored or tried last.
    """

    tenant: str
    pending: int
    failing: int
    dead: int
    oldest: datetime | None


ALL_DELIVERIES = DeliveryFilter()


class EventStore(Protocol):
    """
    Stores events, which ``RefundStore`` writes with the changes that they are about.

    Transactions commit in another order than they begin.  So an event has no place in
    the order at first: one worker at a time assigns it, after the commit.  A reader of
    the order therefore misses nothing that is before an event that it has read.
    """

    def watch(self, topic: Topic) -> AbstractContextManager[Watch]:
        """Return a context whose value waits for changes of *topic*."""

    def sequence_events(
        self, limit: int, now: datetime, has_webhook: Callable[[Event], bool]
    ) -> Sequenced | None:
        """
        Append up to *limit* events to the order; None if another process does so now.

        The events of one refund are in the order of its changes.  Each that
        *has_webhook* gets a delivery in the same transaction, due at *now*.
        """

    def events(self, tenant: str, after: int, limit: int, now: datetime) -> EventPage:
        """
        Return up to *limit* events of *tenant* after the sequence number *after*.

        Events that another program wrote are left out, so a page may be shorter, or
        empty with another cursor.
        """

    def prune_events(self, before: datetime, after: int, limit: int) -> Pruned | None:
        """
        Delete up to *limit* events from before *before*, with their deliveries.

        Those after the sequence number *after* are looked at, the oldest first.  An
        event whose delivery has not arrived, or arrived after *before*, stays; so does
        the newest one of each tenant from before *before*.  None: another process does
        so now.
        """

    def claim_deliveries(
        self, free: Mapping[str, int], limit: int, now: datetime, until: datetime
    ) -> Sequence[DueDelivery]:
        """
        Claim up to *limit* deliveries that are due, until *until*.

        Of each tenant at most *free* are claimed, of the first tenants first.
        Of each refund only the first pending one is claimed, so that its events arrive
        in order.
        """

    def record_attempts(
        self, attempts: Sequence[DeliveryAttempt], now: datetime
    ) -> None:
        """
        Store the outcome of *attempts* in one transaction, at *now*.

        An attempt whose claim expired, and that another process made again, is dropped.
        """

    def deliveries(
        self,
        limit: int,
        wanted: DeliveryFilter = ALL_DELIVERIES,
        *,
        before: int | None = None,
    ) -> Sequence[tuple[Delivery, Event | None]]:
        """
        Return up to *limit* deliveries, newest first, each with its authentic event.

        They have sequence numbers below *before*.
        """

    def find_delivery(self, event_id: str) -> tuple[Delivery, Event | None] | None:
        """Return the delivery of one event, as ``deliveries``; None if it has none."""

    def replay_deliveries(
        self,
        event_ids: Collection[str],
        now: datetime,
        has_webhook: Callable[[Event], bool],
    ) -> Sequence[str]:
        """
        Make the deliveries of *event_ids* due again; return the ids that exist.

        An event that had no delivery gets one if it *has_webhook*.
        """

    def replay_dead(self, tenant: str, limit: int, now: datetime) -> int:
        """
        Make up to *limit* dead deliveries of *tenant* due again, the oldest first.

        Those that are dead because they are not authentic are left out.  Return how
        many it were.
        """

    def webhook_backlog(self) -> Sequence[Backlog]:
        """Return what waits and what was given up, by tenant."""
