"""``/v1/tokens``, ``/v1/networks`` and ``/v1/refunds/preview``."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from falcon.testing import Result, TestClient

from api.container import Container
from api.http.app import create_app
from backends.json_rpc import JSONRPCChain
from backends.sql import SQLStore
from signer.chain.chain import Chain
from signer.config.networks import Network
from signer.config.tenants import NetworkLimits, Tenant, TenantRegistry, TokenLimits
from signer.errors import ChainUnavailableError
from signer.startup.dependency_checks import check_chain
from tests.api.service import BODY, NETWORKS, Pace, build_container
from tests.api.support import SettableClock, bearer, get, post
from tests.fixtures.fake_node import FakeNode
from tests.fixtures.ledger import stopped
from tests.fixtures.replies import Computed, Delay
from tests.fixtures.replies import Result as NodeResult
from tests.fixtures.scripted_chain import ScriptedChain


LIMITED = Tenant(
    subjects=("gateway-1",),
    networks={
        "local": NetworkLimits(
            gas_per_hour=3_000_000,
            tokens={
                "TUSD": TokenLimits(
                    min_amount="0.10",
                    max_amount="200",
                    approve_above="100",
                    daily_limit="500",
                )
            },
        )
    },
)

OTHER = Tenant(subjects=("gateway-2",))


def preview(client: TestClient, body: Any = BODY, **claims: Any) -> Result:
    """Ask what would happen with the refund *body*."""
    return client.simulate_post(
        "/v1/refunds/preview",
        body=body if isinstance(body, str) else json.dumps(body),
        headers={"Content-Type": "application/json", **bearer(**claims)},
    )


def _rows(store: SQLStore) -> list[int]:
    tables = (
        "refunds", "refund_moves", "approvals", "spendings", "wallets",
        "audit_records", "alerts", "attempts",
    )  # fmt: skip
    with store._database._process().engine.connect() as connection:
        return [
            connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()
            for table in tables
        ]


@pytest.fixture
def limited_container(
    sqlite_store: SQLStore, clock: SettableClock, pace: Pace, node: ScriptedChain
) -> Container:
    """A service with two tenants, of which the first has limits."""
    tenants = TenantRegistry({"gateway-1": LIMITED, "gateway-2": OTHER})
    return build_container(sqlite_store, clock, client=node, pace=pace, tenants=tenants)


@pytest.fixture
def limited(limited_container: Container) -> TestClient:
    return TestClient(create_app(limited_container))


def test_tokens(client: TestClient) -> None:
    """A tenant without limits has those of the networks file."""
    answer = get(client, "/v1/tokens")

    assert answer.status_code == 200
    assert answer.json == {
        "tokens": [
            {
                "network": "local",
                "chain_id": 31337,
                "token": "TUSD",
                "address": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
                "decimals": 6,
                "min_amount": None,
                "max_amount": "1000.000000",
                "approve_above": None,
                "limits": [],
                "confirmations": 12,
            }
        ]
    }


def test_tokens_have_the_limits_of_the_tenant(limited: TestClient) -> None:
    """The stricter amounts count; another tenant has its own."""
    (own,) = get(limited, "/v1/tokens").json["tokens"]
    (other,) = get(limited, "/v1/tokens", sub="gateway-2").json["tokens"]

    assert (own["min_amount"], own["max_amount"]) == ("0.100000", "200.000000")
    assert own["approve_above"] == "100.000000"
    assert own["limits"] == [
        {"name": "daily_limit", "scope": "tenant", "limit": "500.000000"}
    ]
    assert (other["min_amount"], other["max_amount"]) == (None, "1000.000000")
    assert other["limits"] == []


def test_networks(limited: TestClient) -> None:
    """They have no addresses of nodes."""
    answer = get(limited, "/v1/networks")

    assert answer.json == {
        "networks": [
            {
                "network": "local",
                "chain_id": 31337,
                "confirmations": 12,
                "tokens": ["TUSD"],
                "limits": [
                    {"name": "gas_per_hour", "scope": "tenant", "limit": "3000000"}
                ],
            }
        ]
    }
    assert "127.0.0.1" not in answer.text


def test_a_refund_that_would_be_paid(paying: TestClient) -> None:
    """Simulation and fee are those of the first transaction."""
    found = preview(paying).json
    sent = post(paying, BODY).json
    explained = get(paying, f"/v1/refunds/{sent['id']}/explain").json
    (signed,) = explained["transactions"]

    assert found["outcome"] == "pay"
    assert found["waits_for"] == []
    assert (found["problem"], found["needs_approval"]) == (None, False)
    assert found["amount"] == sent["amount"]
    assert found["sender"] == sent["sender"]
    assert found["simulation"] == {"succeeds": True, "reason": None, "gas": 50_000}
    assert found["fee"] == {
        # 50,000 gas at a base fee of 1 gwei, and a tip of 0.1.
        "expected": "0.000055000000000000",
        "at_most": "0.000131250000000000",
        "gas_limit": signed["gas_limit"],
        "max_fee_per_gas": signed["max_fee_per_gas"],
        "max_priority_fee_per_gas": signed["max_priority_fee_per_gas"],
    }


def test_a_preview_stores_nothing(
    limited: TestClient, sqlite_store: SQLStore, node: ScriptedChain
) -> None:
    """H22: no row of any kind, and no broadcast."""
    before = _rows(sqlite_store)
    for amount in ("1", "150", "0.01", "999"):
        preview(limited, BODY | {"amount": amount})

    assert _rows(sqlite_store) == before
    assert node.broadcasts == []


@pytest.mark.parametrize(
    ("changes", "code", "detail"),
    [
        ({"network": "other"}, "policy-violation", {"rule": "network"}),
        ({"token": "other"}, "policy-violation", {"rule": "token"}),
        ({"amount": "200.01"}, "policy-violation", {"rule": "max-amount"}),
        ({"amount": "0.01"}, "policy-violation", {"rule": "min-amount"}),
    ],
)
def test_a_refund_that_would_be_refused(
    limited: TestClient, changes: dict[str, str], code: str, detail: dict[str, str]
) -> None:
    """The problem is the answer to the same request for a refund."""
    body = BODY | changes
    answer, refused = preview(limited, body), post(limited, body)
    found = answer.json
    problem = refused.json | {"request_id": found["problem"]["request_id"]}

    assert answer.status_code == 200
    assert (found["outcome"], found["problem"]) == ("refuse", problem)
    assert found["problem"].items() >= {"code": code, **detail}.items()
    assert (found["simulation"], found["fee"], found["limits"]) == (None, None, [])


def test_a_token_that_rejects_the_transfer(
    paying: TestClient, node: ScriptedChain
) -> None:
    node.revert = "blocked recipient"
    found = preview(paying).json

    assert (found["outcome"], found["problem"]) == ("refuse", None)
    assert found["simulation"] == {
        "succeeds": False,
        "reason": "blocked recipient",
        "gas": None,
    }
    assert found["fee"] is None


def test_room_under_limits(limited: TestClient) -> None:
    """It shrinks with what was paid, and not with previews."""
    first, again = preview(limited).json, preview(limited).json
    post(limited, BODY)
    body = BODY | {"reference": "second"}
    later = preview(limited, body).json

    def room(found: Any) -> dict[str, tuple[str, bool]]:
        return {each["name"]: (each["room"], each["fits"]) for each in found["limits"]}

    assert room(first) == room(again)
    assert room(first) == {
        "daily_limit": ("500.000000", True),
        "gas_per_hour": ("3000000", True),
    }
    assert room(later) == {
        "daily_limit": ("487.500000", True),
        "gas_per_hour": ("2937500", True),
    }


@pytest.fixture
def shared_limits(paying_container: Container, node: ScriptedChain) -> Network:
    """A limit that all tenants share."""
    network = NETWORKS["local"].model_copy(deep=True)
    token = network.tokens["TUSD"].model_copy(update={"daily_limit": "1000"})
    network = network.model_copy(update={"tokens": {"TUSD": token}})
    chain = paying_container.chains["local"]
    paying_container.tenants_chains = {"local": type(chain)(network, chain.client)}
    return network


@pytest.mark.parametrize(("tenants", "room"), [(1, "1000.000000"), (2, None)])
def test_room_of_shared_limits_is_not_shown_to_tenants(
    paying_container: Container, shared_limits: Network, tenants: int, room: str | None
) -> None:
    """H22: it would show what other tenants pay; a single tenant may see it."""
    own = Tenant(subjects=("gateway-1",), gas_per_hour=None)
    listed = {"gateway-1": own, "gateway-2": OTHER}
    paying_container.tenants = TenantRegistry(dict(list(listed.items())[:tenants]))
    client = TestClient(create_app(paying_container))
    found = preview(client).json

    assert found["limits"] == [
        {
            "name": "daily_limit",
            "scope": "service",
            "limit": "1000.000000",
            "room": room,
            "fits": True,
        }
    ]


def test_delays(
    paying: TestClient,
    limited: TestClient,
    sqlite_store: SQLStore,
    node: ScriptedChain,
    clock: SettableClock,
) -> None:
    """The refund would be accepted, and wait: for a person, a node, or an operator."""
    large = preview(limited, BODY | {"amount": "100.01"}).json
    down = ChainUnavailableError("no node answers")
    node.fail("preflight", down, down)
    unanswered = preview(paying).json
    stopped(sqlite_store, at=clock.now)
    both = preview(paying).json

    assert [each["outcome"] for each in (large, unanswered, both)] == ["wait"] * 3
    assert (large["needs_approval"], large["waits_for"]) == (
        True,
        ["approval-required"],
    )
    assert unanswered["waits_for"] == ["chain-unavailable"]
    assert (unanswered["simulation"], unanswered["fee"]) == (None, None)
    assert both["waits_for"] == ["signing-stopped", "chain-unavailable"]


def test_a_preview_makes_no_node_unresponsive_for_others(
    sqlite_store: SQLStore, clock: SettableClock, fake_node: FakeNode
) -> None:
    """Otherwise ``/readyz`` fails, and a load balancer removes the host."""
    network = NETWORKS["local"]
    fake_node.script("batch", Delay(1.0, NodeResult("0x1")))
    fake_node.script("eth_chainId", NodeResult(hex(network.chain_id)))
    fake_node.script("eth_getCode", NodeResult("0x60"))
    fake_node.script("eth_call", Computed(lambda _: f"0x{6:064x}"))

    def open_chains() -> Mapping[str, Chain]:
        client = JSONRPCChain([fake_node.url], 0.3, network.chain_id)
        return {"local": Chain(network, client)}

    container = build_container(sqlite_store, clock)
    container.chains, container.tenants_chains = open_chains(), open_chains()
    client = TestClient(create_app(container))
    answers = [preview(client).json for _ in range(2)]
    check_chain("local", network, container.chains["local"].client)

    assert [each["waits_for"] for each in answers] == [["chain-unavailable"]] * 2
