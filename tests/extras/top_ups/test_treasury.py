"""The client of a treasury, with servers that misbehave, and its settings."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from api.auth.dev_tokens import provide_signing_key
from api.bootstrap import build_container, check_configuration, open_container
from api.container import Container
from api.extras.top_ups import open_treasury
from api.extras.top_ups.treasury import (
    MAX_BYTES,
    TopUp,
    TreasuryClient,
    TreasuryToken,
    doctor_checks,
)
from backends.sql import SQLStore
from dev.ports import free_port
from signer.alerts import Alert
from signer.diagnostics import Finding
from signer.errors import ConfigurationError, TreasuryError
from signer.model.refund import RefundRequest, Status
from signer.model.worker_row import WorkerRow
from tests.api.readings import measured
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
    path = tmp_path / "treasury.token"
    path.write_text(f"{BEARER}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def connect(token_file: Path) -> Connect:

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


OTHER_ANSWERS: list[tuple[Reply, str, bool]] = [
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
]


def test_another_answer_is_an_error(connect: Connect, server: Server) -> None:
    """It has a code, and nothing else of the answer, the token or the URL."""
    for server.reply, reason, is_refusal in OTHER_ANSWERS:
        client = connect(server.url)
        with pytest.raises(TreasuryError) as failed:
            client.request(REQUEST, "key-1")

        assert (failed.value.reason, failed.value.is_refusal) == (reason, is_refusal)
        text = f"{failed.value!r} {failed.value.__context__!r} {client!r}"
        assert "CANARY" not in text
        assert str(server.server.server_port) not in text


def test_a_redirect_is_not_followed(connect: Connect, server: Server) -> None:
    """The other host would get the token."""
    reply = (307, {"Location": server.url}, b"")
    with reply_server(reply) as first, pytest.raises(TreasuryError, match="status-307"):
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


NETWORKS = f"""
[networks.local]
chain_id = {CHAIN_ID}
rpc_urls = ["http://127.0.0.1:1"]

[networks.local.tokens.TUSD]
address = "{TOKEN}"
decimals = 6
max_amount = "1000"
top_up_below = "100"
top_up_to = "600"

[networks.local.tokens.TEUR]
address = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
decimals = 6
max_amount = "1000"
"""


@pytest.fixture
def environ(tmp_path: Path, sqlite_url: str) -> dict[str, str]:
    """A worker's environment with thresholds, and no treasury."""
    networks = tmp_path / "networks.toml"
    networks.write_text(NETWORKS)
    return {
        "APP_ENV": "test",
        "NETWORKS_FILE": str(networks),
        "DATABASE_URL": sqlite_url,
        "HOTWALLET_HOME": str(tmp_path),
    }


def test_a_worker_with_thresholds_needs_a_treasury(environ: dict[str, str]) -> None:
    """Another process may have the same networks file, and no token."""
    with pytest.raises(ConfigurationError) as refused:
        open_container(environ, serving=False)

    (refusal,) = refused.value.refusals
    assert refusal.code == "treasury-misconfigured"
    assert open_treasury(build_container(environ)) is None


def test_the_check_of_a_configuration_finds_it(
    environ: dict[str, str], tmp_path: Path
) -> None:
    """Of settings that a worker may have: those of another role name it."""
    key = tmp_path / "jwt.pem"
    provide_signing_key(tmp_path / "private.pem", key)
    given = {**environ, "JWT_PUBLIC_KEY_FILE": str(key)}
    with pytest.raises(ConfigurationError, match="treasury-misconfigured"):
        check_configuration(given)

    assert check_configuration({**given, "SERVE_ROLE": "refunds"}) == []


@pytest.mark.parametrize("name", ["TREASURY_URL", "TREASURY_TOKEN_FILE"])
def test_half_a_treasury_is_refused(
    environ: dict[str, str], name: str, token_file: Path
) -> None:
    """In every process."""
    value = "https://treasury" if name == "TREASURY_URL" else str(token_file)
    with pytest.raises(ConfigurationError) as refused:
        open_container({**environ, name: value}, serving=True)

    assert "treasury-misconfigured" in {each.code for each in refused.value.refusals}


def test_production_needs_https(token_file: Path) -> None:
    given = {
        "TREASURY_URL": "http://127.0.0.1:1",
        "TREASURY_TOKEN_FILE": str(token_file),
    }
    outside = build_container({**given, "APP_ENV": "test"})
    assert isinstance(open_treasury(outside), TreasuryClient)

    with pytest.raises(ConfigurationError, match="https"):
        open_treasury(build_container(given))


def test_a_process_for_refunds_must_not_have_the_token(
    environ: dict[str, str], token_file: Path
) -> None:
    given = {"SERVE_ROLE": "refunds", "TREASURY_TOKEN_FILE": str(token_file)}
    with pytest.raises(ConfigurationError, match="unset TREASURY_TOKEN_FILE"):
        open_container({**environ, **given}, serving=True)


def _find(container: Container) -> Finding:
    (check,) = doctor_checks(container)
    return check.run()


def test_the_doctor_asks_the_treasury(
    environ: dict[str, str], token_file: Path, sqlite_store: SQLStore
) -> None:
    """Whether it has each token with thresholds."""
    known = {"network": "x", "chain_id": CHAIN_ID, "token": "Y", "address": TOKEN}
    with reply_server((200, {}, json.dumps({"tokens": [known]}).encode())) as server:
        given = {"TREASURY_URL": server.url, "TREASURY_TOKEN_FILE": str(token_file)}
        container = build_container({**environ, **given})
        container.store = sqlite_store
        good = _find(container)
        server.reply = 200, {}, b'{"tokens": []}'
        unknown = _find(container)
        server.reply = 401, {}, b'{"code": "unauthenticated"}'
        with pytest.raises(TreasuryError, match="unauthenticated"):
            _find(container)

    assert (good.detail, good.cure) == ("the treasury answers", None)
    assert unknown.code == Alert.TOP_UP_FAILING
    assert "no token at the address of TUSD on local" in unknown.detail
    assert "TEUR" not in unknown.detail


def test_the_doctor_sees_what_workers_ask_in_vain(
    environ: dict[str, str], sqlite_store: SQLStore
) -> None:
    """Also where it has no token of the treasury itself."""
    container = build_container(environ)
    container.store = sqlite_store
    assert _find(container).detail == "no treasury is configured (TREASURY_URL)"
    now = container.ledger_clock()
    metrics = 'hotwallet_top_up_failing{network="local",asset="TUSD"} 1\n'
    sqlite_store.record_pass(WorkerRow("a", now, now, measured(metrics)))

    found = _find(container)
    assert (found.detail, found.code) == (
        "TUSD on local is low and is not topped up",
        Alert.TOP_UP_FAILING,
    )
