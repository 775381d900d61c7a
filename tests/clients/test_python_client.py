"""The Python clients: what it repeats, what it raises, and against a real service."""

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import pytest

from hotwallet_client import (
    Action,
    ApiError,
    AsyncHotWallet,
    HotWallet,
    NotFinalError,
    Refund,
    RefundRequest,
    Retries,
    UnansweredError,
    new_idempotency_key,
)
from hotwallet_client.models import BatchMember
from tests.clients.conftest import Service
from tests.clients.scripted_service import LOST, Reply, ScriptedService, problem


REQUEST: RefundRequest = {
    "payment_session_id": "ps_1",
    "network": "local",
    "token": "TUSD",
    "recipient": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "amount": "12.50",
}

# The members that the client reads.
QUEUED = cast("Refund", {"id": "rf_1", "status": "queued"})
PAID = cast("Refund", {"id": "rf_1", "status": "confirmed"})

_numbers = itertools.count()


@dataclass
class Time:
    now: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def retries(self, **given: Any) -> Retries:
        """Return retries by this clock, with half of each random part."""
        return Retries(clock=lambda: self.now, draw=lambda: 0.5, **given)


Start = Callable[..., tuple[HotWallet, ScriptedService, Time]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts a service with replies, and a client of it."""
    with ExitStack() as running:

        def run(
            *replies: Reply, token: Any = "t", **given: Any
        ) -> tuple[HotWallet, ScriptedService, Time]:
            service = running.enter_context(ScriptedService(replies))
            time = Time()
            retries = time.retries(**given)
            client = HotWallet(service.url, token, retries=retries, sleep=time.sleep)
            return running.enter_context(client), service, time

        yield run


def test_a_lost_answer_is_asked_for_again(start: Start) -> None:
    """The same bytes with the same key, after pauses that grow."""
    client, service, time = start(LOST, LOST, LOST, Reply(200, QUEUED))

    assert client.create_refund(REQUEST) == QUEUED
    assert (
        len({(each.body, each.headers["idempotency-key"]) for each in service.seen})
        == 1
    )
    assert json.loads(service.seen[0].body) == REQUEST
    assert time.pauses == [0.25, 0.5, 1.0]


def test_a_key_of_the_caller(start: Start) -> None:
    client, service, _ = start(Reply(201, QUEUED), Reply(201, QUEUED))
    client.create_refund(REQUEST, idempotency_key="mine", wait=10)
    client.create_refund(REQUEST)
    first, second = (each.headers for each in service.seen)

    assert (first["idempotency-key"], first["prefer"]) == ("mine", "wait=10")
    assert len(second["idempotency-key"]) == len(new_idempotency_key())
    assert "prefer" not in second


@pytest.mark.parametrize(
    ("reply", "pause"),
    [
        (problem(429, "too-many-requests", 7), 7.25),
        (problem(503, "store-unavailable", 5), 5.25),
        (problem(408, "request-timeout"), 0.25),
        (problem(500, "internal-error"), 0.25),
        (Reply(502, "of a proxy"), 0.25),
        (Reply(504, None, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), 0.25),
    ],
    ids=str,
)
def test_a_temporary_error_is_repeated(
    start: Start, reply: Reply, pause: float
) -> None:
    """After what the service asks for, plus a random part."""
    client, _, time = start(reply, Reply(201, QUEUED))

    assert client.create_refund(REQUEST) == QUEUED
    assert time.pauses == [pause]


@pytest.mark.parametrize(
    ("status", "code", "action"),
    [
        (400, "invalid-input", Action.CORRECT),
        (401, "unauthenticated", Action.AUTHENTICATE),
        (403, "tenant-blocked", Action.ASK_OPERATOR),
        (404, "not-found", Action.CORRECT),
        (409, "conflict", Action.LOOK_UP),
        (409, "idempotency-mismatch", Action.CORRECT),
        (409, "not-cancellable", Action.LOOK_UP),
        (410, "cursor-expired", Action.LOOK_UP),
        (421, "not-through-proxy", Action.ASK_OPERATOR),
        (422, "policy-violation", Action.CORRECT),
        (501, "unsupported-transfer-coding", Action.CORRECT),
        (302, "http-302", Action.CORRECT),
    ],
)
def test_another_error_is_raised_at_once(
    start: Start, status: int, code: str, action: Action
) -> None:
    """With its code, and what to do."""
    client, service, _ = start(problem(status, code))
    with pytest.raises(ApiError) as raised:
        client.create_refund(REQUEST)
    error = raised.value

    assert (error.status, error.code, error.action) == (status, code, action)
    assert (error.detail, error.request_id) == ("because", "req_1")
    assert error.url == f"{service.url}/problems/{code}"
    assert str(error) == f"{code}: because (req_1). {action.advice}"


def test_a_conflict_names_the_earlier_refund(start: Start) -> None:
    body = {"code": "conflict", "refund_id": "rf_1"}
    client, *_ = start(Reply(409, body), Reply(409, {"code": "conflict"}))
    with pytest.raises(ApiError) as with_id:
        client.create_refund(REQUEST)
    with pytest.raises(ApiError) as without_id:
        client.create_refund(REQUEST)

    assert (with_id.value.refund_id, without_id.value.refund_id) == ("rf_1", None)


def test_an_answer_that_is_no_problem_document(start: Start) -> None:
    client, *_ = start(Reply(404, ["a", "list"]))
    with pytest.raises(ApiError, match=r"^http-404\. Correct the request") as raised:
        client.get_refund("../keys")

    assert raised.value.url is None


def test_there_is_one_deadline(start: Start) -> None:
    """Then the outcome is unknown: the error has the key, and the last failure."""
    client, _, time = start(*[problem(503, "store-unavailable", 30)] * 3)
    with pytest.raises(UnansweredError) as raised:
        client.create_refund(REQUEST, idempotency_key="mine")
    last = raised.value.last

    assert time.pauses == [30.25]
    assert raised.value.idempotency_key == "mine"
    assert isinstance(last, ApiError)
    assert last.action is Action.REPEAT
    assert "store-unavailable" in str(raised.value)
    assert "'mine'" in str(raised.value)


def test_nothing_listens() -> None:
    """A refused connection may have another answer later, until the deadline."""
    time = Time()
    retries = time.retries(deadline=5)
    client = HotWallet("http://127.0.0.1:9", "t", retries=retries, sleep=time.sleep)
    with client, pytest.raises(UnansweredError, match=r"refused|failed"):
        client.tokens()

    assert time.pauses == [0.25, 0.5, 1.0, 2.0]


def test_a_token_is_asked_for_each_attempt(start: Start) -> None:
    """It lives for minutes only; its errors are those of the caller."""
    tokens = ["two", "one"]
    client, service, _ = start(LOST, Reply(200, QUEUED), token=tokens.pop)
    client.get_refund("rf_1")

    sent = [each.headers["authorization"] for each in service.seen]
    assert sent == ["Bearer one", "Bearer two"]
    assert "one" not in repr(client)
    with pytest.raises(IndexError):
        client.get_refund("rf_1")


def test_an_invalid_request_is_not_repeated(start: Start) -> None:
    """One that cannot be sent is an error of the caller."""
    client, service, time = start()
    with pytest.raises(httpx.LocalProtocolError):
        client.create_refund(REQUEST, idempotency_key="two\nlines")

    assert (service.seen, time.pauses) == ([], [])


@pytest.mark.parametrize("url", ["ftp://host", "host", "https://"])
def test_an_address_is_checked(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        HotWallet(url, "t")


def test_waiting_for_the_end(start: Start) -> None:
    """The service waits; if it did not, the client pauses before it asks again."""
    client, service, time = start(
        Reply(200, QUEUED, {"Preference-Applied": "wait=20"}),
        Reply(200, QUEUED),
        Reply(200, PAID),
    )

    assert client.wait_until_final("rf_1") == PAID
    assert [each.headers["prefer"] for each in service.seen] == ["wait=20"] * 3
    assert time.pauses == [3.0]


def test_waiting_ends(start: Start) -> None:
    client, service, _ = start(*[Reply(200, QUEUED)] * 3)
    with pytest.raises(NotFinalError, match="rf_1 is still queued") as raised:
        client.wait_until_final("rf_1", timeout=5)

    assert raised.value.refund == QUEUED
    assert [each.headers.get("prefer") for each in service.seen] == [
        "wait=5",
        "wait=2",
        None,
    ]


def _member(key: str) -> BatchMember:
    return {**REQUEST, "idempotency_key": key}


def test_members_of_a_batch_are_repeated(start: Start) -> None:
    """Only those with a temporary error; results are in the order of the request."""
    done = {"idempotency_key": "a", "status": 201, "refund": QUEUED}
    late = {"idempotency_key": "b", "status": 429, "retry_after": 9, "problem": {}}
    wrong = {"idempotency_key": "c", "status": 422, "problem": {}}
    now = {"idempotency_key": "b", "status": 201, "refund": QUEUED}
    client, service, time = start(
        Reply(200, {"results": [done, late, wrong]}), Reply(200, {"results": [now]})
    )
    results = client.create_refunds([_member(key) for key in "abc"])

    assert results == [done, now, wrong]
    assert json.loads(service.seen[1].body) == {"refunds": [_member("b")]}
    assert time.pauses == [9.25]


def test_a_batch_has_a_deadline(start: Start) -> None:
    late = {"idempotency_key": "a", "status": 429, "retry_after": 90, "problem": {}}
    client, _, time = start(Reply(200, {"results": [late]}))

    assert client.create_refunds([_member("a")]) == [late]
    assert client.create_refunds([]) == []
    assert time.pauses == []


def test_pages_of_refunds(start: Start) -> None:
    client, service, _ = start(
        Reply(200, {"refunds": [QUEUED], "next_cursor": "rf_9"}),
        Reply(200, {"refunds": [PAID], "next_cursor": None}),
    )
    found = [*client.refunds(status="queued")]

    assert found == [QUEUED, PAID]
    assert [each.path for each in service.seen] == [
        "/v1/refunds?status=queued&limit=200",
        "/v1/refunds?status=queued&limit=200&cursor=rf_9",
    ]


def test_following_events(start: Start) -> None:
    """Empty pages are not yielded; the cursor of each is sent with the next request."""
    page = {"events": [{"id": "evt_1"}], "next_cursor": "7"}
    client, service, time = start(
        Reply(
            200, {"events": [], "next_cursor": "5"}, {"Preference-Applied": "wait=20"}
        ),
        Reply(200, {"events": [], "next_cursor": "5"}),
        Reply(200, page),
    )
    found = next(client.follow_events("3"))

    assert found == page
    assert [each.path for each in service.seen] == [
        f"/v1/events?after={after}&limit=50" for after in ("3", "5", "5")
    ]
    assert time.pauses == [3.0]


class _Losing(httpx.BaseTransport):
    """Sends each request, and loses the first *count* answers."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._real = httpx.HTTPTransport()

    def close(self) -> None:
        self._real.close()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._real.handle_request(request)
        if self.count:
            self.count -= 1
            response.close()
            raise httpx.ReadTimeout("the answer is lost", request=request)
        return response


class _AsyncLosing(httpx.AsyncBaseTransport):
    """The same for asyncio."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._real = httpx.AsyncHTTPTransport()

    async def aclose(self) -> None:
        await self._real.aclose()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._real.handle_async_request(request)
        if self.count:
            self.count -= 1
            await response.aclose()
            raise httpx.ReadTimeout("the answer is lost", request=request)
        return response


def _request() -> RefundRequest:
    return {**REQUEST, "payment_session_id": f"ps_python_{next(_numbers)}"}


def test_a_real_service_pays_once(service: Service) -> None:
    """Although three answers are lost; the refund is confirmed, and has its events."""
    transport = _Losing(3)
    retries, http = Retries(first_pause=0.01), httpx.Client(transport=transport)
    request = _request()
    with HotWallet(service.url, service.token, http=http, retries=retries) as client:
        created = client.create_refund(request)
        paid = client.wait_until_final(created["id"])
        session = request["payment_session_id"]
        found = [each["id"] for each in client.refunds(payment_session_id=session)]
        types: list[str] = []
        for page in client.follow_events():
            ours = [e for e in page["events"] if e["data"]["id"] == created["id"]]
            types += [each["type"] for each in ours]
            if "refund.confirmed" in types:
                break

    assert transport.count == 0
    assert (paid["status"], paid["amount"]) == ("confirmed", "12.500000")
    assert (paid["tx_hash"] or "").startswith("0x")
    assert found == [created["id"]]
    assert types[0] == "refund.accepted"


def test_errors_of_a_real_service(service: Service) -> None:
    """They have their code, and the address of a page that explains it."""
    with HotWallet(service.url, service.token) as client:
        with pytest.raises(ApiError) as raised:
            client.create_refund({**_request(), "amount": "1000000"})
        with pytest.raises(ApiError) as unknown:
            client.get_refund(f"rf_{'0' * 32}")
    with (
        HotWallet(service.url, "none") as stranger,
        pytest.raises(ApiError, match=r"unauthenticated.*Get a new token"),
    ):
        stranger.tokens()
    page = httpx.get(raised.value.url or "", headers={"Accept": "text/plain"})

    assert (raised.value.code, raised.value.rule) == ("policy-violation", "max-amount")
    assert page.text.startswith("policy-violation: ")
    assert unknown.value.code == "not-found"


def _batch() -> list[BatchMember]:
    return [
        {**_request(), "amount": amount, "idempotency_key": f"batch-{next(_numbers)}"}
        for amount in ("1", "1000000", "2")
    ]


def test_the_rest_of_a_real_service(service: Service) -> None:
    """Tokens, networks, a preview, a batch, a cancellation and the keys."""
    with HotWallet(service.url, service.token) as client:
        (token,) = client.tokens()
        assert [each["network"] for each in client.networks()] == [token["network"]]
        assert client.preview_refund(_request())["outcome"] == "pay"
        results = client.create_refunds(_batch())
        assert [each["status"] for each in results] == [201, 422, 201]
        events = client.list_events(limit=1, wait=20)["events"]
        assert events[0]["type"] == "refund.accepted"
        assert all(key.startswith("whpk_") for key in client.webhook_keys())
        paid = client.create_refund(_request(), wait=20)
        explained = client.explain_refund(paid["id"])
        assert explained["refund"]["id"] == paid["id"]
        with pytest.raises(ApiError) as raised:
            client.cancel_refund(paid["id"])
    assert raised.value.code == "not-cancellable"


async def _use_all(service: Service) -> None:
    transport, request = _AsyncLosing(3), _request()

    async def token() -> str:
        return service.token()

    async with AsyncHotWallet(
        service.url,
        token,
        http=httpx.AsyncClient(transport=transport),
        retries=Retries(first_pause=0.01),
    ) as client:
        created = await client.create_refund(request)
        paid = await client.wait_until_final(created["id"])
        session = request["payment_session_id"]
        found = [
            each["id"] async for each in client.refunds(payment_session_id=session)
        ]
        async for page in client.follow_events():
            assert page["events"]
            break
        results = await client.create_refunds(_batch())
        with pytest.raises(ApiError) as raised:
            await client.cancel_refund(created["id"])
        tokens, networks = await client.tokens(), await client.networks()
        preview = await client.preview_refund(_request())
        keys = await client.webhook_keys()
        explained = await client.explain_refund(created["id"])
        shown = await client.get_refund(created["id"])

    assert transport.count == 0
    assert (paid["status"], shown["status"]) == ("confirmed", "confirmed")
    assert found == [created["id"]]
    assert [each["status"] for each in results] == [201, 422, 201]
    assert raised.value.code == "not-cancellable"
    assert tokens[0]["network"] == networks[0]["network"]
    assert preview["outcome"] == "pay"
    assert all(key.startswith("whpk_") for key in keys)
    assert explained["refund"]["id"] == created["id"]


def test_the_client_for_asyncio(service: Service) -> None:
    """
    Although three answers are lost, it pays once; each of its methods works.

    The other client is generated from it (``test_generated.py``), and has the tests of
    each answer.
    """
    asyncio.run(_use_all(service))


def test_tasks_share_a_client(service: Service) -> None:
    """Eight that send one request at once make one refund."""
    request, key = _request(), new_idempotency_key()

    async def run() -> set[str]:
        token = service.token()
        async with AsyncHotWallet(service.url, token) as client:
            calls = [
                client.create_refund(request, idempotency_key=key) for _ in range(8)
            ]
            return {each["id"] for each in await asyncio.gather(*calls)}

    assert len(asyncio.run(run())) == 1
