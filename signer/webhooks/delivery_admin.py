"""
Operator commands on deliveries: list them, and send events again.

A replay is audited like the commands on tenants: the intent is durable before anything
changes, and the outcome is recorded afterwards, both with the operator's name.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from signer.audit.actions import AuditAction
from signer.config.tenants import TenantRegistry
from signer.errors import InvalidInputError, NotFoundError
from signer.keys.admin_audit import AdminAudit
from signer.model.audit_record import Actor
from signer.model.event import Delivery, Event
from signer.ports.clock import Clock
from signer.ports.event_store import DeliveryFilter, EventStore


MAX_EVENTS = 100
"""How many events one call may replay by their ids."""

MAX_DEAD = 1000
"""How many deliveries one call of ``replay_dead`` makes due, in one transaction."""

NO_EVENT = "no such event of a tenant with a webhook"

_EVENT_ID = re.compile("evt_[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """
    Deliveries, newest first, each with its event; None if that is not authentic.

    ``next_before`` is the sequence number to continue before; None at the end.
    """

    deliveries: Sequence[tuple[Delivery, Event | None]]
    next_before: int | None


@dataclass(frozen=True, slots=True)
class Replay:
    """The events that are due again, and the ids for which there is none to send."""

    replayed: Sequence[str]
    missing: Sequence[str]


@dataclass(frozen=True, slots=True)
class DeadReplay:
    """How many deliveries are due again; more are left unless *is_complete*."""

    count: int
    is_complete: bool


@dataclass(eq=False, repr=False)
class DeliveryAdmin:
    """Shows and repeats deliveries; every method may raise ``StoreError``."""

    store: EventStore
    registry: TenantRegistry
    admin_audit: AdminAudit
    clock: Clock

    def list(
        self, wanted: DeliveryFilter, limit: int, before: int | None = None
    ) -> DeliveryPage:
        found = self.store.deliveries(limit + 1, wanted, before=before)
        page = found[:limit]
        return DeliveryPage(page, page[-1][0].sequence if len(found) > limit else None)

    def find(self, event_id: str) -> tuple[Delivery, Event | None]:
        """
        Return the delivery of *event_id*.

        Raises:
            NotFoundError: The event has no delivery.
        """
        found = None
        if _EVENT_ID.fullmatch(event_id):
            found = self.store.find_delivery(event_id)
        if found is None:
            raise NotFoundError("there is no delivery of such an event")
        return found

    def replay(self, event_ids: Collection[str], actor: Actor) -> Replay:
        """
        Make events due again, also those that were given up or have arrived.

        A receiver sees the same id again.  An event without a delivery gets one.

        Raises:
            InvalidInputError: There are more than ``MAX_EVENTS``.
            NotFoundError: None of them is an event of a tenant with a webhook.
        """
        ids = [*dict.fromkeys(event_ids)]
        if len(ids) > MAX_EVENTS:
            raise InvalidInputError(
                f"replay at most {MAX_EVENTS} events at a time", field="events"
            )
        known = [each for each in ids if _EVENT_ID.fullmatch(each)]
        action, webhooks = AuditAction.WEBHOOK_REPLAY, self.registry.webhooks()
        with self.admin_audit.attempt(action, actor, events=known):
            done = self.store.replay_deliveries(
                known, self.clock(), lambda event: event.tenant in webhooks
            )
            missing = [each for each in ids if each not in done]
            if not done:
                raise NotFoundError(f"{', '.join(map(ascii, missing))}: {NO_EVENT}")
            self.admin_audit.write(action, actor, events=[*done], count=len(done))
        return Replay(done, missing)

    def replay_dead(self, tenant: str, actor: Actor) -> DeadReplay:
        """
        Make up to ``MAX_DEAD`` given-up deliveries of *tenant* due, oldest first.

        Those that are not authentic stay: repair their rows, and replay them by id.

        Raises:
            NotFoundError: The tenants file has no webhook of *tenant*.
        """
        action = AuditAction.WEBHOOK_REPLAY
        with self.admin_audit.attempt(action, actor, tenant=tenant):
            if tenant not in self.registry.webhooks():
                raise NotFoundError("TENANTS_FILE has no webhook for this tenant")
            count = self.store.replay_dead(tenant, MAX_DEAD, self.clock())
            self.admin_audit.write(action, actor, tenant=tenant, count=count)
        return DeadReplay(count, is_complete=count < MAX_DEAD)
