"""A service that screens recipients: what tenants see of it."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from falcon.testing import Result, TestClient
from pydantic import SecretStr

from api.container import Container
from api.extras.screening.client import AT_ONCE, LIST_SECONDS, ScreeningClient
from api.http.app import create_app
from backends.sql import SQLStore
from signer.webhooks.signatures import Secret
from tests.api.batches import codes, member, submit
from tests.api.service import BODY, Pace, build_container
from tests.api.support import SettableClock, bearer, post
from tests.extras.screening.screened import screened, screening_service
from tests.fixtures.plain_server import Reply, Server
from tests.fixtures.scripted_chain import ScriptedChain
from tests.support.waiting import Timer, eventually


@pytest.fixture
def service() -> Iterator[Server]:
    """Return a running service, which allows the recipient of ``BODY``."""
    with screening_service(screened(True, BODY["recipient"])) as service:
        yield service


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Return the file of the secret that the process shares with the service."""
    path = tmp_path / "secret"
    path.write_text(Secret.generate().format())
    path.chmod(0o600)
    return path


@pytest.fixture
def client(
    sqlite_store: SQLStore,
    clock: SettableClock,
    pace: Pace,
    node: ScriptedChain,
    service: Server,
    secret: Path,
) -> TestClient:
    """Return a client of a process that is configured to ask the service."""
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


SECONDS = 0.2
"""How long the service takes for an answer; it gives one after another."""


def _allow(body: bytes) -> Reply:
    return screened(True, json.loads(body)["address"])


def _new(number: int) -> str:
    """Return a recipient that was never paid."""
    return f"0x{10**39 + number:040d}"


Open = Callable[..., TestClient]


@pytest.fixture
def open_client(
    sqlite_store: SQLStore,
    clock: SettableClock,
    node: ScriptedChain,
    service: Server,
    secret: Path,
) -> Open:
    """Return what makes a client of a process with many threads."""

    def make(**options: Any) -> TestClient:
        screening = ScreeningClient(
            SecretStr(service.url), secret, allow_http=True, kept_seconds=60, **options
        )
        container = build_container(
            sqlite_store, clock, client=node, pace=Pace(), screening=screening
        )
        container.settings = container.settings.model_copy(update={"threads": 64})
        return TestClient(create_app(container))

    return make


def test_each_of_200_new_recipients_has_a_result_in_time(
    open_client: Open, service: Server
) -> None:
    """
    Before the proxy gives up.

    The service takes 40 seconds for all.  Those that it did not answer in time have no
    answer, and the caller repeats them.
    """
    timer, turn = Timer(), Lock()
    began = timer.now

    def answer(body: bytes) -> Reply:
        with turn:
            timer.now += SECONDS
        return _allow(body)

    service.reply = answer
    members = [member(n, recipient=_new(n)) for n in range(200)]
    counted = Counter(codes(submit(open_client(timer=timer), *members)))

    assert timer.now - began <= LIST_SECONDS + 2
    assert counted.keys() == {None, "screening-unavailable"}
    assert counted.total() == 200
    assert LIST_SECONDS / SECONDS <= counted[None] <= LIST_SECONDS / SECONDS + AT_ONCE


def test_previews_of_one_tenant_leave_questions_for_another(
    open_client: Open, service: Server
) -> None:
    """The service does not answer, and one tenant has asked as often as it may."""
    client = open_client(timeout=60)

    def preview(sub: str, number: int) -> Result:
        body = BODY | {"recipient": _new(number)}
        headers = bearer(sub=sub)
        return client.simulate_post("/v1/refunds/preview", json=body, headers=headers)

    service.reply = _allow
    service.may_answer.clear()
    most = 2 * AT_ONCE
    with ThreadPoolExecutor(most + 1) as pool:
        asking = [pool.submit(preview, "mallory", n) for n in range(most)]
        assert eventually(lambda: len(service.asked) == most, 30)
        refused = preview("mallory", most)
        other = pool.submit(preview, "shop", most + 1)
        was_asked = eventually(lambda: len(service.asked) == most + 1, 30)
        service.may_answer.set()

    assert (refused.status_code, refused.json["code"]) == (503, "screening-unavailable")
    assert was_asked
    assert {each.result().status_code for each in [other, *asking]} == {200}
