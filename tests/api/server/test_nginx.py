"""The shipped proxy by itself: what it refuses, and what it forwards."""

import contextlib
import json
import re
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.http.middleware import SECURITY_HEADERS
from api.http.problems import MEDIA_TYPE
from api.server import gunicorn_conf
from tests.api.live_server import Answer
from tests.fixtures.nginx import SHIPPED, Nginx
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """The proxy in front of a service that is down."""
    with Nginx(tmp_path_factory.mktemp("nginx"), upstream=1) as nginx:
        yield nginx
        assert nginx.errors() == ""


_PING = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_HOST = b" HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: mine-1\r\n"

WRONG = {
    "a huge body": (
        b"POST /v1/refunds" + _HOST + b"Content-Length: 16385\r\n\r\n",
        413,
        "body-too-large",
    ),
    "a huge batch": (
        b"POST /v1/refunds/batch" + _HOST + b"Content-Length: 1048577\r\n\r\n",
        413,
        "body-too-large",
    ),
    "a huge line": (b"GET /" + b"a" * 13_000 + _HOST + b"\r\n", 414, "uri-too-long"),
    "a huge header": (
        b"GET /healthz" + _HOST + b"X: " + b"a" * 13_000 + b"\r\n\r\n",
        431,
        "headers-too-large",
    ),
    "metrics": (b"GET /%6detrics?a" + _HOST + b"\r\n", 404, "not-found"),
    "administration": (b"GET /v1/admin/keys" + _HOST + b"\r\n", 404, "not-found"),
    "administration, in disguise": (
        b"POST //v1/x/../%61dmin/stop" + _HOST + b"Content-Length: 0\r\n\r\n",
        404,
        "not-found",
    ),
    "its own page": (b"GET /problem" + _HOST + b"\r\n", 404, "not-found"),
    "no such method": (b"TRACE /" + _HOST + b"\r\n", 405, "method-not-allowed"),
    "no such coding": (
        b"POST /" + _HOST + b"Transfer-Encoding: gzip\r\n\r\n",
        501,
        "unsupported-transfer-coding",
    ),
    "two lengths": (
        b"POST /" + _HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        "bad-request",
    ),
    "no HTTP": (b"GARBAGE\r\n\r\n", 400, "bad-request"),
}


def _assert_problem(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.json["type"] == f"/problems/{code}"
    assert answer.json["title"] == code.replace("-", " ").capitalize()
    assert answer.json["status"] == status
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.headers["x-request-id"] == answer.json["request_id"]
    assert (
        answer.headers.items()
        >= {name.lower(): value for name, value in SECURITY_HEADERS.items()}.items()
    )


@pytest.mark.parametrize("case", WRONG)
def test_problems_of_the_proxy_look_like_those_of_the_service(
    nginx: Nginx, case: str
) -> None:
    """Schema, headers and codes are the same."""
    request, status, code = WRONG[case]
    answer = nginx.ask(request)

    _assert_problem(answer, status, code)
    # Where the line alone is too long, or none, the proxy reads no header.
    known = answer.json["request_id"] == "mine-1"
    assert known == (case not in {"a huge line", "no HTTP"})


@pytest.mark.parametrize(
    ("cipher", "is_strong"),
    [("ECDHE-ECDSA-AES128-GCM-SHA256", True), ("ECDHE-ECDSA-AES128-SHA256", False)],
)
def test_only_strong_ciphers_of_tls_1_2(
    nginx: Nginx, cipher: str, is_strong: bool
) -> None:
    """Those with forward secrecy and authenticated encryption."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(cipher)
    refused = contextlib.nullcontext() if is_strong else pytest.raises(ssl.SSLError)
    with nginx.connect("127.0.0.1") as client, refused:
        context.wrap_socket(client).close()


def test_plain_http_is_refused(nginx: Nginx) -> None:
    _assert_problem(nginx.ask(WRONG["metrics"][0], encrypted=False), 400, "bad-request")


def test_limits_connections_per_address(nginx: Nginx) -> None:
    """The 65th connection is refused; another address has its own limit."""
    slow = b"POST /" + _HOST + b"Content-Length: 16000\r\n\r\n"
    with contextlib.ExitStack() as clients:
        for _ in range(64):
            raw = clients.enter_context(nginx.connect("127.0.0.4"))
            clients.enter_context(nginx.secured(raw)).sendall(slow)
        assert eventually(lambda: nginx.ask(_PING, source="127.0.0.4").status == 429)
        refused = nginx.ask(_PING, source="127.0.0.4")
        other = nginx.ask(_PING, source="127.0.0.5")

    _assert_problem(refused, 429, "too-many-requests")
    assert refused.headers["retry-after"] == "1"
    assert other.status == 502


def test_limits_batches_per_address(nginx: Nginx) -> None:
    """A ninth at the same time is refused; one of 1 MiB is passed on."""
    size = 1024 * 1024
    head = b"POST /v1/refunds/batch" + _HOST + b"Content-Length: %d\r\n\r\n" % size
    whole = head + b" " * size
    empty = head.replace(b"%d" % size, b"0")
    with contextlib.ExitStack() as clients:
        for _ in range(8):
            raw = clients.enter_context(nginx.connect("127.0.0.8"))
            clients.enter_context(nginx.secured(raw)).sendall(head)
        assert eventually(lambda: nginx.ask(empty, source="127.0.0.8").status == 429)
        ping = nginx.ask(_PING, source="127.0.0.8")
        other = nginx.ask(whole, source="127.0.0.9")

    assert (ping.status, other.status) == (502, 502)


def test_limits_requests_per_address(nginx: Nginx) -> None:
    kept = _PING.replace(b"Connection: close\r\n", b"")
    flood = kept * 299 + _PING  # In one piece, so that no machine is too slow for it.

    assert _statuses(nginx, flood, source="127.0.0.6") == {502, 429}
    assert nginx.ask(_PING, source="127.0.0.7").status == 502


def _statuses(nginx: Nginx, requests: bytes, source: str) -> set[int]:
    """Send *requests* on one connection; return the statuses of all answers."""
    answers = bytearray()
    with nginx.connect(source) as client, nginx.secured(client) as secure:
        secure.settimeout(30)
        with ThreadPoolExecutor(1) as sender:
            sender.submit(secure.sendall, requests)
            while piece := secure.recv(1 << 16):
                answers += piece
    return {int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)}


def test_a_service_that_is_down_is_502(nginx: Nginx) -> None:
    """The answer says when to retry, and does not show the upstream address."""
    answer = nginx.ask(_PING)

    _assert_problem(answer, 502, "bad-gateway")
    assert answer.headers["retry-after"] == "5"
    assert b"127.0.0.1" not in answer.body


def test_forwards_the_body_and_the_peer(tmp_path: Path) -> None:
    """H16: headers about the origin contain only what the proxy saw."""
    sent = (
        b"POST /v1/refunds?a=b HTTP/1.1\r\nHost: pay.example\r\n"
        b"X-Forwarded-For: 1.2.3.4\r\nX_Forwarded_For: 1.2.3.4\r\n"
        b"X-Request-Id: bad id\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as service:
        service.settimeout(10)
        port = service.getsockname()[1]
        with ThreadPoolExecutor(1) as pool, Nginx(tmp_path, port) as nginx:
            received = pool.submit(_receive, service)
            status = nginx.ask(sent).status
        head, _, body = received.result().partition(b"\r\n\r\n")
        logged = json.loads(nginx.log()[-1])
    line, *fields = head.decode().split("\r\n")
    headers = {
        name.lower(): value for name, _, value in (f.partition(": ") for f in fields)
    }
    request_id = headers.pop("x-request-id")

    assert status == 204
    assert line == "POST /v1/refunds?a=b HTTP/1.1"
    assert headers == {
        "host": "pay.example",
        "x-forwarded-for": "127.0.0.3",
        "content-length": "2",
    }
    assert body == b"{}"
    assert request_id.startswith("req_")
    assert (logged["request_id"], logged["peer"]) == (request_id, "127.0.0.3")
    assert (logged["method"], logged["status"]) == ("POST", "204")
    assert "a=b" not in str(logged)


def _receive(service: socket.socket) -> bytes:
    connection, _ = service.accept()
    with connection:
        connection.settimeout(10)
        heard = b""
        while not heard.endswith(b"{}"):
            heard += connection.recv(4096)
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
    return heard


def test_the_proxy_closes_idle_connections_before_gunicorn() -> None:
    (seconds,) = re.findall(
        r"keepalive 32;.*?keepalive_timeout (\d+)s", SHIPPED.read_text(), re.DOTALL
    )

    assert int(seconds) < gunicorn_conf.keepalive
