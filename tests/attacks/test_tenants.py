"""A gateway whose pods have a subject each, and a tenant that abuses its token."""

from pathlib import Path
from typing import Any

import bitcurve
import pytest
from falcon.testing import Result, TestClient

from api.http.app import create_app
from backends.sql import SQLStore
from signer.config.tenants import TenantRegistry, load_tenants
from signer.model.hold import name_of_chain
from signer.model.refund import OPEN, Status
from tests.api.service import BODY, Pace, build_container
from tests.api.support import NOW, SettableClock, bearer, get, post
from tests.fixtures.ledger import refund_page, stopped
from tests.fixtures.scripted_chain import ScriptedChain
from tests.support.devices import honest


TENANTS = """
[tenants.shop]
subjects = ["pod-1", "pod-2"]
client_ids = ["shop-gateway"]
max_open_refunds = 10
requests_per_minute = 50

[tenants.shop.networks.local.tokens.TUSD]
min_amount = "0.10"

[tenants.other]
subjects = ["other"]
"""

ADMIN: dict[str, Any] = {"roles": ["admin"], "scope": "tenants:block", "sub": "alice"}


@pytest.fixture
def tenants(tmp_path: Path) -> TenantRegistry:
    path = tmp_path / "tenants.toml"
    path.write_text(TENANTS, encoding="utf-8")
    return load_tenants(path)


@pytest.fixture
def node() -> ScriptedChain:
    return ScriptedChain()


@pytest.fixture
def hosts(
    sqlite_store: SQLStore, node: ScriptedChain, tenants: TenantRegistry
) -> list[TestClient]:
    """Two processes of the service over one ledger and one key."""
    device = honest(bitcurve.PrivateKey())
    return [
        TestClient(
            create_app(
                build_container(
                    sqlite_store,
                    SettableClock(),
                    client=node,
                    pace=Pace(),
                    device=device,
                    tenants=tenants,
                )
            )
        )
        for _ in range(2)
    ]


@pytest.fixture
def client(hosts: list[TestClient]) -> TestClient:
    return hosts[0]


def _pay(client: TestClient, key: str, body: Any = BODY, **claims: Any) -> Result:
    return post(client, body, Idempotency_Key=key, **bearer(**claims))


def _code(response: Result) -> tuple[int, str | None]:
    return response.status_code, response.json.get("code")


def test_two_pods_of_one_gateway_pay_once(
    hosts: list[TestClient], node: ScriptedChain
) -> None:
    """The same key and body through two subjects on two hosts is one refund."""
    first = _pay(hosts[0], "key-1", sub="pod-1")
    second = _pay(hosts[1], "key-1", sub="pod-2")
    third = _pay(hosts[0], "key-1", sub="new-pod", client_id="shop-gateway")

    assert [each.status_code for each in (first, second, third)] == [201, 200, 200]
    assert first.content == second.content == third.content
    assert second.headers["idempotent-replayed"] == "true"
    assert len(node.pool) == 1


def test_two_pods_cannot_use_one_reference_twice(hosts: list[TestClient]) -> None:
    """Under another key, the second pod's refund of the session is a conflict."""
    _pay(hosts[0], "key-1", sub="pod-1")

    assert _code(_pay(hosts[1], "key-2", sub="pod-2")) == (409, "conflict")


def test_another_pod_sees_and_cancels_the_refund(
    hosts: list[TestClient], sqlite_store: SQLStore
) -> None:
    stopped(sqlite_store, at=NOW)
    path = _pay(hosts[0], "key-1", sub="pod-1").headers["location"]
    headers = bearer(sub="pod-2")
    cancelled = hosts[1].simulate_post(f"{path}/cancel", headers=headers)

    assert get(hosts[1], path, sub="pod-2").json == cancelled.json
    assert cancelled.json["status"] == "cancelled"


def test_a_token_without_one_tenant_is_refused(
    client: TestClient, sqlite_store: SQLStore
) -> None:
    """A valid token of the issuer is not enough, and the claims cannot be swapped."""
    _pay(client, "key-1", sub="pod-1")
    for claims in (
        {"sub": "stranger"},
        {"sub": "shop"},
        {"sub": "stranger", "client_id": "pod-1"},
        {"sub": "shop-gateway", "client_id": "shop"},
        {"sub": "other", "client_id": "shop-gateway"},
    ):
        paid, listed = (
            _pay(client, "key-1", **claims),
            get(client, "/v1/refunds", **claims),
        )

        assert _code(paid) == _code(listed) == (403, "unknown-tenant"), claims
        for answer in (paid, listed):
            assert answer.headers["content-type"] == "application/problem+json"
        assert "www-authenticate" not in paid.headers
    assert len(refund_page(sqlite_store, "shop").refunds) == 1


def test_another_tenant_sees_nothing(client: TestClient) -> None:
    """Its ids are 404 on every route, and are not in the explanation of others."""
    ours = _pay(client, "key-1", sub="pod-1")
    theirs = _pay(client, "key-1", sub="other")
    path, headers = ours.headers["location"], bearer(sub="other")
    stolen = [
        client.simulate_get(path, headers=headers),
        client.simulate_get(f"{path}/explain", headers=headers),
        client.simulate_post(f"{path}/cancel", headers=headers),
    ]
    listed = get(client, "/v1/refunds", sub="other").json["refunds"]
    waiting = get(client, f"{theirs.headers['location']}/explain", sub="other")

    assert {_code(each) for each in stolen} == {(404, "not-found")}
    assert [each["id"] for each in listed] == [theirs.json["id"]]
    assert waiting.json["nonce"] == {
        "nonce": 1,
        "waits_for": [{"refund": None, "nonce": 0, "status": "broadcast"}],
    }
    assert ours.json["id"] not in waiting.text


def test_the_rate_limit_is_the_tenants(hosts: list[TestClient]) -> None:
    """More subjects of one tenant, on more hosts, get no more requests."""
    answers = [
        get(hosts[number % 2], "/v1/refunds", sub=f"pod-{number % 2 + 1}").status_code
        for number in range(60)
    ]
    others = [get(hosts[0], "/v1/refunds", sub="other").status_code for _ in range(60)]

    assert answers.count(200) == 50
    assert answers[-5:] == [429] * 5
    assert set(others) == {200}


def _pay_all(client: TestClient, numbers: range, **claims: Any) -> list[Any]:
    members = [
        {**BODY, "idempotency_key": f"key-{n}", "reference": f"r-{n}"} for n in numbers
    ]
    answer = client.simulate_post(
        "/v1/refunds/batch", json={"refunds": members}, headers=bearer(**claims)
    )
    results: list[Any] = answer.json["results"]
    return results


def test_a_batch_passes_no_limit(
    hosts: list[TestClient], sqlite_store: SQLStore
) -> None:
    """Its members are requests and open refunds of the tenant, also on another host."""
    batches = [
        _pay_all(host, range(first, first + 40), sub=f"pod-{first // 40 + 1}")
        for first, host in zip((0, 40), hosts, strict=True)
    ]
    refused = [each for batch in batches for each in batch if each["status"] != 201]

    assert [each["status"] for each in batches[0][:10]] == [201] * 10
    assert {each["status"] for each in refused} == {429}
    assert {each["problem"]["code"] for each in refused} == {
        "too-many-open-refunds",
        "too-many-requests",
    }
    assert len(refund_page(sqlite_store, "shop", limit=200).refunds) == 10


def test_a_batch_with_the_keys_of_another_tenant(client: TestClient) -> None:
    """It gets refunds of its own, and no answer of the other tenant."""
    ours = _pay_all(client, range(5), sub="pod-1")
    theirs = _pay_all(client, range(5), sub="other")
    again = _pay_all(client, range(5), sub="other")

    assert [each["status"] for each in theirs] == [201] * 5
    assert [each["status"] for each in again] == [200] * 5
    assert [each["refund"] for each in again] == [each["refund"] for each in theirs]
    assert not {each["refund"]["id"] for each in ours} & {
        each["refund"]["id"] for each in theirs
    }


def test_open_refunds_are_the_tenants(
    hosts: list[TestClient], sqlite_store: SQLStore
) -> None:
    """Two pods together have ten open refunds; an answer has the time to try again."""
    answers = [
        _pay(
            hosts[number % 2],
            f"key-{number}",
            {**BODY, "reference": f"r-{number}"},
            sub=f"pod-{number % 2 + 1}",
        )
        for number in range(12)
    ]

    assert [each.status_code for each in answers] == [201] * 10 + [429] * 2
    assert _code(answers[-1]) == (429, "too-many-open-refunds")
    assert answers[-1].headers["retry-after"] == "30"
    open_refunds = refund_page(sqlite_store, "shop").refunds
    assert len(open_refunds) == 10
    assert {each.status for each in open_refunds} <= OPEN


def test_a_stolen_token_is_stopped_at_once(
    hosts: list[TestClient], node: ScriptedChain, sqlite_store: SQLStore
) -> None:
    """A block on one host refuses changes on the other; the queued refund waits."""
    stopped(sqlite_store, at=NOW)
    path = _pay(hosts[0], "key-1", sub="pod-1").headers["location"]
    blocked = hosts[1].simulate_post(
        "/v1/admin/tenants/shop/block", headers=bearer(**ADMIN, jti="a" * 16)
    )
    sqlite_store.end_hold(name_of_chain(31337), NOW)
    refused = [
        _pay(hosts[0], "key-1", sub="pod-1"),
        _pay(hosts[0], "key-2", sub="pod-2"),
        hosts[0].simulate_post(f"{path}/cancel", headers=bearer(sub="pod-1")),
    ]

    assert blocked.json == {"tenant": "shop", "status": "blocked"}
    assert {_code(each) for each in refused} == {(403, "tenant-blocked")}
    assert get(hosts[0], path, sub="pod-2").json["status"] == Status.QUEUED
    assert node.pool == {}
    assert _pay(hosts[0], "key-1", sub="other").status_code == 201

    unblocked = hosts[0].simulate_post(
        "/v1/admin/tenants/shop/unblock", headers=bearer(**ADMIN, jti="b" * 16)
    )
    assert unblocked.json == {"tenant": "shop", "status": "unblocked"}
    cancelled = hosts[1].simulate_post(f"{path}/cancel", headers=bearer(sub="pod-1"))
    assert cancelled.status_code == 200
