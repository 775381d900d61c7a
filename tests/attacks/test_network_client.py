"""A client on the network, without a token or with a merchant's."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.auth.dev_tokens import mint
from signer.config.settings import Settings
from tests.api.live_server import Server, service_environ
from tests.api.service import BODY


@pytest.fixture(scope="module")
def environ(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> dict[str, str]:
    """Return the environment of a service with its own ledger and keys."""
    return service_environ(tmp_path_factory.mktemp("client"), _sqlite_template)


@pytest.fixture(scope="module")
def server(environ: dict[str, str]) -> Iterator[Server]:
    with Server(environ) as server:
        yield server


@pytest.fixture(scope="module")
def authorization(environ: dict[str, str]) -> str:
    settings = Settings.from_env(environ)
    return f"Authorization: Bearer {mint(settings, subject='m', roles=['merchant'])}"


HOST = "Host: localhost"
KEY = "Idempotency-Key: key-1"
LIST = "GET /v1/refunds HTTP/1.1"


@pytest.mark.parametrize(
    ("line", "headers"),
    [
        ("GET //v1/refunds HTTP/1.1", [HOST]),
        ("GET /v1//refunds HTTP/1.1", [HOST]),
        ("GET /v1%2frefunds HTTP/1.1", [HOST]),
        ("GET /%761/refunds HTTP/1.1", [HOST]),
        ("GET /v1/./refunds HTTP/1.1", [HOST]),
        ("GET /x/../v1/refunds HTTP/1.1", [HOST]),
        ("GET /v1\\refunds HTTP/1.1", [HOST]),
        ("GET /v1/refunds;a=b HTTP/1.1", [HOST]),
        ("GET /v1/refunds#fragment HTTP/1.1", [HOST]),
        ("GET /v1/refunds?limit=1#fragment HTTP/1.1", [HOST]),
        ("GET http://elsewhere/v1/refunds HTTP/1.1", [HOST]),
        (LIST, []),
        (LIST, ["Host:"]),
        (LIST, ["Host: a b"]),
        (LIST, ["Host: a/b"]),
        (LIST, ["Host: user@localhost"]),
        (LIST, ["Host: localhost:port"]),
        (LIST, ["Host: a", "Host: b"]),
        (LIST, [HOST, "X-Request-Id: a", "X-Request-Id: b"]),
    ],
)
def test_ambiguous_head(
    server: Server, authorization: str, line: str, headers: list[str]
) -> None:
    """H13: a request that a proxy could read differently is malformed."""
    head = "\r\n".join([line, *headers, authorization, "", ""])
    answer = server.ask(head.encode())

    assert (answer.status, answer.json["code"]) == (400, "bad-request")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    "headers",
    [
        [KEY, "Idempotency-Key: key-2"],
        [KEY, KEY],
        [KEY, "Transfer-Encoding: gzip, chunked"],
        [KEY, "Transfer-Encoding: identity, chunked"],
        [KEY, "Content-Type: application/json"],
        [KEY, "Authorization: Bearer other"],
    ],
)
def test_ambiguous_refund(
    server: Server, authorization: str, headers: list[str]
) -> None:
    """H13: no refund is accepted under a repeated key, type or token."""
    body = str(BODY).replace("'", '"').encode()
    lines = [
        "POST /v1/refunds HTTP/1.1",
        HOST,
        authorization,
        "Content-Type: application/json",
        *headers,
    ]
    if not any("Transfer-Encoding" in header for header in headers):
        lines.append(f"Content-Length: {len(body)}")
        sent = body
    else:
        sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    answer = server.ask("\r\n".join([*lines, "", ""]).encode(), sent)
    listed = server.ask(f"{LIST}\r\n{HOST}\r\n{authorization}\r\n\r\n".encode())

    assert (answer.status, answer.json["code"]) == (400, "bad-request")
    assert listed.json["refunds"] == []


@pytest.mark.parametrize("host", ["localhost:8080", "[::1]", "[::1]:80", "10.0.0.1"])
def test_usual_hosts(server: Server, authorization: str, host: str) -> None:
    """A name, an address and a port are accepted, and so are other headers twice."""
    accept = "Accept: text/plain\r\nAccept: application/json\r\nX: 1\r\nX: 2"
    head = f"{LIST}\r\nHost: {host}\r\n{accept}\r\n{authorization}\r\n\r\n"

    assert server.ask(head.encode()).status == 200


def test_probe_without_a_host(server: Server) -> None:
    """HTTP/1.0 does not require the header, and health checks may omit it."""
    assert server.ask(b"GET /healthz HTTP/1.0\r\n\r\n").status == 200
