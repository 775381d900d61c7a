"""Which routes a process serves, by its role, and what each application opens."""

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NoReturn

import pytest
from falcon.testing import TestClient

from api.container import Container
from api.http.app import create_app
from api.http.openapi.document import complete_document
from backends.sql import SQLStore
from signer.config.settings import Role
from tests.api.administrators import authorized
from tests.api.service import BODY, Pace, build_container
from tests.api.support import SettableClock, get, post
from tests.fixtures.ledger import refund_page


OF_TAGS = {
    "Refunds": Role.REFUNDS,
    "Tokens": Role.REFUNDS,
    "Administration": Role.ADMIN,
    "Service": Role.ADMIN,
    "Signing": Role.SIGN,
}
"""The role that has the operations of each tag, if they need a token."""


def _routes() -> Iterator[tuple[str, str, Role | None]]:
    """Yield method, path and role of each route; None if all roles have it."""
    for path, operations in complete_document()["paths"].items():
        for method, operation in operations.items():
            (tag,) = operation["tags"]
            concrete = re.sub("{code}", "forbidden", path)
            concrete = re.sub("{network}", "local", concrete)
            is_public = operation["security"] == [{}]
            # The keys of webhooks are public, where refunds are served.
            of_role = not is_public or tag == "Refunds"
            yield (
                method.upper(),
                re.sub("{[a-z_]+}", "0" * 64, concrete),
                OF_TAGS[tag] if of_role else None,
            )


ROUTES = [*_routes()]
"""``test_openapi`` shows that the document has each route that is served."""

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
    tokens = (None, authorized(), authorized(roles=["merchant"], scope=None))
    for method, path, of_role in ROUTES:
        found = [
            client.simulate_request(method, path, headers=token).status_code
            for token in tokens
        ]
        if of_role is None:
            assert found[0] == 200, path
        elif role in {of_role, Role.ALL}:
            expected = 200 if path == "/v1/webhooks/keys" else 401
            assert found[0] == expected, path
        else:
            assert found == [404] * 3, path


def test_an_administrator_accepts_no_refunds(
    application: Application, sqlite_store: SQLStore
) -> None:
    assert post(application(Role.ADMIN), BODY).status_code == 404
    assert refund_page(sqlite_store, "gateway-1").refunds == ()


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
