"""The database, device, nodes and services that a process talks to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from api.container.configuration import ConfigurationParts
from signer.ports.clock import utc_now


if TYPE_CHECKING:
    from api.auth.verification_keys import KeySource
    from signer.chain.chain import Chain
    from signer.config.networks import Network
    from signer.config.settings import Settings
    from signer.ports.clock import Clock
    from signer.ports.key_backend import KeyDirectory
    from signer.ports.ledger import Ledger
    from signer.ports.node_proxy import NodeProxy
    from signer.ports.screening_service import ScreeningService
    from signer.ports.treasury import Treasury
    from signer.ports.webhook_sender import Notifier, WebhookSender


@dataclass(kw_only=True, eq=False, repr=False)
class ConnectionParts(ConfigurationParts):
    """What the ``open_...`` functions open."""

    open_store: Callable[[Settings], Ledger]
    open_backend: Callable[[Settings], KeyDirectory]
    open_chains: Callable[..., Mapping[str, Chain]]
    open_notifier: Callable[[Settings], Notifier | None]
    open_jwt_keys: Callable[[Settings], KeySource]
    open_webhook_sender: Callable[[Settings], WebhookSender]
    open_screening: Callable[[Settings], ScreeningService | None] = lambda _: None
    open_treasury: Callable[[Settings], Treasury | None] = lambda _: None
    open_node_proxies: Callable[[Mapping[str, Network]], Mapping[str, NodeProxy]] = (
        lambda _: {}
    )
    clock: Clock = utc_now

    @cached_property
    def store(self) -> Ledger:
        """The ledger."""
        return self.open_store(self.settings)

    @cached_property
    def ledger_clock(self) -> Clock:
        """The clock by which all hosts date refunds: the ledger's."""
        from signer.refunds.ledger_clock import LedgerClock

        return LedgerClock(self.store.now)

    @cached_property
    def backend(self) -> KeyDirectory:
        """The device that holds the keys; opening it sends no request."""
        return self.open_backend(self.settings)

    @cached_property
    def chains(self) -> Mapping[str, Chain]:
        """A client of each network, by name; opening them sends no request."""
        return self.open_chains(self.networks, self._observe_node)

    def _observe_node(
        self, network: str, node: str, calls: Sequence[tuple[str, str]], seconds: float
    ) -> None:
        """Measure an exchange with a node: the methods and outcomes of its calls."""

    @cached_property
    def tenants_chains(self) -> Mapping[str, Chain]:
        """
        A client of each network for what tenants ask.

        It has connections and reputations of its own: what a tenant asks can exhaust
        neither those of ``/readyz`` nor make the process distrust a node.
        """
        return self.open_chains(self.networks, self._observe_node)

    @cached_property
    def node_proxies(self) -> Mapping[str, NodeProxy]:
        """Forwards clients' reads to the nodes, by network."""
        return self.open_node_proxies(self.networks)

    @cached_property
    def notifier(self) -> Notifier | None:
        """The webhook that alerts are sent to, if one is configured."""
        return self.open_notifier(self.settings)

    @cached_property
    def jwt_keys(self) -> KeySource:
        """The keys that tokens are verified with."""
        return self.open_jwt_keys(self.settings)

    @cached_property
    def webhook_sender(self) -> WebhookSender:
        """Sends events to webhooks."""
        return self.open_webhook_sender(self.settings)

    @cached_property
    def screening(self) -> ScreeningService | None:
        """The service that screens recipients, if one is configured."""
        return self.open_screening(self.settings)

    @cached_property
    def treasury(self) -> Treasury | None:
        """The service that tops up this wallet, if one is configured."""
        return self.open_treasury(self.settings)
