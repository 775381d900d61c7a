"""The routes of the role ``sign``; a process without a key does not load them."""

from collections.abc import Mapping
from functools import cache, partial
from typing import TYPE_CHECKING

from api.container import Container
from api.http.json_rpc.endpoint import JSONRPC
from api.http.json_rpc.methods import Methods
from api.http.json_rpc.reads import Reads
from api.http.signing import MessageSigning, TypedDataSigning
from api.http.waiting_requests import WaitingRequests
from signer.model.key import SERVING
from signer.refunds.eth_send_transaction import TransactionSender
from signer.refunds.payment_policy import own_keys
from signer.signing.known_addresses import KnownAddresses
from signer.signing.service import SigningService


if TYPE_CHECKING:
    from api.http.app import App


def add_signing(app: "App", container: Container, waiting: WaitingRequests) -> None:
    """Add ``/rpc`` and the routes under ``/v1/sign``."""
    tenants = container.tenants

    # Not before a request: it compiles the policy.
    open_signing = cache(lambda: _open_signing(container))
    app.add_route("/v1/sign/message", MessageSigning(open_signing, tenants))
    app.add_route("/v1/sign/typed-data", TypedDataSigning(open_signing, tenants))
    open_methods = cache(lambda: _open_methods(container, open_signing()))
    endpoint = JSONRPC(open_methods, container.access, tenants, waiting)
    app.add_route("/rpc", endpoint)
    app.add_route("/rpc/{network}", endpoint)


def _open_signing(container: Container) -> SigningService:
    """Return what signs with the active key; it reserves no nonce."""
    return SigningService(
        lambda: container.ring.active().signer,
        container.policy,
        container.networks,
        container.ledger_clock,
        states=SERVING,
        known=KnownAddresses(
            own_keys=lambda: own_keys(container.ring.cached_keys()),
            denied=container.payment_policy.denied,
            # The active key signs, from which the service pays.
            is_service_wallet=lambda *_: True,
        ),
        blocks=container.store,
    )


def open_transaction_sender(container: Container) -> TransactionSender:
    """Return what accepts the transactions of clients, as refunds."""
    return TransactionSender(
        container.refunds,
        container.store,
        container.ledger_clock,
        container.node_proxies,
    )


def _open_methods(
    container: Container, signing: SigningService
) -> Mapping[str, Methods]:
    """Return the methods of each network, by its name."""
    sender = open_transaction_sender(container)
    return {
        name: Methods(
            name,
            network,
            signing,
            sender,
            container.refunds,
            Reads(
                container.node_proxies[name],
                partial(sender.next_nonce, name, network.chain_id),
            ),
        )
        for name, network in container.networks.items()
    }
