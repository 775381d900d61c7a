"""What the routes of one application share."""

from functools import cached_property
from typing import TYPE_CHECKING

from api.container import Container
from api.http.concurrency import WaitingRequests
from api.http.exports import Exports
from signer.refunds.gas_price_check import GasPriceCheck
from signer.refunds.preview import Previewer
from signer.webhooks.event_feed import EventFeed


if TYPE_CHECKING:
    from api.http.documentation import Description


class Parts:
    """The parts of the process, and what only its routes use."""

    def __init__(
        self,
        container: Container,
        waiting: WaitingRequests,
        description: "Description",
    ) -> None:
        self.container = container
        self.waiting = waiting
        self.description = description

    def open_refunds(self) -> None:
        """Open what answers tenants; ConfigurationError if that is not possible."""
        # At the start, and not in the first request.
        _ = self.container.refunds, self.container.explainer, self.previewer

    @cached_property
    def exports(self) -> Exports:
        """Sends files to tenants."""
        return Exports(self.container.store)

    @cached_property
    def previewer(self) -> Previewer:
        """Says what would happen with a refund."""
        container, store = self.container, self.container.store
        clock = container.ledger_clock
        return Previewer(
            store,
            store,
            container.tenants_chains,
            wallets=container.wallets,
            clock=clock,
            tenants=container.tenants,
            gas_price_check=GasPriceCheck(store, container.alerts, clock),
            policy=container.payment_policy,
        )

    @cached_property
    def event_feed(self) -> EventFeed:
        """Reads the events of a tenant."""
        container = self.container
        keep = container.settings.event_retention
        return EventFeed(container.store, keep, container.ledger_clock)
