"""A service that screens recipients: what tenants see of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from falcon.testing import TestClient

from api.container import Container
from api.http.app import create_app
from backends.sql import SQLStore
from signer.webhooks.signatures import Secret
from tests.api.service import BODY, Pace, build_container
from tests.api.support import SettableClock, bearer, post
from tests.extras.screening.screened import screened, screening_service
from tests.fixtures.plain_server import Server
from tests.fixtures.scripted_chain import ScriptedChain


@pytest.fixture
def service() -> Iterator[Server]:
    """Return a running service, which allows the recipient of ``BODY``."""
    with screening_service(screened(True, BODY["recipient"])) as service:
        yield service


@pytest.fixture
def client(
    sqlite_store: SQLStore,
    clock: SettableClock,
    pace: Pace,
    node: ScriptedChain,
    service: Server,
    tmp_path: Path,
) -> TestClient:
    """Return a client of a process that is configured to ask the service."""
    secret = tmp_path / "secret"
    secret.write_text(Secret.generate().format())
    secret.chmod(0o600)
    environ = {"APP_ENV": "test", "SCREENING_URL": service.url}
    configured = Container(environ={**environ, "SCREENING_SECRET_FILE": str(secret)})
    screening = configured.screening
    container = build_container(
        sqlite_store, clock, client=node, pace=pace, screening=screening
    )
    return TestClient(create_app(container))


def test_an_allowed_recipient_is_accepted(client: TestClient, service: Server) -> None:
    assert post(client, BODY).status_code == 201
    assert len(service.asked) == 1


def test_a_denied_recipient_is_refused(client: TestClient, service: Server) -> None:
    """As one of the deny list; the preview shows the same."""
    service.reply = screened(False, BODY["recipient"])

    refused = post(client, BODY)
    preview = client.simulate_post("/v1/refunds/preview", json=BODY, headers=bearer())

    assert refused.status_code == 422
    assert refused.json["rule"] == "recipient-denied"
    assert BODY["recipient"] not in refused.text
    assert preview.json["outcome"] == "refuse"


def test_without_an_answer_nothing_is_accepted(
    client: TestClient, service: Server
) -> None:
    """The caller repeats the request later."""
    service.reply = (500, {}, b"")

    refused = post(client, BODY)

    assert refused.status_code == 503
    assert refused.json["code"] == "screening-unavailable"
    assert refused.headers["Retry-After"] == "30"
    assert "CANARY" not in refused.text


def test_nothing_is_asked_without_the_setting() -> None:
    assert Container(environ={"APP_ENV": "test"}).screening is None
