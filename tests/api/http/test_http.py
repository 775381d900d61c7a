"""What all answers have in common."""

import io
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from api.container import Container
from api.health.readiness import Readiness
from api.http.app import create_app
from api.http.middleware import Resource
from tests.api.forgeries import FORGERIES
from tests.api.service import replaced
from tests.api.support import bearer, lines


CANARY = "canary-pin-48213"

# wsgiref's validator warns of methods that a real server lets through.
pytestmark = pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "strict-transport-security": "max-age=63072000; includeSubDomains",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("HEAD", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/v1/refunds", 401),
        ("POST", "/v1/refunds", 401),
        ("POST", "/v1/refunds/batch", 401),
        ("GET", "/v1/refunds/rf_1", 401),
        ("GET", "/v1/refunds/rf_1/explain", 401),
        ("POST", "/v1/refunds/rf_1/cancel", 401),
        ("GET", "/", 404),
        ("GET", "/v1/refunds/", 401),
        ("GET", "/v1//refunds", 404),
        ("GET", "/V1/refunds", 404),
        ("OPTIONS", "/unknown", 404),
        ("DELETE", "/v1/refunds", 405),
        ("HEAD", "/v1/refunds", 405),
        ("WEBSOCKET", "/v1/refunds", 400),
    ],
)
def test_all_answers_have_security_headers_and_an_id(
    client: TestClient, method: str, path: str, status: int
) -> None:
    """H20: all errors have the same schema."""
    response = client.simulate_request(method, path)

    assert response.status_code == status
    assert response.headers.items() >= _HEADERS.items()
    assert response.headers["x-request-id"].startswith("req_")
    assert "server" not in response.headers
    if status >= 400 and method != "HEAD":
        _assert_problem(response)


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v1/refunds", "GET, POST"),
        ("/v1/refunds/batch", "POST"),
        ("/v1/refunds/rf_1", "GET"),
        ("/v1/refunds/rf_1/explain", "GET"),
        ("/v1/refunds/rf_1/cancel", "POST"),
        ("/readyz", "GET, HEAD"),
    ],
)
def test_other_methods_are_not_allowed(
    client: TestClient, path: str, allow: str
) -> None:
    """H20: 405 with the allowed methods."""
    for method in (
        *("OPTIONS", "TRACE", "CONNECT", "PUT", "PATCH", "DELETE", "PROPFIND"),
        "BREW",
    ):
        response = client.simulate_request(method, path, headers=bearer())
        assert (response.status_code, response.headers["allow"]) == (405, allow)


def test_all_invalid_tokens_get_the_same_answer(
    client: TestClient, log: io.StringIO
) -> None:
    """G20: 401; only the log has the reason."""
    answers = set()
    for forged, _ in FORGERIES.values():
        response = client.simulate_get(
            "/v1/refunds", headers={"Authorization": f"Bearer {forged}"}
        )
        document = response.json
        del document["request_id"]
        answers.add(
            (response.headers["www-authenticate"], str(sorted(document.items())))
        )
        assert response.status_code == 401

    assert len(FORGERIES) > 40
    assert len(answers) == 1
    assert [reason for _, reason in FORGERIES.values()] == [
        line["refusal"] for line in lines(log)
    ]


@pytest.mark.parametrize("given", ["a", "A-b_c.9", "x" * 64])
def test_a_valid_request_id_is_kept(
    client: TestClient, log: io.StringIO, given: str
) -> None:
    response = client.simulate_get("/v1/refunds", headers={"X-Request-Id": given})

    (line,) = lines(log)
    assert given == response.headers["x-request-id"]
    assert given == response.json["request_id"] == line["request_id"]


@pytest.mark.parametrize(
    "given", ["", "x" * 65, "a b", "a/b", "ä", "a,b", "<i>", "${jndi}"]
)
def test_an_invalid_request_id_is_replaced(client: TestClient, given: str) -> None:
    response = client.simulate_get("/healthz", headers={"X-Request-Id": given})

    assert response.headers["x-request-id"].startswith("req_")


def test_each_request_is_one_event(client: TestClient, log: io.StringIO) -> None:
    """It has the route, but neither path, query nor token."""
    headers = bearer() | {"X-Request-Id": "id-1"}
    client.simulate_get(f"/v1/refunds/{CANARY}?q={CANARY}", headers=headers)

    (line,) = lines(log)
    duration = line.pop("duration_ms")
    line.pop("timestamp")
    assert 0 < duration < 10_000
    assert line == {
        "event": "request",
        "level": "info",
        "logger": "api.requests",
        "request_id": "id-1",
        "method": "GET",
        "route": "/v1/refunds/{refund_id}",
        "status": 400,
        "client": "gateway-1",
        "tenant": "gateway-1",
    }
    assert CANARY not in log.getvalue()
    assert headers["Authorization"][-20:] not in log.getvalue()


def test_probes_that_succeed_again_are_not_logged(
    container: Container, log: io.StringIO
) -> None:
    """The log has failures, and the first success after one."""
    codes = ["ok", "ok", "store-unavailable", "store-unavailable", "ok", "ok"]
    answers = (Readiness({"database": each}) for each in codes)
    probed = replaced(container, readiness=lambda: next(answers))
    client = TestClient(create_app(probed))
    for _ in codes:
        client.simulate_get("/readyz")
        client.simulate_get("/healthz")
    requests = [each for each in lines(log) if each["event"] == "request"]
    shown = [each for each in requests if each["level"] == "info"]

    assert [each["status"] for each in shown if each["route"] == "/readyz"] == [
        *(200, 503, 503, 200)
    ]
    assert [each["route"] for each in shown].count("/healthz") == 1
    assert len(requests) == 2 * len(codes)


def test_scrapes_that_succeed_again_are_not_logged(
    client: TestClient, log: io.StringIO
) -> None:
    headers = bearer(roles=["devops"], scope="metrics:read")
    for given in (headers, headers, {}, headers, headers):
        client.simulate_get("/metrics", headers=given)
    shown = [each["status"] for each in lines(log) if each["level"] == "info"]

    assert shown == [200, 401, 200]


def test_requests_do_not_share_their_context(
    client: TestClient, log: io.StringIO
) -> None:
    client.simulate_get("/v1/refunds", headers=bearer() | {"X-Request-Id": "id-1"})
    client.simulate_get("/unknown")

    _, second = lines(log)
    assert second["client"] is None
    assert second["route"] is None
    assert second["request_id"] != "id-1"


@pytest.mark.parametrize("kind", [ValueError, OSError, RecursionError, MemoryError])
def test_internal_errors_have_no_message(
    container: Container, log: io.StringIO, kind: type[Exception]
) -> None:
    """H19: 500 with an id; the log has the exception's class and location."""

    def explode() -> Readiness:
        pin = CANARY
        raise kind(f"login with {pin}")

    client = TestClient(create_app(replaced(container, readiness=explode)))
    response = client.simulate_get("/readyz")

    failure, canonical = lines(log)
    assert response.status_code == 500
    assert response.json == {
        "type": "/problems/internal-error",
        "title": "Internal error",
        "status": 500,
        "code": "internal-error",
        "request_id": failure["request_id"],
    }
    assert failure["exception"][0]["class"] == f"builtins.{kind.__name__}"
    assert failure["exception"][0]["frames"][-1].endswith(" explode")
    assert canonical["status"] == 500
    assert CANARY not in response.text + log.getvalue()


def test_readiness_is_200_or_503(container: Container) -> None:
    broken = Readiness({"database": "ok", "key": "backend-unavailable"})
    good = TestClient(create_app(container)).simulate_get("/readyz")
    bad = TestClient(
        create_app(replaced(container, readiness=lambda: broken))
    ).simulate_get("/readyz")

    assert (good.status_code, good.json["status"]) == (200, "ready")
    assert (bad.status_code, bad.json["status"]) == (503, "unavailable")
    assert bad.json["checks"]["key"] == "backend-unavailable"


def test_a_route_without_a_role_is_closed(container: Container) -> None:

    class Forgetful(Resource):
        def on_get(self, req: Any, resp: Any) -> None:
            resp.media = CANARY

    class Stranger:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.media = CANARY

    app = create_app(container)
    app.add_route("/forgetful", Forgetful())
    app.add_route("/stranger", Stranger())

    for path in ("/forgetful", "/stranger"):
        response = TestClient(app).simulate_get(path, headers=bearer())
        assert response.status_code == 500
        assert CANARY not in response.text


def _assert_problem(response: Result) -> None:
    document = response.json
    assert response.headers["content-type"] == "application/problem+json"
    assert document["status"] == response.status_code
    assert document["type"] == f"/problems/{document['code']}"
    assert document["request_id"] == response.headers["x-request-id"]
    assert document["title"]
