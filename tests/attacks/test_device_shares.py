"""A tenant that has messages signed without end, beside another tenant."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import bitcurve
import pytest
from eth_account.messages import encode_defunct
from falcon.testing import Result, TestClient

from api.auth.authorization import AccessPolicy, RateLimits
from api.container import Container
from api.http.app import create_app
from backends.sql import SQLStore
from signer.config.tenants import Tenant, TenantRegistry
from signer.crypto.messages import message_digest
from signer.policy.default_rules import service_files
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile
from tests.api.service import NETWORKS, build_container
from tests.api.signers import rpc, signer_token
from tests.api.support import SettableClock
from tests.support.devices import Device, honest, point
from tests.support.ledgers import seal
from tests.support.waiting import eventually


KEY = bitcurve.PrivateKey.from_int(0x51)

TENANTS = TenantRegistry(
    {
        "mallory": Tenant(subjects=("mallory",)),
        "limited": Tenant(subjects=("limited",), requests_per_minute=40),
        "shop": Tenant(subjects=("shop",)),
    }
)

PERMITS = Policy.compile(
    service_files(NETWORKS, TENANTS),
    [
        PolicyFile(
            "own.cedar",
            '@id("messages")'
            ' permit (principal, action == Action::"sign-message", resource);',
        )
    ],
)


def _build(store: SQLStore, device: Device) -> Container:
    return build_container(
        store, SettableClock(), device=device, tenants=TENANTS, policy=PERMITS
    )


def _sign(client: TestClient, tenant: str, message: str = "hello") -> Result:
    return client.simulate_post(
        "/v1/sign/message",
        body=json.dumps({"message": message}),
        headers={"Content-Type": "application/json", **signer_token(sub=tenant)},
    )


@pytest.fixture
def released() -> Iterator[Event]:
    """What the device waits for before it signs."""
    event = Event()
    yield event
    event.set()


def test_one_tenant_leaves_the_device_to_others(
    sqlite_store: SQLStore, released: Event
) -> None:
    """
    Twenty threads of one tenant ask for signatures, and the device does not answer.

    One of them waits for the device, which serves calls in the order of their arrival.
    So another tenant's message is the next one.
    """
    asked = []

    def answer(digest: bytes) -> bytes:
        asked.append(digest)
        released.wait()
        return KEY.sign(digest, hasher=None)

    device = Device(point(KEY), answer)
    client = TestClient(create_app(_build(sqlite_store, device)))
    with ThreadPoolExecutor(21) as pool:
        try:
            hostile = [
                pool.submit(_sign, client, "mallory", f"no. {n}") for n in range(20)
            ]
            assert eventually(lambda: asked, 30)
            other = pool.submit(_sign, client, "shop", "urgent")
            digest = message_digest(encode_defunct(text="urgent"))
            assert eventually(lambda: digest in asked, 30)
            waiting = len(asked)
            # Before, not all of the twenty may have arrived.
            assert eventually(lambda: any(each.done() for each in hostile), 30)
        finally:
            released.set()

    assert (waiting, other.result().status_code) == (2, 200)
    # The process answers twelve requests of a tenant at once.
    assert {each.result().status_code for each in hostile} == {200, 429}


def _limited(store: SQLStore, most: int) -> TestClient:
    """Return a client of a service that signs *most* messages a minute."""
    container = _build(store, honest(KEY))
    limits = RateLimits.shared(
        store,
        signatures=most,
        tenants=TENANTS.requests_per_minute(),
        clock=container.clock,
    )
    container.access = AccessPolicy(
        store, limits, container.audit, container.clock, TENANTS
    )
    return TestClient(create_app(container))


def test_the_audit_log_grows_by_a_bounded_number_of_messages(
    sqlite_store: SQLStore,
) -> None:
    """Each signature is two records; those of a minute are counted on both paths."""
    client = _limited(sqlite_store, 10)
    signed = [_sign(client, "mallory", f"no. {n}") for n in range(30)]
    call = {"jsonrpc": "2.0", "id": 1, "method": "personal_sign"}
    own = signed[0].json["address"]
    calls = [{**call, "params": ["0x01", own]}] * 30
    called = rpc(client, calls, **signer_token(sub="mallory"))
    other = _sign(client, "shop")
    while seal(sqlite_store):
        pass
    records = [each.record.fields for each in sqlite_store.sealed(0, 1_000)]

    assert [each.status_code for each in signed] == [200] * 10 + [429] * 20
    assert {each.json["code"] for each in signed[10:]} == {"too-many-requests"}
    assert {each["error"]["code"] for each in called.json} == {-32005}
    assert other.status_code == 200
    assert sum(each.get("actor") == "token:mallory" for each in records) == 20


def test_a_tenants_own_limit_of_requests_counts_instead(sqlite_store: SQLStore) -> None:
    client = _limited(sqlite_store, 10)

    assert {_sign(client, "limited").status_code for _ in range(30)} == {200}
