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
from signer.signing.service import SigningService


if TYPE_CHECKING:
    from api.http.app import App


def add_signing(app: "App", container: Container, waiting: WaitingRequests) -> None:
    """Add ``/rpc`` and the routes under ``/v1/sign``."""
    tenants = container.tenants

    def open_signing() -> SigningService:
        return container.signing  # Not before a request: it compiles the policy.

    app.add_route("/v1/sign/message", MessageSigning(open_signing, tenants))
    app.add_route("/v1/sign/typed-data", TypedDataSigning(open_signing, tenants))
    open_methods = cache(lambda: _open_methods(container))
    endpoint = JSONRPC(open_methods, container.access, tenants, waiting)
    app.add_route("/rpc", endpoint)
    app.add_route("/rpc/{network}", endpoint)


def _open_methods(container: Container) -> Mapping[str, Methods]:
    """Return the methods of each network, by its name."""
    sender = container.transaction_sender
    return {
        name: Methods(
            name,
            network,
            container.signing,
            sender,
            container.refunds,
            Reads(
                container.node_proxies[name],
                partial(sender.next_nonce, name, network.chain_id),
            ),
        )
        for name, network in container.networks.items()
    }
