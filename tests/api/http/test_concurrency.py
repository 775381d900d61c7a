"""How many requests of one tenant are answered at the same time."""

from contextlib import suppress

import pytest
from falcon import Request, Response
from falcon.testing import Result, TestClient, create_environ

from api.http.app import create_app
from api.http.concurrency import ConcurrencyMiddleware
from api.principal import tenant_of_thread
from backends.sql import SQLStore
from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import RateLimitedError
from tests.api.service import BODY, Pace, build_container
from tests.api.support import SettableClock, bearer, get, post


TENANTS = TenantRegistry(
    {
        "shop": Tenant(subjects=("pod-1", "pod-2"), max_concurrent_requests=1),
        "other": Tenant(subjects=("other",)),
    }
)


@pytest.fixture
def pace() -> Pace:
    """What happens while a request waits."""
    return Pace()


@pytest.fixture
def client(sqlite_store: SQLStore, pace: Pace) -> TestClient:
    container = build_container(
        sqlite_store, SettableClock(), pace=pace, tenants=TENANTS
    )
    return TestClient(create_app(container))


def _list(client: TestClient, sub: str) -> Result:
    return get(client, "/v1/refunds", sub=sub)


def test_a_tenant_has_a_limit(client: TestClient, pace: Pace) -> None:
    """Its subjects share it; another tenant's requests are answered meanwhile."""
    meanwhile: list[Result] = []

    def ask() -> None:
        meanwhile.extend(_list(client, sub) for sub in ("pod-1", "pod-2", "other"))
        pace.meanwhile = lambda: None

    pace.meanwhile = ask
    outer = post(client, BODY, Prefer="wait=1", **bearer(sub="pod-1"))
    *refused, other = meanwhile

    assert [each.status_code for each in refused] == [429, 429]
    assert {each.json["code"] for each in refused} == {"too-many-requests"}
    assert {each.headers["retry-after"] for each in refused} == {"1"}
    assert (other.status_code, outer.status_code) == (200, 201)
    assert outer.headers["preference-applied"] == "wait=1"
    assert _list(client, "pod-2").status_code == 200


@pytest.mark.parametrize("path", ["/v1/refunds/unknown", "/v1/refunds?limit=0"])
def test_a_request_that_fails_ends(client: TestClient, path: str) -> None:
    """A failed request is counted no longer, and neither is a forbidden one."""
    statuses = [get(client, path, sub="pod-1").status_code for _ in range(5)]
    forbidden = get(client, "/v1/refunds", sub="pod-1", roles=["admin"])

    assert len({*statuses}) == 1
    assert statuses[0] in {400, 404}
    assert forbidden.status_code == 403
    assert _list(client, "pod-1").status_code == 200


@pytest.mark.parametrize(
    ("threads", "tenants", "at_most"),
    [
        (4, {"other", "third"}, 3),
        (16, {"other", "third"}, 12),
        (1, {"other", "third"}, 1),
        (4, {"other"}, None),
        (4, None, None),
    ],
)
def test_one_of_several_tenants_leaves_a_quarter_of_the_threads(
    threads: int, tenants: set[str] | None, at_most: int | None
) -> None:
    """By default; a single tenant, and development without tenants, have them all."""
    listed = {name: Tenant(subjects=(name,)) for name in tenants or ()}
    registry = TenantRegistry(None if tenants is None else listed)
    middleware = ConcurrencyMiddleware(threads, registry)
    admitted = 0
    with suppress(RateLimitedError):
        while admitted < 20:
            req = Request(create_environ())
            req.context.tenant = "other"
            middleware.process_resource(req, Response(), None, {})
            admitted += 1

    assert admitted == (20 if at_most is None else at_most)


@pytest.mark.parametrize(("tenants", "known"), [(("a", "b"), "a"), (("a",), None)])
def test_a_thread_works_for_the_tenant_of_its_request(
    tenants: tuple[str, ...], known: str | None
) -> None:
    """If several share the process; until the thread begins its next request."""
    registry = TenantRegistry({name: Tenant(subjects=(name,)) for name in tenants})
    middleware = ConcurrencyMiddleware(4, registry)
    req, resp = Request(create_environ()), Response()
    req.context.tenant = "a"

    middleware.process_request(req, resp)
    middleware.process_resource(req, resp, None, {})
    assert tenant_of_thread.get() == known
    middleware.process_request(Request(create_environ()), resp)
    assert tenant_of_thread.get() is None
