"""``/metrics`` for Prometheus."""

from collections.abc import Sequence
from typing import ClassVar

from falcon import Request, Response
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from api.http import query
from api.http.middleware import Resource
from api.http.openapi import problem_sets
from api.http.openapi.elements import Element, answer, operation, text
from api.metrics import metric_names
from signer.deadline import TIMEOUT_MESSAGE, Deadlines
from signer.errors import StoreError, StoreUnavailableError


_SCRAPE_SECONDS = 4.0
_SCRAPES_AT_ONCE = 4  # Prometheus servers often come in pairs; operators look as well.

PATHS: dict[str, Element] = {
    "/metrics": {
        "get": operation(
            "getMetrics",
            "Metrics",
            "In the text format of Prometheus. `METRICS_OPEN` makes the route public.",
            tag="Service",
            answers={
                200: answer("The metrics.", text("A page."), media_type="text/plain")
            },
            problems=problem_sets.TOKEN | {"invalid-input"},
            security=[{"bearerToken": ["metrics:read"]}],
            **{"x-roles": ["devops"]},
        )
    }
}


class Metrics(Resource):
    """``/metrics`` in Prometheus's text format, for the role ``devops``."""

    required_role: ClassVar[str | frozenset[str] | None] = "devops"
    required_scope = "metrics:read"
    is_probe = True
    allows_direct = True  # Prometheus scrapes each process, not the proxy.

    def __init__(
        self, collectors: Sequence[Collector], figures: Collector | None = None
    ) -> None:
        """Report what *collectors* read in the database, and *figures* of processes."""
        self._figures = figures
        self._registry = CollectorRegistry(auto_describe=False)
        for collector in collectors:
            self._registry.register(collector)
        self._deadlines = Deadlines(_SCRAPES_AT_ONCE)

    def on_get(self, req: Request, resp: Response) -> None:
        """
        Report the metrics; without those of a database that does not answer.

        StoreUnavailableError if too many scrapes are under way.
        """
        query.parameters(req)
        scrape = self._deadlines.start(
            lambda: generate_latest(self._registry), name="metrics"
        )
        if not scrape.is_started:
            raise StoreUnavailableError(TIMEOUT_MESSAGE)
        facts, is_up = b"", scrape.wait(_SCRAPE_SECONDS)
        if is_up:
            try:
                facts = scrape.result()
            except StoreError:
                is_up = False
        resp.data = facts + self._of_process(is_up=is_up)

        resp.content_type = CONTENT_TYPE_PLAIN_0_0_4

    def _of_process(self, *, is_up: bool) -> bytes:
        registry = CollectorRegistry(auto_describe=False)
        spec = metric_names.DATABASE_UP
        Gauge(spec.name, spec.meaning, registry=registry).set(is_up)
        if self._figures is not None:
            registry.register(self._figures)
        return generate_latest(registry)


class OpenMetrics(Metrics):
    """The public ``/metrics`` of ``METRICS_OPEN``; it holds no secrets."""

    required_role = None
