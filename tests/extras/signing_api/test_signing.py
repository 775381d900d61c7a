"""The routes under ``/v1/sign``: synchronous signatures, and their errors."""

import json
from typing import Any

import bitcurve
import pytest
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from falcon.testing import TestClient

from api.container import Container
from api.http.app import create_app
from api.metrics.metric_names import DECISIONS, SIGNATURES
from api.metrics.shared_meter import read_shared
from backends.sql import SQLStore
from signer.config.tenants import TenantRegistry
from signer.errors import (
    BackendThrottledError,
    BackendUnavailableError,
    KeyUnusableError,
)
from signer.model.hold import EVERYTHING, Hold
from signer.policy.default_rules import service_files
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile
from tests.api.service import NETWORKS, RECIPIENT, build_container, replaced
from tests.api.signers import call, sign, signer_token
from tests.api.support import SettableClock
from tests.fixtures.ledger import stopped
from tests.support.devices import KEY_ID, Device, Directory, honest, point


KEY = bitcurve.PrivateKey.from_int(0x51)

PERMITS = Policy.compile(
    service_files(NETWORKS, TenantRegistry()),
    [
        PolicyFile(
            "own.cedar",
            '@id("all") permit (principal, action, resource)'
            ' when { context.path == "rest" };',
        )
    ],
)

DOCUMENT: dict[str, Any] = {
    "types": {"Mail": [{"name": "amount", "type": "uint256"}]},
    "primaryType": "Mail",
    "domain": {"name": "Example"},
    "message": {"amount": 2**256 - 1},
}


def _client(
    store: SQLStore, clock: SettableClock, device: Device | None = None
) -> TestClient:
    container = build_container(store, clock, device=device or honest(KEY))
    return TestClient(create_app(replaced(container, policy=PERMITS)))


@pytest.fixture
def signing(sqlite_store: SQLStore, clock: SettableClock) -> TestClient:
    """A client of an application whose operator permits everything."""
    return _client(sqlite_store, clock)


def test_signs_a_message(signing: TestClient) -> None:
    answer = sign(signing, "message", message="two\nlines")
    signable = encode_defunct(text="two\nlines")
    found = Account.recover_message(signable, signature=answer.json["signature"])

    assert answer.status_code == 200
    assert found == answer.json["address"]


def test_signs_a_document(signing: TestClient) -> None:
    for document in (DOCUMENT, json.dumps(DOCUMENT)):
        answer = sign(signing, "typed-data", typed_data=document).json
        signable = encode_typed_data(full_message=DOCUMENT)
        found = Account.recover_message(signable, signature=answer["signature"])

        assert found == answer["address"]


def test_signs_no_transaction(signing: TestClient) -> None:
    """It would use the wallet's next nonce: there is no such route."""
    assert sign(signing, "transaction", transaction={}).status_code == 404


def test_the_policy_refuses(client: TestClient) -> None:
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("message", {"message": "hello"}, "message"),
        ("message", {"message": "0x" + "ab" * 32}, "message-digest"),
        ("typed-data", {"typed_data": DOCUMENT}, "typed-data"),
    ]
    for what, body, rule in refused:
        answer = sign(client, what, **body)

        assert (answer.status_code, answer.json["rule"]) == (422, rule)


def test_each_decision_is_counted(
    client: TestClient,
    container: Container,
    sqlite_store: SQLStore,
    clock: SettableClock,
) -> None:
    """By its path and rule, for the metrics; a malformed request needs none."""
    sign(client, "message", message="hello")
    sign(client, "message", message=7)
    call(client, "personal_sign", "0x00", container.ring.active().signer.address)
    container.shared_meter.flush(sqlite_store, clock)

    assert read_shared(sqlite_store.shared_counts()).of(DECISIONS) == {
        ("rest", "refuse", "message"): 1,
        ("json-rpc", "refuse", "message"): 1,
    }


MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("message", {}, "message"),
    ("message", {"message": 7}, "message"),
    ("message", {"message": "x", "address": "0x1"}, "address"),
    ("message", {"message": "x", "address": 7}, "address"),
    ("message", {"message": "x", "address": RECIPIENT}, "from"),
    ("message", {"message": "x", "more": 1}, "more"),
    ("typed-data", {"typed_data": {}}, "document"),
    ("typed-data", {"typed_data": DOCUMENT, "chainId": 1}, "chainId"),
    ("typed-data", {"typed_data": {**DOCUMENT, "extra": 1}}, "document"),
]


def test_malformed_requests(signing: TestClient) -> None:
    """No member of a request is read and dropped."""
    for what, body, field in MALFORMED:
        answer = sign(signing, what, **body)

        assert (answer.status_code, answer.json["field"]) == (400, field), body
    answer = signing.simulate_post(
        "/v1/sign/message",
        body="[]",
        headers={"Content-Type": "application/json", **signer_token()},
    )
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "error",
    [BackendUnavailableError("x"), BackendThrottledError("x"), KeyUnusableError("x")],
)
def test_the_device_does_not_sign(
    sqlite_store: SQLStore, clock: SettableClock, error: Exception
) -> None:
    """Unavailable, throttled, disabled or pending deletion: 503, and a later try."""

    def fail(_: bytes) -> bytes:
        raise error

    client = _client(sqlite_store, clock, Device(point(KEY), fail))
    answer = sign(client, "message", message="hello")

    assert answer.status_code == 503
    assert answer.json["code"] == error.code  # type: ignore[attr-defined]
    assert int(answer.headers["retry-after"]) > 0


def test_signatures_are_counted(sqlite_store: SQLStore, clock: SettableClock) -> None:
    """Of this process too, which is no worker; also those that failed."""
    broken = [False]

    def answer(digest: bytes) -> bytes:
        if broken[0]:
            raise KeyUnusableError("x")
        return honest(KEY)._answer(digest)

    device = Device(point(KEY), answer)
    container = replaced(
        build_container(sqlite_store, clock, device=device), policy=PERMITS
    )
    directory = Directory()
    directory.devices[KEY_ID] = device
    container.backend = directory
    container.ring.active()  # Registers the key, as the guard does.
    del container.ring  # The container's own, which measures.
    client = TestClient(create_app(container))
    for broken[0] in (False, True):
        sign(client, "message", message="hello")
    container.shared_meter.flush(sqlite_store, clock)

    assert read_shared(sqlite_store.shared_counts()).of(SIGNATURES) == {
        ("device", "success"): 1,
        ("device", "key-unusable"): 1,
    }


def test_a_signature_of_another_key(
    sqlite_store: SQLStore, clock: SettableClock
) -> None:
    """No recovery parameter fits: nothing leaves."""
    other = honest(bitcurve.PrivateKey.from_int(0x52))
    device = Device(point(KEY), other._answer)
    answer = sign(_client(sqlite_store, clock, device), "message", message="hello")

    assert (answer.status_code, answer.json["code"]) == (500, "signing-failed")
    assert "signature" not in answer.json


def test_a_stop_and_a_blocked_tenant(
    signing: TestClient, sqlite_store: SQLStore, clock: SettableClock
) -> None:
    stopped(sqlite_store, EVERYTHING)
    assert sign(signing, "message", message="x").json["code"] == "signing-stopped"
    sqlite_store.begin_hold(Hold.of_tenant("gateway-1", clock(), "", "cli:operator"))
    assert sign(signing, "message", message="x").json["code"] == "tenant-blocked"
