"""The client of a treasury, with servers that misbehave."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from api.extras.top_ups.treasury import MAX_BYTES, TopUp, TreasuryClient, TreasuryToken
from dev.ports import free_port
from signer.errors import ConfigurationError, TreasuryError
from signer.model.refund import RefundRequest, Status
from tests.fixtures.plain_server import Reply, Server, reply_server
from tests.fixtures.scripted_chain import CHAIN_ID, TOKEN
from tests.support.refunds import CUSTOMER


BEARER = "e30.CANARY-token.c2ln"
ID = "rf_" + "0" * 32
REFUND = {
    "id": ID,
    "status": "mined",
    "created_at": "2026-11-30T12:00:00.000000Z",
    "block_number": 7,
    "token": "TUSD",
}
TOP_UP = TopUp(ID, Status.MINED, datetime(2026, 11, 30, 12, tzinfo=UTC), 7)
REQUEST = RefundRequest("session", "reference", "local", "TUSD", CUSTOMER, "12.50")

Connect = Callable[..., TreasuryClient]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """The token of the treasury."""
    path = tmp_path / "treasury.token"
    path.write_text(f"{BEARER}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def connect(token_file: Path) -> Connect:
    """Return what makes a client of a URL."""

    def make(url: str, **options: Any) -> TreasuryClient:
        given = {"allow_http": True, **options}
        return TreasuryClient(SecretStr(url), token_file, **given)

    return make


@pytest.fixture
def server() -> Iterator[Server]:
    """A treasury with one token, and no refund."""
    with reply_server(_json({"tokens": [], "refunds": []})) as server:
        yield server


def _json(document: object, status: int = 200) -> Reply:
    return status, {}, json.dumps(document).encode()


def test_a_token_is_found_by_its_contract(connect: Connect, server: Server) -> None:
    """By chain and address; its names may differ."""
    other = {"network": "a", "chain_id": 1, "token": "A", "address": TOKEN}
    same = {"network": "b", "chain_id": CHAIN_ID, "token": "B", "address": TOKEN}
    server.reply = _json({"tokens": [other, {**same, "decimals": 6}]})
    client = connect(f"{server.url}/")

    assert client.find_token(CHAIN_ID, TOKEN.lower()) == TreasuryToken("b", "B")
    assert client.find_token(CHAIN_ID, CUSTOMER) is None
    method, path, headers, _ = server.asked[0]
    assert (method, path) == ("GET", "/v1/tokens")
    assert headers["authorization"] == f"Bearer {BEARER}"


def test_the_newest_top_up_is_read(connect: Connect, server: Server) -> None:
    client = connect(server.url)
    assert client.newest_top_up("a&b") is None
    server.reply = _json({"refunds": [REFUND, "ignored"][:1], "next_cursor": "x"})

    assert client.newest_top_up("a&b") == TOP_UP
    path = server.asked[0][1]
    assert path == "/v1/refunds?payment_session_id=a%26b&limit=1"


def test_a_request_has_its_key(connect: Connect, server: Server) -> None:
    """It does not wait for the broadcast."""
    server.reply = _json(REFUND, 201)

    assert connect(server.url).request(REQUEST, "key-1") == TOP_UP
    ((method, path, headers, body),) = server.asked
    assert (method, path) == ("POST", "/v1/refunds")
    assert headers["idempotency-key"] == "key-1"
    assert headers["prefer"] == "respond-async"
    assert json.loads(body) == {
        "payment_session_id": "session",
        "reference": "reference",
        "network": "local",
        "token": "TUSD",
        "recipient": CUSTOMER,
        "amount": "12.50",
    }


@pytest.mark.parametrize(
    ("reply", "reason", "is_refusal"),
    [
        (_json({"code": "policy-violation"}, 422), "policy-violation", True),
        (_json({"code": "conflict"}, 409), "conflict", True),
        (_json({"code": "forbidden"}, 403), "forbidden", True),
        (_json({"code": "invalid-input"}, 400), "invalid-input", True),
        (_json({"code": "unauthenticated"}, 401), "unauthenticated", False),
        (_json({"code": "rate-limited"}, 429), "rate-limited", False),
        (_json({"code": "store-unavailable"}, 503), "store-unavailable", False),
        (_json({"code": "evil\nlog"}, 500), "status-500", False),
        (_json({"code": "a" * 64}, 422), "status-422", True),
        (_json({"code": 7}, 404), "status-404", False),
        ((502, {}, b"<html>"), "status-502", False),
        ((204, {}, b""), "status-204", False),
        ((200, {}, b"<html>"), "answer-invalid", False),
        ((200, {}, b"[" * 100_000), "answer-invalid", False),
        ((200, {}, b" " * (MAX_BYTES + 1)), "too-large", False),
        (_json({**REFUND, "id": f"{ID}\r\nX: y"}), "answer-invalid", False),
        (_json({**REFUND, "id": f"{ID}\n"}), "answer-invalid", False),
        (_json({**REFUND, "status": "paid"}), "answer-invalid", False),
        (_json({**REFUND, "created_at": "2026-11-30"}), "answer-invalid", False),
        (_json({**REFUND, "block_number": "x"}), "answer-invalid", False),
        (_json({}), "answer-invalid", False),
        (_json([]), "answer-invalid", False),
    ],
    ids=lambda each: each if isinstance(each, str) else None,
)
def test_another_answer_is_an_error(
    connect: Connect, server: Server, reply: Reply, reason: str, is_refusal: bool
) -> None:
    """It has a code, and nothing else of the answer, the token or the URL."""
    server.reply = reply
    client = connect(server.url)
    with pytest.raises(TreasuryError) as failed:
        client.request(REQUEST, "key-1")

    assert failed.value.reason == reason
    assert failed.value.is_refusal is is_refusal
    text = f"{failed.value!r} {failed.value.__context__!r} {client!r}"
    assert "CANARY" not in text
    assert str(server.server.server_port) not in text


def test_a_redirect_is_not_followed(connect: Connect, server: Server) -> None:
    """The other host would get the token."""
    reply = (307, {"Location": server.url}, b"")
    with (
        reply_server(reply) as first,
        pytest.raises(TreasuryError, match="status-307"),
    ):
        connect(first.url).newest_top_up("session")

    assert server.asked == []


def test_a_slow_treasury_gives_no_answer(connect: Connect, server: Server) -> None:
    """The whole answer has one deadline."""
    server.may_answer.clear()

    with pytest.raises(TreasuryError, match="too-slow"):
        connect(server.url, timeout=0.2).newest_top_up("session")


def test_no_treasury_gives_no_answer(connect: Connect) -> None:
    client = connect(f"http://127.0.0.1:{free_port()}")

    with pytest.raises(TreasuryError, match="unreachable"):
        client.newest_top_up("session")


def test_the_token_is_read_for_each_request(
    connect: Connect, server: Server, token_file: Path
) -> None:
    """Another program replaces it, since it expires soon."""
    client = connect(server.url)
    client.newest_top_up("session")
    token_file.write_text("other")
    client.newest_top_up("session")
    token_file.unlink()
    with pytest.raises(TreasuryError, match="token-file-unusable"):
        client.newest_top_up("session")

    sent = [headers["authorization"] for _, _, headers, _ in server.asked]
    assert sent == [f"Bearer {BEARER}", "Bearer other"]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "https://user:pw@host/",
        "https://host/?key=pw",
        "https://host/#pw",
        "https://",
        "x",
    ],
)
def test_an_unsafe_url_is_refused(connect: Connect, url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        connect(url, allow_http=False)

    (refusal,) = refused.value.refusals
    assert refusal.code == "treasury-misconfigured"
    assert "TREASURY_URL" in refusal.message
    assert "pw" not in str(refusal)


@pytest.mark.parametrize(
    "content",
    [None, b"", b"two tokens", b"line\nbreak", b"\xff", b"a" * 20_000 + b" b"],
    ids=["missing", "empty", "two", "lines", "binary", "long"],
)
def test_a_file_without_a_token_is_refused(
    connect: Connect, token_file: Path, content: bytes | None
) -> None:
    if content is None:
        token_file.unlink()
    else:
        token_file.write_bytes(content)

    with pytest.raises(ConfigurationError, match="TREASURY_TOKEN_FILE"):
        connect("https://host")


def test_others_may_not_read_the_token(connect: Connect, token_file: Path) -> None:
    token_file.chmod(0o640)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        connect("https://host")


@pytest.mark.parametrize("is_url", [True, False], ids=["url", "file"])
def test_both_settings_are_needed(token_file: Path, is_url: bool) -> None:
    url = SecretStr("https://host") if is_url else None

    with pytest.raises(ConfigurationError, match="need each other"):
        TreasuryClient(url, None if is_url else token_file, allow_http=False)
