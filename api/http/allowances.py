"""The routes of what may be refunded: tokens, networks and previews."""

from collections.abc import Mapping

from falcon import Request, Response

from api.http import query
from api.http.body import read_object
from api.http.concurrency import WaitingRequests
from api.http.middleware import Resource
from api.http.problems import problem_of
from api.request_context import request_id, tenant
from api.views.allowances import (
    NetworkListDocument,
    PreviewDocument,
    TokenListDocument,
    network_document,
)
from signer.config.networks import Network
from signer.config.tenants import TenantRegistry
from signer.refunds.allowances import list_allowances
from signer.refunds.preview import Previewer
from signer.refunds.request_body import read_refund


class _ReadingResource(Resource):
    """A route that changes nothing."""

    required_role = "merchant"
    is_for_tenants = True
    required_scope = "refunds:read"


class _ConfigurationResource(_ReadingResource):
    def __init__(
        self, networks: Mapping[str, Network], tenants: TenantRegistry
    ) -> None:
        self._networks = networks
        self._tenants = tenants


class Tokens(_ConfigurationResource):
    """``/v1/tokens``: what the caller's tenant may have refunded."""

    def on_get(self, req: Request, resp: Response) -> None:
        """List each token of each network, with the limits of the tenant."""
        query.parameters(req)
        limits = self._tenants.limits(tenant(req))

        tokens = [*list_allowances(self._networks, limits)]
        resp.media = TokenListDocument.of(None, tokens=tokens).dump()


class NetworksResource(_ConfigurationResource):
    """``/v1/networks``: where refunds are paid."""

    def on_get(self, req: Request, resp: Response) -> None:
        """List the networks, without the addresses of their nodes."""
        query.parameters(req)
        limits = self._tenants.limits(tenant(req))

        networks = [
            network_document(name, network, limits)
            for name, network in self._networks.items()
        ]
        resp.media = NetworkListDocument(networks=networks).dump()


class RefundPreview(_ReadingResource):
    """``/v1/refunds/preview``: what would happen with a refund."""

    def __init__(self, previewer: Previewer, waiting: WaitingRequests) -> None:
        self._previewer = previewer
        self._waiting = waiting

    def on_post(self, req: Request, resp: Response) -> None:
        """Answer 200 with the outcome, also if the policy would refuse the refund."""
        query.parameters(req)
        request = read_refund(read_object(req))
        with self._waiting.asking_nodes(tenant(req)):
            preview = self._previewer.preview(tenant(req), request)

        problem = None
        if preview.refusal is not None:
            problem = problem_of(preview.refusal).document(request_id(req))
        resp.media = PreviewDocument.of(preview, problem=problem).dump()
