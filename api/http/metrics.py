"""``/metrics`` for Prometheus."""

from collections.abc import Sequence
from typing import ClassVar

from falcon import Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from api.http import query
from api.http.middleware import Resource
from signer.deadline import Deadlines
from signer.errors import StoreUnavailableError


_SCRAPE_SECONDS = 4.0
_SCRAPES_AT_ONCE = 4  # Prometheus servers often come in pairs; operators look as well.


class Metrics(Resource):
    """``/metrics`` in Prometheus's text format, for the role ``devops``."""

    required_role: ClassVar[str | frozenset[str] | None] = "devops"
    required_scope = "metrics:read"
    allows_direct = True  # Prometheus scrapes each process, not the proxy.

    def __init__(self, collectors: Sequence[Collector]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        for collector in collectors:
            self._registry.register(collector)
        self._deadlines = Deadlines(_SCRAPES_AT_ONCE)

    def on_get(self, req: Request, resp: Response) -> None:
        """Report the metrics; StoreUnavailableError if the database is too slow."""
        query.parameters(req)
        resp.data = self._deadlines.within(
            _SCRAPE_SECONDS,
            lambda: generate_latest(self._registry),
            name="metrics",
            late=StoreUnavailableError,
        )

        resp.content_type = CONTENT_TYPE_PLAIN_0_0_4


class OpenMetrics(Metrics):
    """The public ``/metrics`` of ``METRICS_OPEN``; it holds no secrets."""

    required_role = None
