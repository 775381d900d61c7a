"""Which routes a process serves, by its role, and what each application opens."""

from collections.abc import Callable
from functools import cached_property
from typing import NoReturn

import pytest
from falcon.testing import TestClient

from api.actions.catalogue import ACTIONS
from api.container import Container
from api.extras.console import is_console
from api.http.app import create_app
from backends.sql import SQLStore
from signer.config.settings import Role
from tests.api.administrators import authorized
from tests.api.service import BODY, Pace, build_container
from tests.api.support import SettableClock, get, post


IDS = {"refund_id": "rf_" + "0" * 32, "digest": "0" * 64, "event_id": "evt_0"}

REFUND = f"/v1/refunds/{IDS['refund_id']}"

OF_REFUNDS = [
    ("POST", "/v1/refunds"),
    ("GET", "/v1/refunds"),
    ("GET", "/v1/refunds/export"),
    ("POST", "/v1/refunds/batch"),
    ("POST", "/v1/refunds/preview"),
    ("GET", REFUND),
    ("POST", f"{REFUND}/cancel"),
    ("GET", f"{REFUND}/explain"),
    ("GET", "/v1/tokens"),
    ("GET", "/v1/networks"),
    ("GET", "/v1/events"),
]
OF_ADMINISTRATORS = [
    *(
        ("POST", each.path.format(address="0x00", tenant="shop", **IDS))
        for each in ACTIONS
    ),
    ("GET", "/v1/admin/keys"),
    ("GET", "/v1/admin/stops"),
    ("GET", "/v1/admin/approvals"),
    ("GET", "/v1/admin/webhooks/deliveries"),
    ("GET", "/v1/admin/webhooks/deliveries/evt_0"),
    ("GET", "/metrics"),
]
OF_SIGNERS = [
    ("POST", "/rpc"),
    ("POST", "/rpc/local"),
    ("POST", "/v1/sign/message"),
    ("POST", "/v1/sign/typed-data"),
]
PUBLIC = [("GET", "/v1/webhooks/keys")]
PROBES = [
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/problems"),
    ("GET", "/problems/forbidden"),
]

SERVED = {
    Role.ALL: OF_REFUNDS + OF_ADMINISTRATORS + OF_SIGNERS,
    Role.REFUNDS: OF_REFUNDS,
    Role.ADMIN: OF_ADMINISTRATORS,
    Role.SIGN: OF_SIGNERS,
}

Application = Callable[[Role], TestClient]


def _with_role(container: Container, role: Role) -> Container:
    container.settings = container.settings.model_copy(update={"serve_role": role})
    return container


@pytest.fixture
def application(container: Container) -> Application:
    """A function that returns the application of a role."""
    return lambda role: TestClient(create_app(_with_role(container, role)))


@pytest.mark.parametrize("role", Role)
def test_a_process_serves_the_routes_of_its_role(
    application: Application, role: Role
) -> None:
    """Its own routes need a token; the others do not exist, also for a token."""
    client = application(role)
    everything = OF_REFUNDS + OF_ADMINISTRATORS + OF_SIGNERS
    tokens = (None, authorized(), authorized(roles=["merchant"], scope=None))
    found = {
        (method, path): [
            client.simulate_request(method, path, headers=token).status_code
            for token in tokens
        ]
        for method, path in everything
    }

    assert [each for each in everything if found[each] != [404] * 3] == SERVED[role]
    assert {found[each][0] for each in SERVED[role]} == {401}


@pytest.mark.parametrize("role", Role)
def test_every_role_has_the_public_routes(application: Application, role: Role) -> None:
    """Probes and documentation."""
    client = application(role)

    for method, path in PROBES:
        assert client.simulate_request(method, path).status_code == 200


def test_the_route_table_is_complete(container: Container) -> None:
    """
    Each route of the application is in one of the lists above.

    ``tests/extras/console/test_sessions.py`` lists those of the console.
    """
    app = create_app(_with_role(container, Role.ALL))
    known = OF_REFUNDS + OF_ADMINISTRATORS + OF_SIGNERS + PUBLIC + PROBES
    listed = {path for _, path in known}
    routes = []
    nodes = [*app._router._roots]
    while nodes:
        node = nodes.pop()
        nodes += node.children
        if node.uri_template is not None and not is_console(node.uri_template):
            routes.append(node.uri_template)

    shapes = {
        route.replace("{refund_id}", REFUND.rsplit("/", 1)[1])
        .replace("{tenant}", "shop")
        .replace("{digest}", "0" * 64)
        .replace("{address}", "0x00")
        .replace("{code}", "forbidden")
        .replace("{event_id}", "evt_0")
        .replace("{network}", "local")
        for route in routes
    }
    assert shapes == listed


def test_an_administrator_accepts_no_refunds(
    application: Application, sqlite_store: SQLStore
) -> None:
    assert post(application(Role.ADMIN), BODY).status_code == 404
    assert sqlite_store.list("gateway-1").refunds == ()


@pytest.mark.parametrize("is_open", [True, False])
def test_no_metrics_are_open_beside_refunds(
    container: Container, *, is_open: bool
) -> None:
    """``METRICS_OPEN`` does not bring the route back."""
    settings = container.settings
    container.settings = settings.model_copy(update={"metrics_open": is_open})
    client = TestClient(create_app(_with_role(container, Role.REFUNDS)))

    assert client.simulate_get("/metrics").status_code == 404


class _WithoutDevice(Container):
    @cached_property
    def backend(self) -> NoReturn:
        raise AssertionError("the device was opened")


def test_refunds_are_accepted_without_a_device(
    sqlite_store: SQLStore, clock: SettableClock, pace: Pace
) -> None:
    """Every route of refunds works in a process that cannot open a key."""
    prepared = build_container(sqlite_store, clock, pace=pace)
    container = _WithoutDevice(environ=prepared.environ, clock=prepared.clock)
    opened = ("store", "chains", "tenants_chains", "jwt_keys", "notifier")
    for part in (*opened, "networks", "ledger_clock", "tenants", "access"):
        setattr(container, part, getattr(prepared, part))
    client = TestClient(create_app(_with_role(container, Role.REFUNDS)))
    accepted = post(client, BODY, Prefer="respond-async")
    path = accepted.headers["location"]
    shown = [get(client, each) for each in (path, f"{path}/explain", "/v1/refunds")]

    assert accepted.status_code == 201
    assert {each.status_code for each in shown} == {200}
    assert "backend" not in vars(container)
