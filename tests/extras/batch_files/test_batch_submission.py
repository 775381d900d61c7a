"""Batches, retries and their ends, with scripted replies; and the client of batches."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from api.extras.batch_files.files import Row
from api.extras.batch_files.submission import (
    MAX_BYTES,
    MAX_FAILURES,
    MAX_ROWS,
    BatchReply,
    RefundClient,
    RowResult,
    RowStatus,
    SubmissionStoppedError,
    submit,
)
from api.http.body import MAX_BATCH
from backends.http_client import is_secure
from signer.errors import InvalidInputError


def rows(number: int, **fields: str) -> list[Row]:
    fields = {"payment_session_id": "ps", **fields}
    return [Row(n + 2, f"k{n}", fields) for n in range(number)]


Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def accept(member: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"status": 201, "refund": {"id": f"rf_{member['idempotency_key']}"}}


def problem(status: int, code: str, **more: Any) -> Mapping[str, Any]:
    return {"status": status, "problem": {"code": code, "status": status}, **more}


@dataclass
class Service:
    """Answers by *script*, and then accepts; records what it got."""

    script: list[BatchReply | Answer] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    results: list[RowResult] = field(default_factory=list)

    def __call__(self, body: bytes, token: str) -> BatchReply:
        members = json.loads(body)["refunds"]
        self.batches.append([each["idempotency_key"] for each in members])
        self.sizes.append(len(body))
        self.tokens.append(token)
        step = self.script.pop(0) if self.script else accept
        if isinstance(step, BatchReply):
            return step
        results = [
            {"idempotency_key": each["idempotency_key"], **step(each)}
            for each in members
        ]
        return BatchReply(200, {"results": results})

    def submit(self, rows: Sequence[Row]) -> list[RowStatus]:
        """Submit *rows*, and return the statuses in the order of the rows."""
        tokens = iter(f"token-{n}" for n in range(1000))
        submit(
            rows,
            self,
            lambda: next(tokens),
            report=self.results.append,
            sleep=self.slept.append,
        )
        return self.statuses()

    def statuses(self) -> list[RowStatus]:
        ordered = sorted(self.results, key=lambda result: result.row.line)
        return [result.status for result in ordered]


def test_sends_batches_of_500() -> None:
    """Each with a token that is read for it."""
    service = Service()
    statuses = service.submit(rows(1201))

    assert [len(batch) for batch in service.batches] == [MAX_ROWS, MAX_ROWS, 201]
    assert service.tokens == ["token-0", "token-1", "token-2"]
    assert statuses == [RowStatus.ACCEPTED] * 1201
    assert service.slept == []


def test_long_rows_make_smaller_batches() -> None:
    """The service accepts no larger body."""
    service = Service()
    service.submit(rows(500, reason="🙁" * 2500))

    assert sum(len(batch) for batch in service.batches) == 500
    assert len(service.batches) > 1
    assert max(service.sizes) <= MAX_BYTES < MAX_BATCH


@pytest.mark.parametrize("status", [None, 408, 429, 500, 502, 503, 504])
def test_a_batch_without_an_answer_is_repeated(status: int | None) -> None:
    service = Service([BatchReply(status, {}), BatchReply(status, {})])

    assert service.submit(rows(3)) == [RowStatus.ACCEPTED] * 3
    assert service.batches == [["k0", "k1", "k2"]] * 3
    assert 1 <= service.slept[0] <= 1.5
    assert 2 <= service.slept[1] <= 3


def test_waits_as_long_as_the_service_asks() -> None:
    service = Service([BatchReply(429, {}, 42), BatchReply(503, {}, 100_000)])
    service.submit(rows(1))

    assert 42 <= service.slept[0] <= 43
    assert 120 <= service.slept[1] <= 121


@pytest.mark.parametrize(
    "answer",
    [
        problem(429, "too-many-requests", retry_after=7),
        problem(503, "store-unavailable", retry_after=7),
    ],
)
def test_members_without_a_final_answer_are_repeated(answer: Mapping[str, Any]) -> None:
    """Only they; the next batch begins with them."""

    def some(member: Mapping[str, Any]) -> Mapping[str, Any]:
        return answer if member["idempotency_key"] in {"k1", "k3"} else accept(member)

    service = Service([some])

    assert service.submit(rows(502)) == [RowStatus.ACCEPTED] * 502
    assert service.batches[1] == ["k1", "k3", "k500", "k501"]
    assert 7 <= service.slept[0] <= 8
    assert len(service.slept) == 1


def test_refused_and_repeated_rows_have_results() -> None:
    def mixed(member: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            "k0": accept(member),
            "k1": {"status": 200, "refund": {"id": "rf_old"}},
            "k2": problem(422, "policy-violation"),
            "k3": problem(409, "idempotency-mismatch"),
        }[member["idempotency_key"]]

    service = Service([mixed])

    assert service.submit(rows(4)) == [
        RowStatus.ACCEPTED,
        RowStatus.ALREADY_ACCEPTED,
        RowStatus.REFUSED,
        RowStatus.REFUSED,
    ]
    assert service.results[1].refund == {"id": "rf_old"}
    assert service.results[3].problem["code"] == "idempotency-mismatch"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (BatchReply(None, {}), "the service does not answer, 10 times"),
        (BatchReply(503, {"code": "store-unavailable"}), "503: store-unavailable"),
    ],
)
def test_ends_when_the_service_stays_away(reply: BatchReply, message: str) -> None:
    """Rows that were answered before have their results."""
    service = Service([accept, *[reply] * MAX_FAILURES])

    with pytest.raises(SubmissionStoppedError, match=message):
        service.submit(rows(501))
    assert len(service.statuses()) == 500
    assert max(service.slept) <= 45


def test_ends_when_members_are_never_answered() -> None:
    def never(member: Mapping[str, Any]) -> Mapping[str, Any]:
        return problem(503, "row-not-authentic")

    service = Service([never] * MAX_FAILURES)

    with pytest.raises(SubmissionStoppedError, match="answers row-not-authentic"):
        service.submit(rows(2))


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (BatchReply(401, {}), "does not accept the token"),
        (
            BatchReply(403, {"code": "tenant-blocked", "detail": "x"}),
            "tenant-blocked: x",
        ),
        (BatchReply(403, {"detail": "\x1b[31mred"}), r"'403: \\x1b\[31mred'"),
        (BatchReply(404, {}), "answers 404"),
        (BatchReply(307, {}), "answers 307"),
        (BatchReply(200, {}), "answers without results"),
        (BatchReply(200, {"results": [1]}), "answers without results"),
        (BatchReply(200, {"results": [{"idempotency_key": "k"}]}), "without results"),
    ],
)
def test_another_answer_ends_the_submission(reply: BatchReply, message: str) -> None:
    """It is not repeated; nothing of a wrong service is taken for a result."""
    service = Service([reply])

    with pytest.raises(SubmissionStoppedError, match=message):
        service.submit(rows(1))
    assert (len(service.batches), service.results) == (1, [])


@pytest.mark.parametrize(
    "answer", [{}, {"status": 201}, {"status": 201, "refund": 1}, {"problem": 1}]
)
def test_a_result_that_is_none_is_not_one(answer: Mapping[str, Any]) -> None:
    service = Service([lambda _: answer])

    assert service.submit(rows(1)) == [RowStatus.ACCEPTED]
    assert len(service.batches) == 2


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
