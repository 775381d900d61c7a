"""Behaviour of a real server on a real socket."""

import gzip
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from api.auth.dev_tokens import mint
from signer.config.settings import Settings
from tests.api.live_server import PING, Answer, Server, exchange, service_environ
from tests.api.service import BODY
from tests.api.wsgi import BROKEN, CANARY, TRANSIENT
from tests.support.waiting import eventually


MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def environ(
    tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path
) -> dict[str, str]:
    return service_environ(tmp_path_factory.mktemp("wire"), _sqlite_template)


@pytest.fixture(scope="module")
def server(environ: dict[str, str]) -> Iterator[Server]:
    """One server for all tests here; afterwards its log must be clean."""
    with Server(environ) as server:
        yield server
        assert server.stop() == 0
        assert server.errors() == ""
        assert CANARY not in server.output()
        events = [json.loads(line) for line in server.output().splitlines()]
        assert all(each["event"] for each in events)
        assert {"gunicorn.error", "api.requests"} <= {each["logger"] for each in events}


@pytest.fixture(scope="module")
def token(environ: dict[str, str]) -> str:
    return mint(Settings.from_env(environ), subject="gateway-1", roles=["merchant"])


@pytest.fixture
def post(token: str, request: pytest.FixtureRequest) -> bytes:
    return (
        "POST /v1/refunds HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Idempotency-Key: {request.node.name}\r\n"
    ).encode()


def _body(name: str, **changes: object) -> bytes:
    return json.dumps(BODY | {"reference": name} | changes).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _assert_problem(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-request-id"] == answer.json["request_id"]
    assert "server" not in answer.headers


def test_a_browser_logs_in(server: Server, environ: dict[str, str]) -> None:
    """The rules for paths, headers and bodies let the console's requests through."""
    settings = Settings.from_env(environ)
    admin = mint(settings, subject="alice", roles=["admin"], scopes=["console:read"])
    form = urlencode({"token": admin}).encode()
    login = server.ask(
        b"POST /console/login HTTP/1.1\r\nHost: localhost:8080\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(form), form)
    )
    cookie = login.headers["set-cookie"].partition(";")[0].encode()
    page = server.ask(
        b"GET /console HTTP/1.1\r\nHost: localhost:8080\r\nCookie: %s\r\n\r\n" % cookie
    )

    assert (login.status, login.headers["location"]) == (303, "/console")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert b"<h1>Overview</h1>" in page.body


def test_accepts_a_refund(server: Server, post: bytes) -> None:
    """Again on the same connection, and in chunks; no answer names the software."""
    body = _body("wire")
    head = post + b"Content-Length: %d\r\n\r\n" % len(body)
    with server.connect() as connection:
        answer = exchange(connection, [head, body])
        again = exchange(connection, [head, body])
    chunked = server.ask(
        post,
        b"Transfer-Encoding: chunked\r\n\r\n",
        _chunk(body[:10]) + _chunk(body[10:]) + b"0\r\n\r\n",
    )

    assert [each.status for each in (answer, again, chunked)] == [201, 200, 200]
    assert answer.json["status"] == "queued"
    assert answer.json == again.json == chunked.json
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    assert b"gunicorn" not in str(answer).encode()


def test_a_huge_body_is_not_read(server: Server, post: bytes) -> None:
    """H13: 20 MB, announced or not, are refused; memory stays as it was."""
    server.ask(PING)
    before = server.peak_memory()
    megabytes = [b" " * MEGABYTE] * 20
    announced = server.ask(
        post, b"Content-Length: %d\r\n\r\n" % (20 * MEGABYTE), *megabytes
    )
    chunked = server.ask(
        post,
        b"Transfer-Encoding: chunked\r\n\r\n",
        *(_chunk(megabyte) for megabyte in megabytes),
    )
    one_chunk = server.ask(
        post,
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (20 * MEGABYTE),
        *megabytes,
    )

    _assert_problem(announced, 413, "body-too-large")
    _assert_problem(chunked, 413, "body-too-large")
    _assert_problem(one_chunk, 413, "body-too-large")
    assert server.peak_memory() - before < 10 * MEGABYTE


def test_a_compressed_body_is_refused(server: Server, post: bytes) -> None:
    """H13: before it is decompressed."""
    bomb = gzip.compress(bytes(10 * MEGABYTE))
    answer = server.ask(
        post,
        b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb),
        bomb,
    )

    _assert_problem(answer, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    ("framing", "status", "code"),
    [
        (b"Content-Length: 2\r\nTransfer-Encoding: chunked", 400, "bad-request"),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 2", 400, "bad-request"),
        (b"Content-Length: 2\r\nContent-Length: 2", 400, "bad-request"),
        (b"Content-Length: 2, 2", 400, "bad-request"),
        (b"Content-Length: +2", 400, "bad-request"),
        (b"Content-Length: -1", 400, "bad-request"),
        (b"Transfer-Encoding: chunked, chunked", 400, "bad-request"),
        (b"Transfer-Encoding: gzip", 400, "bad-request"),
        (b"Transfer-Encoding: xchunked", 501, "unsupported-transfer-coding"),
        (b"Transfer-Encoding : chunked", 400, "bad-request"),
        (b"Transfer-Encoding:\r\n chunked", 400, "bad-request"),
    ],
)
def test_ambiguous_framing_is_refused(
    server: Server, post: bytes, framing: bytes, status: int, code: str
) -> None:
    """H13: two readers could see different ends of the body."""
    answer = server.ask(post + framing + b"\r\n\r\n", b"0\r\n\r\n{}")

    _assert_problem(answer, status, code)
    assert answer.headers["connection"] == "close"


def test_a_malformed_chunk_is_bad_input(server: Server, post: bytes) -> None:
    """The server closes the connection."""
    with server.connect() as connection:
        answer = exchange(
            connection, [post, b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n{}\r\n"]
        )
        rest = connection.recv(1)

    _assert_problem(answer, 400, "invalid-input")
    assert rest == b""


def test_an_incomplete_body_is_bad_input(server: Server, post: bytes) -> None:
    body = _body("half")
    with server.connect() as connection:
        connection.sendall(post + b"Content-Length: %d\r\n\r\n" % (len(body) + 1))
        connection.sendall(body)
        connection.shutdown(1)
        answer = exchange(connection, [])

    _assert_problem(answer, 400, "invalid-input")


def test_an_unread_body_is_not_the_next_request(server: Server) -> None:
    smuggled = PING
    with server.connect() as connection:
        first = exchange(
            connection,
            [
                b"POST /v1/refunds HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: %d\r\n\r\n" % len(smuggled) + smuggled
            ],
        )
        second = exchange(
            connection, [b"GET /unknown HTTP/1.1\r\nHost: localhost\r\n\r\n"]
        )

    assert (first.status, second.status) == (401, 404)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"get /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/9.9\r\n\r\n", 400),
        (b"GET /h\xc3\xa4lthz HTTP/1.1\r\n\r\n", 400),
        (b"GET http://[/ HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz?canary HTTP/1.1\nHost: localhost\n\n", 400),
        (b"GET /healthz HTTP/1.1\r\nBad Header: canary\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nX: a\x00canary\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nX: a\rcanary\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nExpect: canary\r\n\r\n", 417),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 10_000 + b"\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\n" + b"X: a\r\n" * 65 + b"\r\n", 431),
    ],
)
def test_malformed_http_is_answered_with_a_problem(
    server: Server, head: bytes, status: int
) -> None:
    """H20: also if the request never reaches the application."""
    answer = server.ask(head)

    _assert_problem(answer, status, answer.json["code"])
    assert b"canary" not in answer.body


@pytest.mark.parametrize("method", [b"TRACE", b"OPTIONS", b"CONNECT", b"PROPFIND"])
def test_unknown_methods_are_refused(server: Server, method: bytes) -> None:
    """H20: 405, and nothing is echoed."""
    answer = server.ask(
        method + b" /v1/refunds HTTP/1.1\r\nHost: localhost\r\nX: canary\r\n\r\n"
    )

    _assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, POST"
    assert b"canary" not in answer.body


def test_headers_with_underscores_are_dropped(server: Server) -> None:
    """H16: they could set another header, or the path."""
    answer = server.ask(
        b"GET /v1/refunds HTTP/1.1\r\nHost: localhost\r\n"
        b"X_Request_Id: canary\r\nSCRIPT_NAME: /v1\r\nPATH_INFO: /healthz\r\n\r\n"
    )

    _assert_problem(answer, 401, "unauthenticated")
    assert answer.headers["x-request-id"].startswith("req_")


def test_the_master_retries_a_worker_that_cannot_restart(
    environ: dict[str, str],
) -> None:
    broken = Path(environ[BROKEN])
    with Server(environ) as server:
        assert server.ask(PING).status == 200
        broken.touch()
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        assert eventually(lambda: "worker-not-started" in server.output(), 60)
        assert server.process.poll() is None
        broken.unlink()

        assert server.ask(PING).status == 200
        assert CANARY not in server.output() + server.errors()


def test_the_master_retries_a_first_worker_after_a_transient_failure(
    environ: dict[str, str],
) -> None:
    broken = Path(environ[BROKEN])
    broken.write_text(TRANSIENT, encoding="utf-8")
    try:
        with Server(environ) as server:
            assert eventually(
                lambda: "worker-not-started" in server.output(), patience=30
            )
            assert server.process.poll() is None
            broken.unlink()

            assert server.ask(PING).status == 200
    finally:
        broken.unlink(missing_ok=True)


def test_a_server_whose_first_workers_fail_ends(environ: dict[str, str]) -> None:
    """The log does not have the exception's message."""
    broken = Path(environ[BROKEN])
    broken.touch()
    try:
        with Server(environ) as server:
            status = server.process.wait(60)
            output, errors = server.output(), server.errors()
    finally:
        broken.unlink()

    assert status == 3
    assert "worker-not-started" in output
    assert CANARY not in output + errors
