"""The client of batches, with a server that sends fixed replies."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from api.extras.batch_files.submission import BatchReply, RefundClient
from backends.http_client import is_secure
from signer.errors import InvalidInputError


Serve = Callable[..., str]


@pytest.fixture
def requests() -> list[Any]:
    """Path, token, type and body of each request that the server got."""
    return []


@pytest.fixture
def serve(requests: list[Any]) -> Iterator[Serve]:
    """Start a server that answers every request alike; return its URL."""
    with ExitStack() as stack:

        def start(status: int, body: bytes, **headers: str) -> str:
            class Handler(BaseHTTPRequestHandler):
                def do_POST(self) -> None:
                    size = int(self.headers["Content-Length"])
                    names = ("Authorization", "Content-Type")
                    sent = [self.headers[name] for name in names]
                    requests.append((self.path, *sent, self.rfile.read(size)))
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name.replace("_", "-"), value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

                def log_message(self, *_: object) -> None:
                    """Write nothing."""

            server = stack.enter_context(HTTPServer(("127.0.0.1", 0), Handler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield start


def test_sends_a_batch(serve: Serve, requests: list[Any]) -> None:
    """To the path below the address of the service."""
    url = serve(200, b'{"results": []}')
    reply = RefundClient(f"{url}/prefix/")(b'{"refunds": []}', "t.o.k")

    assert reply == BatchReply(200, {"results": []})
    assert requests == [
        (
            "/prefix/v1/refunds/batch",
            "Bearer t.o.k",
            "application/json",
            b'{"refunds": []}',
        )
    ]


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7), ("0", 0), ("-1", None), ("Thu, 1", None)]
)
def test_reads_when_to_try_again(
    serve: Serve, header: str, seconds: int | None
) -> None:
    url = serve(503, json.dumps({"code": "store-unavailable"}).encode())
    busy = serve(429, b"", Retry_After=header)

    assert RefundClient(url)(b"{}", "t") == BatchReply(
        503, {"code": "store-unavailable"}
    )
    assert RefundClient(busy)(b"{}", "t") == BatchReply(429, {}, seconds)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"[" * 100_000, b"\xff"])
def test_another_body_is_empty(serve: Serve, body: bytes) -> None:
    assert RefundClient(serve(502, body))(b"{}", "t") == BatchReply(502, {})


def test_a_redirect_is_not_followed(serve: Serve, requests: list[Any]) -> None:
    """No other host gets the token."""
    other = serve(200, b"{}")
    reply = RefundClient(serve(307, b"", Location=other))(b"{}", "t")

    assert (reply.status, len(requests)) == (307, 1)


def test_no_answer() -> None:
    assert RefundClient("http://127.0.0.1:1")(b"{}", "t") == BatchReply(None, {})


@pytest.mark.parametrize(
    "url",
    [
        "http://refunds.example",
        "https://user@refunds.example",
        "https://refunds.example/?a",
        "https://refunds.example/#a",
        "https://",
        "https://[",
        "file:///etc/passwd",
    ],
)
def test_an_insecure_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="https URL"):
        RefundClient(url)


def test_plain_http_may_be_forbidden() -> None:
    assert is_secure("http://localhost:1", allow_http=True)
    assert not is_secure("http://localhost:1", allow_http=False)
