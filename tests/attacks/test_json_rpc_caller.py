"""A caller of JSON-RPC with a valid token: what it may not get signed or paid."""

from typing import Any

import pytest
from falcon.testing import TestClient

from api.http.app import create_app
from backends.sql import SQLStore
from signer.config.tenants import TenantRegistry
from signer.crypto.transactions import DynamicFeeTransaction
from signer.policy.default_rules import service_files
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile
from tests.api.service import BODY, NETWORKS, RECIPIENT, TOKEN_ADDRESS, build_container
from tests.api.signers import call, rpc, signer_token
from tests.api.support import SettableClock, post
from tests.support.rpc import ScriptedProxy


ARGUMENTS = f"{RECIPIENT[2:].rjust(64, '0')}{12_500_000:064x}"
CALLDATA = f"0xa9059cbb{ARGUMENTS}"

# The most that an operator could write by mistake, but for messages of 32 bytes.
GENEROUS = """
@id("all-transactions")
permit (principal, action == Action::"sign-transaction", resource);
@id("texts")
permit (principal, action == Action::"sign-message", resource)
when { context.length != 32 };
"""


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def client(sqlite_store: SQLStore, clock: SettableClock) -> TestClient:
    """A client of a service with generous rules, whose nodes are down."""
    files = service_files(NETWORKS, TenantRegistry())
    policy = Policy.compile(files, [PolicyFile("own.cedar", GENEROUS)])
    container = build_container(sqlite_store, clock, policy=policy)
    container.node_proxies = {
        "local": ScriptedProxy(
            {
                "eth_getTransactionCount": "0x0",
                "eth_getBlockByNumber": {"baseFeePerGas": "0x7"},
            }
        )
    }
    return TestClient(create_app(container))


def _own(client: TestClient) -> str:
    return str(call(client, "eth_accounts")["result"][0])


def _fields(client: TestClient, **changes: Any) -> dict[str, Any]:
    return {
        "from": _own(client),
        "to": TOKEN_ADDRESS,
        "data": CALLDATA,
        "nonce": "0x0",
        "gas": "0xffff",
        "maxFeePerGas": "0x77359400",
        "maxPriorityFeePerGas": "0x0",
        **changes,
    }


def test_the_memo_of_another_refund(client: TestClient, sqlite_store: SQLStore) -> None:
    """After a restore, such a transfer would count as the payment of that refund."""
    post(client, BODY)
    (refund,) = sqlite_store.list("gateway-1").refunds
    fields = _fields(client, data=CALLDATA + refund.memo.hex())

    error = call(client, "eth_sendTransaction", fields)["error"]

    assert (error["code"], error["data"]["rule"]) == (4001, "extra-calldata")


FORBIDDEN: list[tuple[dict[str, Any], str]] = [
    ({"to": None}, "creation"),
    ({"type": "0x4"}, "transaction-type"),
    ({"authorizationList": []}, "transaction-type"),
    ({"accessList": [{"address": TOKEN_ADDRESS, "storageKeys": []}]}, "function"),
    ({"data": CALLDATA[:-2]}, "calldata"),
    ({"data": f"{CALLDATA}00"}, "extra-calldata"),
    ({"to": RECIPIENT, "data": f"{CALLDATA}{'00' * 16}"}, "extra-calldata"),
    # A caller can choose no more for a configured token than its limits.
    ({"value": "0x1", "data": f"0xa9059cbb{ARGUMENTS[:-64]}{'f' * 64}"}, "max-amount"),
]


def test_calls_that_no_rule_of_an_operator_permits(
    client: TestClient, sqlite_store: SQLStore
) -> None:
    """The floor holds for what the ledger would send as well."""
    for changes, rule in FORBIDDEN:
        fields = {**_fields(client), **changes}

        error = call(client, "eth_sendTransaction", fields)["error"]

        assert (error["code"], error["data"]["rule"]) == (4001, rule), changes
        assert sqlite_store.list("gateway-1").refunds == ()


def test_a_call_that_claims_two_things(client: TestClient) -> None:
    """What people see in ``data`` is what is sent from ``input``."""
    fields = _fields(client, to=RECIPIENT, data="0x", input="0xdeadbeef")

    error = call(client, "eth_sendTransaction", fields)["error"]

    assert (error["code"], error["data"]["field"]) == (-32602, "input")


def test_a_repeated_call(client: TestClient, sqlite_store: SQLStore) -> None:
    """It is one row, and the chain shows whose it is only by its nonce."""
    fields = _fields(client, to=RECIPIENT, data="0xdeadbeef", value="0x7")

    first, second = (
        call(client, "eth_sendTransaction", fields)["error"] for _ in range(2)
    )
    changed = {**fields, "value": "0x8"}
    refused = call(client, "eth_sendTransaction", changed)["error"]
    other = call(client, "eth_sendTransaction", {**changed, "nonce": "0x1"})["error"]

    assert first["code"] == second["code"] == -32003
    assert first["data"]["refund_id"] == second["data"]["refund_id"]
    assert refused["data"]["code"] == "nonce-used"
    assert other["data"]["refund_id"] != first["data"]["refund_id"]
    rows = sqlite_store.list("gateway-1").refunds
    assert {(row.amount, row.calldata) for row in rows} == {
        (7, b"\xde\xad\xbe\xef"),
        (8, b"\xde\xad\xbe\xef"),
    }


def test_a_call_by_the_route_of_refunds(
    client: TestClient, sqlite_store: SQLStore
) -> None:
    """The process that listens to the network accepts none."""
    for change in ({"calldata": "0x"}, {"token": "coin"}):
        answer = post(client, {**BODY, **change})
        assert answer.status_code in {400, 422}

    assert sqlite_store.list("gateway-1").refunds == ()


def test_a_message_that_is_the_digest_of_a_transaction(client: TestClient) -> None:
    transaction = DynamicFeeTransaction(
        chain_id=31337,
        nonce=0,
        max_priority_fee_per_gas=0,
        max_fee_per_gas=1,
        gas=21_000,
        to=RECIPIENT,
        value=1,
        data=b"",
    )
    message = f"0x{transaction.signing_digest().hex()}"

    error = call(client, "personal_sign", message, _own(client))["error"]

    assert error["data"]["rule"] == "message-digest"


def test_another_tenants_transfer(client: TestClient, sqlite_store: SQLStore) -> None:
    """It joins no refund of another tenant, and learns nothing of it."""
    fields = _fields(client)
    request = {"jsonrpc": "2.0", "id": 1, "method": "eth_sendTransaction"}
    answers = [
        rpc(client, request | {"params": [fields]}, **signer_token(sub=each)).json
        for each in ("shop", "thief")
    ]
    ids = [each["error"]["data"]["refund_id"] for each in answers]

    assert ids[0] != ids[1]
    for tenant, refund_id in zip(("shop", "thief"), ids, strict=True):
        (refund,) = sqlite_store.list(tenant).refunds
        assert refund.id == refund_id


def test_a_signer_creates_no_refund_by_http(client: TestClient) -> None:
    answer = post(client, BODY, **signer_token())

    assert answer.status_code == 403
