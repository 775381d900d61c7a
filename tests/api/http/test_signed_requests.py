"""A tenant with request keys must sign its requests for refunds (RFC 9421)."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from falcon.testing import Result, TestClient

from api.http.app import create_app
from backends.sql import SQLStore
from signer.crypto.http_signatures import accept_signature
from signer.model.refund import Refund
from tests.api.service import BODY, build_container
from tests.api.support import NOW, SettableClock, post, token
from tests.fixtures.ledger import refund_page
from tests.support.signed_requests import RequestKey, signing_tenants


GUIDE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "sign-requests.md"
SENT = json.dumps(BODY, indent=1).encode()  # Not as this program would write it.
KEY = RequestKey()
P256 = RequestKey("p256", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def key() -> RequestKey:
    return KEY


@pytest.fixture
def client(sqlite_store: SQLStore, clock: SettableClock, key: RequestKey) -> TestClient:
    """A client of an application whose tenant ``gateway-1`` signs with ``key``."""
    tenants = signing_tenants(key)
    return TestClient(create_app(build_container(sqlite_store, clock, tenants=tenants)))


def _send(client: TestClient, headers: dict[str, str], body: bytes = SENT) -> Result:
    named = {name.replace("-", "_"): value for name, value in headers.items()}
    return post(client, body, **named)


def _refunds(store: SQLStore, tenant: str = "gateway-1") -> tuple[Refund, ...]:
    return refund_page(store, tenant).refunds


@pytest.mark.parametrize("key", [KEY, P256], ids=lambda key: key.key_id)
def test_a_signed_request_is_stored_as_it_was_sent(
    client: TestClient, sqlite_store: SQLStore, key: RequestKey
) -> None:
    """The exact bytes and the three headers, with the time of the service."""
    headers = key.headers(SENT, "k", NOW - timedelta(seconds=9))
    answer = _send(client, headers)
    stored = sqlite_store.signed_request(answer.json["id"])

    assert answer.status_code == 201
    assert stored is not None
    assert (stored.body, stored.at) == (SENT, NOW)
    assert stored.content_digest == headers["Content-Digest"]
    assert stored.signature_input == headers["Signature-Input"]
    assert stored.signature == headers["Signature"]


def _changed(**changes: str) -> dict[str, str]:
    changed = {name.replace("_", "-"): value for name, value in changes.items()}
    return {**KEY.headers(SENT, "k", NOW), **changed}


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({}, "Signature-Input is missing"),
        (_changed(Idempotency_Key="other"), "not valid"),
        (_changed(Signature="sig1=:AAAA:"), "not valid"),
        (KEY.headers(SENT + b" ", "k", NOW), "not valid"),
        (KEY.headers(SENT, "k", NOW, path="/v1/refunds/"), "not valid"),
        (RequestKey().headers(SENT, "k", NOW), "not valid"),
        (RequestKey("x").headers(SENT, "k", NOW), "no request key"),
        (KEY.headers(SENT, "k", NOW, covered=("content-digest",)), "other components"),
        (KEY.headers(SENT, "k", NOW, tag="other"), "name of this service, hotwallet"),
    ],
    ids=[
        *("unsigned", "key", "signature", "body", "path", "signer", "keyid"),
        *("covered", "service"),
    ],
)
def test_a_request_without_a_valid_signature_is_refused(
    client: TestClient, sqlite_store: SQLStore, headers: dict[str, str], problem: str
) -> None:
    """The answer says what is wrong and what to sign; nothing is stored."""
    answer = _send(client, headers)

    assert answer.status_code == 400
    assert answer.json["code"] == "request-signature-invalid"
    assert problem in answer.json["detail"]
    assert "Sign POST /v1/refunds" in answer.json["detail"]
    assert answer.headers["Accept-Signature"] == accept_signature("hotwallet")
    assert _refunds(sqlite_store) == ()


def test_a_repeated_request_is_signed_again(
    client: TestClient, sqlite_store: SQLStore, clock: SettableClock
) -> None:
    """The first signature stays; an expired one is refused, a new one answered."""
    first = _send(client, KEY.headers(SENT, "k", clock()))
    stored = sqlite_store.signed_request(first.json["id"])
    expired = KEY.headers(SENT, "k", clock())
    clock.advance(280)
    repeated = _send(client, KEY.headers(SENT, "k", clock()))
    clock.advance(30)
    refused = _send(client, expired)

    assert (repeated.status_code, repeated.json) == (200, first.json)
    assert refused.status_code == 400
    assert sqlite_store.signed_request(first.json["id"]) == stored is not None


def test_the_example_of_the_guide_signs(
    client: TestClient, clock: SettableClock
) -> None:
    """The Python code of the guide, as it is printed there."""
    code, _ = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(GUIDE), "exec"), names)
    sent: requests.PreparedRequest = names["signed_request"](
        "https://wallet.example", token(), "hotwallet", "key-1", BODY, KEY.pem
    )
    (created,) = re.findall(r"created=(\d+)", str(sent.headers["Signature-Input"]))
    clock.now = clock.now.fromtimestamp(int(created), clock.now.tzinfo)

    answer = client.simulate_post(
        "/v1/refunds",
        headers={**sent.headers, "Authorization": f"Bearer {token(now=clock.now)}"},
        body=sent.body or b"",
    )

    assert answer.status_code == 201
