"""JSON-RPC at ``/rpc``: the transport, the methods, and the codes."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from falcon.testing import TestClient

from api.container import Container
from api.extras.signing_api import routes
from api.extras.signing_api.calls import MAX_CALLS, error_of
from api.extras.signing_api.methods import MAX_RESULT, METHODS
from api.http.app import create_app
from backends.sql import SQLStore
from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import (
    BackendUnavailableError,
    ChainUnavailableError,
    ConflictError,
    ForeignAddressError,
    InvalidInputError,
    MethodNotServedError,
    PolicyViolationError,
    RateLimitedError,
    RecoveryError,
    RevertedCallError,
    SigningStoppedError,
    TenantBlockedError,
)
from signer.model.refund import Status
from signer.policy.default_rules import service_files
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile
from tests.api.service import (
    NETWORKS,
    RECIPIENT,
    TOKEN_ADDRESS,
    build_container,
    replaced,
)
from tests.api.signers import call, rpc, signer_token
from tests.api.support import SettableClock, bearer
from tests.fixtures.ledger import refund_page, save, step_to
from tests.support.rpc import ScriptedProxy


ROOT = Path(__file__).resolve().parents[3]

PERMITS = Policy.compile(
    service_files(NETWORKS, TenantRegistry()),
    [
        PolicyFile(
            "own.cedar",
            '@id("all") permit (principal, action, resource)'
            ' when { context.path == "json-rpc" };',
        )
    ],
)

CALLDATA = f"0xa9059cbb{RECIPIENT[2:].rjust(64, '0')}{1_000_000:064x}"

DOCUMENT: dict[str, Any] = {
    "types": {"Mail": [{"name": "amount", "type": "uint256"}]},
    "primaryType": "Mail",
    "domain": {"name": "Example"},
    "message": {"amount": 2**256 - 1},
}


@pytest.fixture
def proxy() -> ScriptedProxy:
    return ScriptedProxy()


@pytest.fixture
def prepared(container: Container, proxy: ScriptedProxy) -> Container:
    """A container whose operator permits what this project's rules do not."""
    return replaced(container, policy=PERMITS, node_proxies={"local": proxy})


@pytest.fixture
def permitted(prepared: Container) -> TestClient:
    return TestClient(create_app(prepared))


def _request(method: str = "eth_chainId", **members: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, **members}


def _own(client: TestClient) -> str:
    (address,) = call(client, "eth_accounts")["result"]
    return str(address)


def _send(client: TestClient, **changes: Any) -> Any:
    fields = {"from": _own(client), "to": TOKEN_ADDRESS, "data": CALLDATA, **changes}
    return call(client, "eth_sendTransaction", fields)


# --- Transport


def test_ids_are_repeated(client: TestClient) -> None:
    for call_id in (0, 7, -1, 2**60, "", "\ud800", None):
        answer = rpc(client, _request(id=call_id)).json

        assert answer == {"jsonrpc": "2.0", "id": call_id, "result": "0x7a69"}
        assert type(answer["id"]) is type(call_id)


def test_params_and_content_type_may_be_absent(client: TestClient) -> None:
    """web3.py sends no type if its user sets a header."""
    absent: list[dict[str, Any]] = [{}, {"params": []}, {"params": None}]
    for params in absent:
        assert rpc(client, _request(**params)).json["result"] == "0x7a69"
    for type_ in (None, "text/plain", "application/json; charset=utf-8"):
        headers = {} if type_ is None else {"Content_Type": type_}

        assert rpc(client, _request(), **headers).json["result"] == "0x7a69"


def test_a_batch_is_answered_in_order(client: TestClient) -> None:
    """Each call by itself; ethers begins with a batch."""
    calls = [
        _request(id=2),
        _request("eth_sign", id=1),
        7,
        {"jsonrpc": "2.0", "method": "eth_chainId"},  # A notification.
        _request("net_version", id=0),
    ]
    answers = rpc(client, calls).json

    assert [each["id"] for each in answers] == [2, 1, None, 0]
    assert [each.get("result") for each in answers] == ["0x7a69", None, None, "31337"]
    codes = [each["error"]["code"] for each in answers[1:3]]
    assert codes == [-32601, -32600]


@pytest.mark.parametrize(
    "body", [_request(), [_request(), _request()]], ids=["one", "batch"]
)
def test_notifications_do_nothing(
    client: TestClient, sqlite_store: SQLStore, body: Any
) -> None:
    """Their answer could not report what was signed or sent."""
    own = _own(client)
    for each in body if isinstance(body, list) else [body]:
        del each["id"]
        each["method"] = "eth_sendTransaction"
        each["params"] = [{"from": own, "to": TOKEN_ADDRESS, "data": CALLDATA}]
    answer = rpc(client, body)

    assert (answer.status_code, answer.content) == (204, b"")
    assert refund_page(sqlite_store, "gateway-1").refunds == ()


MALFORMED: list[tuple[Any, int]] = [
    ("{", -32700),
    (b"\xff", -32700),
    ('{"id": 1, "id": 2}', -32700),
    ("[" * 100, -32700),
    ('{"jsonrpc": "2.0", "id": NaN}', -32700),
    ([], -32600),
    ([_request()] * (MAX_CALLS + 1), -32600),
    ("7", -32600),
    ({"id": 1, "method": "eth_chainId"}, -32600),
    (_request(id=1.5), -32600),
    (_request(id=True), -32600),
    (_request(id=[]), -32600),
    (_request(id="x" * 300), -32600),
    (_request(params={}), -32600),
    (_request(params="x"), -32600),
    (_request(extra=1), -32600),
    ({"jsonrpc": "2.0", "id": 1, "method": 7}, -32600),
]


def test_malformed_requests(client: TestClient) -> None:
    """HTTP 200: clients hide the code of another status."""
    for body, code in MALFORMED:
        answer = rpc(client, body)
        error = answer.json["error"]

        assert (answer.status_code, error["code"]) == (200, code), body
        assert error["data"]["request_id"] == answer.headers["x-request-id"]


def test_a_body_that_is_too_large(client: TestClient) -> None:
    assert rpc(client, "x" * (2**20 + 1)).status_code == 413


def test_the_token(client: TestClient) -> None:
    for headers, status in (
        ({"Authorization": ""}, 401),
        (bearer(roles=["merchant"]), 403),
        (bearer(roles=["admin"]), 403),
        (bearer(roles=["devops"]), 403),
        (bearer(roles=["admin", "devops"]), 403),
        (bearer(roles=[]), 403),
        (signer_token(scope="refunds:write"), 403),
        (signer_token(scope="sign"), 200),
    ):
        assert rpc(client, _request(), **headers).status_code == status, headers


def test_each_call_of_a_batch_counts(
    sqlite_store: SQLStore, clock: SettableClock
) -> None:
    tenants = TenantRegistry(
        {"shop": Tenant(subjects=("gateway-1",), requests_per_minute=3)}
    )
    container = build_container(sqlite_store, clock, tenants=tenants)
    client = TestClient(create_app(container))
    answers = rpc(client, [_request()] * 5).json

    codes = [each.get("error", {}).get("code") for each in answers]
    assert codes == [None, None, None, -32005, -32005]
    assert answers[-1]["error"]["data"]["retry_after"] > 0
    assert rpc(client, _request()).status_code == 429


def test_a_slow_batch_ends(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "REQUEST_SECONDS", -1.0)

    assert rpc(client, [_request()]).json[0]["error"]["code"] == -32002


def test_an_endpoint_for_each_network(
    container: Container, proxy: ScriptedProxy
) -> None:
    """Without a name it is that of the only network."""
    client = TestClient(create_app(container))
    assert rpc(client, _request(), "/rpc/local").json["result"] == "0x7a69"
    assert rpc(client, _request(), "/rpc/mars").status_code == 404

    other = NETWORKS["local"].model_copy(update={"chain_id": 1})
    several = replaced(
        container,
        networks={**NETWORKS, "main": other},
        node_proxies={"local": proxy, "main": proxy},
    )
    client = TestClient(create_app(several))
    error = rpc(client, _request()).json["error"]

    assert rpc(client, _request(), "/rpc/main").json["result"] == "0x1"
    assert error["code"] == 4901
    assert "local, main" in error["message"]


# --- Methods


def test_who_the_service_is(client: TestClient) -> None:
    own = _own(client)

    assert call(client, "eth_requestAccounts")["result"] == [own]
    assert call(client, "net_version")["result"] == "31337"
    assert call(client, "net_listening")["result"] is True
    assert call(client, "web3_clientVersion")["result"].startswith("hotwallet/")


ABSENT = (
    "eth_sign",
    "eth_sendRawTransaction",
    "wallet_sendTransaction",
    "wallet_addEthereumChain",
    "eth_signTypedData_v3",
    "personal_unlockAccount",
    "admin_peers",
    "debug_traceCall",
    "x" * 100,
    "<script>",
)


def test_other_methods_do_not_exist(client: TestClient, proxy: ScriptedProxy) -> None:
    for method in ABSENT:
        error = call(client, method)["error"]

        assert error["code"] == -32601, method
        assert error["message"].endswith("does not exist/is not available")
        assert method not in METHODS
        assert "script" not in error["message"]
    assert proxy.asked == []


def test_signs_a_message(permitted: TestClient) -> None:
    own = _own(permitted)
    for message in ("0x68656c6c6f", "hello"):
        signature = call(permitted, "personal_sign", message, own.lower())["result"]
        signable = encode_defunct(text="hello")
        assert Account.recover_message(signable, signature=signature) == own


def test_web3_js_sends_a_password(permitted: TestClient) -> None:
    """The wallet has none, so no other one is correct."""
    own = _own(permitted)
    signable = encode_defunct(text="hello")
    for password in ("", None):
        signature = call(permitted, "personal_sign", "hello", own, password)["result"]
        assert Account.recover_message(signable, signature=signature) == own
    error = call(permitted, "personal_sign", "hello", own, "hunter2")["error"]

    assert (error["code"], error["data"]["field"]) == (-32602, "params")
    assert "hunter2" not in json.dumps(error)


def test_signs_typed_data(permitted: TestClient) -> None:
    """As an object or as a text; integers of 78 digits are exact."""
    own = _own(permitted)
    signable = encode_typed_data(full_message=DOCUMENT)
    for method in ("eth_signTypedData", "eth_signTypedData_v4"):
        for document in (DOCUMENT, json.dumps(DOCUMENT)):
            signature = call(permitted, method, own, document)["result"]

            assert Account.recover_message(signable, signature=signature) == own


def test_typed_data_of_another_chain(permitted: TestClient) -> None:
    """Its domain may name the chain of the endpoint, and no other one (EIP-712)."""
    own = _own(permitted)

    def answer(chain_id: int) -> Any:
        domain = {**DOCUMENT["domain"], "chainId": chain_id}
        document = {**DOCUMENT, "domain": domain}
        return call(permitted, "eth_signTypedData_v4", own, document)

    error = answer(1)["error"]
    assert (error["code"], error["data"]["code"]) == (4901, "chain-id")
    assert "result" in answer(NETWORKS["local"].chain_id)


def test_reversed_arguments(permitted: TestClient) -> None:
    """A message of 20 bytes is none."""
    own = _own(permitted)
    for params in ([own, "0x68656c6c6f"], [own, RECIPIENT], ["hello", 7]):
        assert call(permitted, "personal_sign", *params)["error"]["code"] == -32602
    assert "result" in call(permitted, "personal_sign", RECIPIENT, own)


TRANSACTION = {
    "to": TOKEN_ADDRESS,
    "data": CALLDATA,
    "nonce": "0x0",
    "gas": "0xffff",
    "maxFeePerGas": "0x77359400",
    "maxPriorityFeePerGas": "0x1",
}


def test_signs_no_transaction_of_the_wallet(
    permitted: TestClient, sqlite_store: SQLStore
) -> None:
    """Also not with a rule that permits it: the nonce would pause the wallet."""
    for params in ([{"from": _own(permitted), **TRANSACTION}], [{}, "password"], []):
        error = call(permitted, "eth_signTransaction", *params)["error"]

        assert (error["code"], error["data"]["rule"]) == (4001, "service-wallet")
        assert "send with eth_sendTransaction" in error["message"]
    assert refund_page(sqlite_store, "gateway-1").refunds == ()


def test_another_wallet_or_chain(permitted: TestClient) -> None:
    method = "eth_sendTransaction"
    own = _own(permitted)
    fields = {"from": own, **TRANSACTION}

    def code(**changes: Any) -> int:
        error = call(permitted, method, {**fields, **changes})["error"]
        return int(error["code"])

    assert code(**{"from": RECIPIENT}) == 4100
    assert code(chainId="0x1") == 4901
    assert code(**{"from": None}) == -32602
    assert call(permitted, method)["error"]["code"] == -32602
    assert call(permitted, method, 7)["error"]["code"] == -32602


REFUSED_CALLS: list[tuple[str, list[Any], int]] = [
    # Another address.
    ("personal_sign", ["0x68656c6c6f", RECIPIENT], 4100),
    ("eth_signTypedData_v4", [RECIPIENT, DOCUMENT], 4100),
    # Malformed parameters.
    ("personal_sign", [], -32602),
    ("personal_sign", ["0xabc", RECIPIENT], -32602),
    ("eth_signTypedData_v4", [RECIPIENT], -32602),
    ("eth_signTypedData_v4", [RECIPIENT, {**DOCUMENT, "types": {}}], -32602),
    ("eth_signTypedData_v4", [RECIPIENT, "{"], -32602),
    ("eth_signTypedData_v4", [7, DOCUMENT], -32602),
    # A parameter too many, as in go-ethereum: it is not read and dropped.
    ("eth_accounts", [1], -32602),
    ("eth_requestAccounts", [{}], -32602),
    ("eth_chainId", ["latest"], -32602),
    ("net_version", [None], -32602),
    ("web3_clientVersion", [""], -32602),
    ("eth_sendTransaction", [{}, {}], -32602),
    ("personal_sign", ["hello", RECIPIENT, "password", 1], -32602),
    ("eth_signTypedData_v4", [RECIPIENT, DOCUMENT, 1], -32602),
    ("eth_getTransactionCount", [RECIPIENT, "latest", 1], -32602),
]


def test_refused_parameters(permitted: TestClient) -> None:
    for method, params, code in REFUSED_CALLS:
        error = call(permitted, method, *params)["error"]

        assert error["code"] == code, (method, params)


def test_a_refusal_names_its_rule(client: TestClient) -> None:
    own = _own(client)
    refused: dict[str, tuple[str, *tuple[Any, ...]]] = {
        "message": ("personal_sign", "0x68656c6c6f", own),
        "typed-data": ("eth_signTypedData_v4", own, DOCUMENT),
        "coin": ("eth_sendTransaction", {"from": own, "to": RECIPIENT, "value": "0x1"}),
        "max-amount": (
            "eth_sendTransaction",
            {"from": own, "to": TOKEN_ADDRESS, "data": CALLDATA[:-64] + "7" * 64},
        ),
    }
    for rule, (method, *params) in refused.items():
        error = call(client, method, *params)["error"]
        assert (error["code"], error["data"]["rule"]) == (4001, rule)


# --- Sending

MEMBERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "from": (None, {"from": RECIPIENT}),
    "to": (TOKEN_ADDRESS.lower(), {"to": "0x1"}),
    "data": (CALLDATA, {"data": CALLDATA[:-1]}),
    "input": (CALLDATA, {"input": "0x"}),
    "value": ("0x0", {"value": "0x01"}),
    "chainId": ("0x7a69", {"chainId": "0x1"}),
    "nonce": ("0x0", {"nonce": hex(2**256 - 1)}),
    "gas": ("0xffff", {"gas": "0x0"}),
    "gasLimit": ("0xffff", {"gasLimit": "0xffff", "gas": "0xfffe"}),
    "gasPrice": ("0x7", {"gasPrice": "0x7", "maxFeePerGas": "0x7"}),
    "maxFeePerGas": ("0x7", {"maxFeePerGas": "0x1"}),
    "maxPriorityFeePerGas": (
        "0x7",
        {"maxPriorityFeePerGas": "0x8", "maxFeePerGas": "0x7"},
    ),
    "type": ("0x2", {"type": "0x0", "maxFeePerGas": "0x7"}),
    "accessList": ([], {"accessList": [{"address": RECIPIENT, "storageKeys": []}]}),
}
"""Of each member a value that is accepted, and what is refused."""

REFUSED = {
    "maxFeePerBlobGas": "0x1",
    "blobVersionedHashes": [],
    "blobs": [],
    "authorizationList": [],
    "hash": "0x" + "00" * 32,
    "v": "0x0",
    "chain_id": "0x7a69",
    "privateFor": [],
    "": "0x0",
}


@pytest.fixture
def terms(paying_container: Container, proxy: ScriptedProxy) -> TestClient:
    """A client of a service that pays, over a node with a base fee of 7 wei."""
    block = {"number": "0x1", "baseFeePerGas": "0x7"}
    proxy.answers = {"eth_getTransactionCount": "0x0", "eth_getBlockByNumber": block}
    nodes = {"local": proxy}
    return TestClient(create_app(replaced(paying_container, node_proxies=nodes)))


@pytest.mark.parametrize("member", MEMBERS)
def test_each_member_is_checked(
    terms: TestClient, sqlite_store: SQLStore, member: str
) -> None:
    """What a client says of its transaction decides whether it is accepted."""
    value, refused = MEMBERS[member]

    error = _send(terms, **refused)["error"]
    assert error["code"] in {-32602, 4001, 4100, 4901}
    assert refund_page(sqlite_store, "gateway-1").refunds == ()
    assert "result" in _send(terms, **({} if value is None else {member: value}))


def test_other_members_are_refused(terms: TestClient, sqlite_store: SQLStore) -> None:
    for member, value in REFUSED.items():
        error = _send(terms, **{member: value})["error"]

        assert error["code"] in {-32602, 4001}, member
        assert refund_page(sqlite_store, "gateway-1").refunds == ()


def test_every_member_of_the_page_is_in_the_table() -> None:
    page = (ROOT / "docs" / "reference" / "json-rpc.md").read_text()
    table = page.split("| field | |")[1].split("\n\n")[0]
    names = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)

    documented = {name for cell in names for name in re.findall(r"`(\w+)`", cell)}
    assert documented == MEMBERS.keys()


def test_an_unknown_member_of_typed_data(permitted: TestClient) -> None:
    """A person would see it, and the signature would not cover it."""
    own = _own(permitted)
    for part in ("document", "domain", "message", "type"):
        document = json.loads(json.dumps(DOCUMENT))
        target = {
            "document": document,
            "domain": document["domain"],
            "message": document["message"],
            "type": document["types"]["Mail"][0],
        }[part]
        target["extra"] = "1"

        answer = call(permitted, "eth_signTypedData_v4", own, document)
        assert answer["error"]["code"] == -32602, part


def test_a_transfer_is_a_refund(paying: TestClient, sqlite_store: SQLStore) -> None:
    """The hash is that of the worker's transaction, which has the memo."""
    tx_hash = _send(paying, gas="0xffff")["result"]
    (refund,) = refund_page(sqlite_store, "gateway-1").refunds
    (transaction,) = sqlite_store.transactions(refund.id)

    assert tx_hash == refund.tx_hash == transaction.tx_hash
    assert (refund.recipient, refund.amount) == (RECIPIENT, 1_000_000)
    assert (refund.nonce, refund.token) == (0, "TUSD")
    assert refund.memo.hex() in transaction.raw.hex()
    assert refund.reference.startswith("rpc-")


def test_a_repeated_transfer_is_paid_once(
    paying: TestClient, sqlite_store: SQLStore
) -> None:
    first, second = _send(paying), _send(paying, gas="0xffff")

    assert first["result"] == second["result"]
    assert len(refund_page(sqlite_store, "gateway-1").refunds) == 1


def test_the_nonce_of_a_client(
    paying_container: Container, proxy: ScriptedProxy, sqlite_store: SQLStore
) -> None:
    """The same call again has the same hash; a replacement or a gap is refused."""
    proxy.answers = {"eth_getTransactionCount": "0x0"}
    nodes = {"local": proxy}
    client = TestClient(create_app(replaced(paying_container, node_proxies=nodes)))
    first = _send(client, nonce="0x0")
    again = _send(client, nonce=0, maxPriorityFeePerGas="0x1")
    replacement = _send(client, nonce="0x0", data=CALLDATA[:-1] + "1")["error"]
    gap = _send(client, nonce="0x2")["error"]
    (refund,) = refund_page(sqlite_store, "gateway-1").refunds

    assert first["result"] == again["result"] == refund.tx_hash
    assert (replacement["code"], replacement["data"]["code"]) == (-32003, "nonce-used")
    assert replacement["data"]["refund_id"] == refund.id
    assert (gap["code"], gap["data"]["field"]) == (-32602, "nonce")
    assert _send(client, nonce="0x1")["result"] != first["result"]


def test_a_queued_call_has_no_nonce_yet(
    prepared: Container, proxy: ScriptedProxy, sqlite_store: SQLStore
) -> None:
    """A client that fills in the next nonce while no worker runs joins the first."""
    proxy.answers = {"eth_getTransactionCount": "0x5"}
    client = TestClient(create_app(prepared))
    own, ids = _own(client), set()
    for _ in range(3):
        nonce = call(client, "eth_getTransactionCount", own, "pending")["result"]
        error = _send(client, nonce=nonce)["error"]
        assert error["data"]["code"] == "not-sent-yet"
        ids.add(error["data"]["refund_id"])

    assert ids == {each.id for each in refund_page(sqlite_store, "gateway-1").refunds}
    assert len(ids) == 1


def test_an_explicit_key(paying: TestClient, sqlite_store: SQLStore) -> None:
    """It is for one call, and not one of those that are derived here."""
    fields = {"from": _own(paying), "to": TOKEN_ADDRESS, "data": CALLDATA}

    def send(key: str) -> Any:
        return call(paying, "eth_sendTransaction", fields, Idempotency_Key=key)

    assert send("a")["result"] == send("a")["result"] != send("b")["result"]
    assert len(refund_page(sqlite_store, "gateway-1").refunds) == 2
    changed = {**fields, "data": CALLDATA[:-1] + "1"}
    error = call(paying, "eth_sendTransaction", changed, Idempotency_Key="a")["error"]
    assert (error["code"], error["data"]["code"]) == (-32003, "idempotency-mismatch")
    batch = [_request(), _request()]
    assert rpc(paying, batch, Idempotency_Key="c").json["error"]["code"] == -32600
    for key in ("rpc-1", "with space"):
        answer = rpc(paying, _request(), Idempotency_Key=key).json
        assert answer["error"]["code"] == -32600


def test_a_transfer_that_is_not_sent_yet(client: TestClient) -> None:
    """The error names the refund, and what to do."""
    error = _send(client)["error"]

    assert (error["code"], error["data"]["code"]) == (-32003, "not-sent-yet")
    assert error["data"]["refund_id"] in error["message"]
    assert error["data"]["status"] == "queued"
    assert error["data"]["blocked_by"] == "chain-unavailable"
    assert "do not pay it in another way" in error["message"]
    assert _send(client)["error"]["data"]["refund_id"] == error["data"]["refund_id"]


def test_a_transfer_that_ended(client: TestClient, sqlite_store: SQLStore) -> None:
    refund_id = _send(client)["error"]["data"]["refund_id"]
    refund = sqlite_store.get(refund_id)
    assert refund is not None
    ended = step_to(
        refund, Status.REFUSED, refund.updated_at, failure_code="execution-reverted"
    )
    save(sqlite_store, refund, ended)

    error = _send(client)["error"]
    assert (error["code"], error["data"]["code"]) == (-32003, "execution-reverted")
    assert "not paid" in error["message"]


# --- Reads


def test_reads_are_forwarded(permitted: TestClient, proxy: ScriptedProxy) -> None:
    history = {"gasUsedRatio": [0.5], "reward": [["0x1"]]}
    proxy.answers = {"eth_feeHistory": history, "eth_getBalance": "0x2"}

    answer = call(permitted, "eth_feeHistory", "0xa", "latest", [20.0])
    assert answer["result"] == history
    assert proxy.asked == [("eth_feeHistory", ["0xa", "latest", [20.0]])]
    assert call(permitted, "eth_getBalance", RECIPIENT, "latest")["result"] == "0x2"
    error = call(permitted, "eth_getBalance", 1, 2, 3)["error"]
    assert error["code"] == -32602


READS: dict[str, list[Any]] = {
    "eth_getStorageAt": [RECIPIENT, "0x0", "latest"],
    "eth_getBlockByHash": ["0x" + "ab" * 32, False],
    "eth_syncing": [],
    "eth_getBlockReceipts": ["latest"],
    "eth_createAccessList": [{"to": RECIPIENT}, "latest"],
    "hardhat_metadata": [],
}


def test_reads_that_tools_ask_for(permitted: TestClient, proxy: ScriptedProxy) -> None:
    """Block explorers, Hardhat and Ape; each with its number of parameters."""
    proxy.answers = {method: {"is": "passed on"} for method in READS}
    for method, params in READS.items():
        assert call(permitted, method, *params)["result"] == {"is": "passed on"}
        assert proxy.asked[-1] == (method, params)
        assert call(permitted, method, *params, 1)["error"]["code"] == -32602


def test_what_the_node_lacks_does_not_exist(
    permitted: TestClient, proxy: ScriptedProxy
) -> None:
    """Hardhat goes on without it, as geth answers."""
    proxy.answers = {"hardhat_metadata": MethodNotServedError("not served")}

    error = call(permitted, "hardhat_metadata")["error"]

    assert error["code"] == -32601
    assert error["message"].endswith("hardhat_metadata does not exist/is not available")


def test_only_a_local_chain_may_be_a_simulated_one(
    prepared: Container, proxy: ScriptedProxy
) -> None:
    """Hardhat's plugins ask for it on chain 31337 before anything else."""
    other = NETWORKS["local"].model_copy(update={"chain_id": 1})
    client = TestClient(create_app(replaced(prepared, networks={"local": other})))

    assert call(client, "hardhat_metadata")["error"]["code"] == -32601
    assert proxy.asked == []


def test_errors_of_reads(permitted: TestClient, proxy: ScriptedProxy) -> None:
    proxy.answers = {
        "eth_call": RevertedCallError("full", data=b"\x01\x02"),
        "eth_estimateGas": RevertedCallError("no reason", data=None),
        "eth_gasPrice": ChainUnavailableError("no node answers"),
        "eth_getCode": InvalidInputError("the node refuses", field="params"),
    }
    errors = {each: call(permitted, each)["error"] for each in proxy.answers}

    assert {each: error["code"] for each, error in errors.items()} == {
        "eth_call": 3,
        "eth_estimateGas": 3,
        "eth_gasPrice": -32002,
        "eth_getCode": -32602,
    }
    assert errors["eth_call"]["data"] == "0x0102"
    assert errors["eth_call"]["message"] == "execution reverted: full"


def test_a_result_that_is_too_large(
    permitted: TestClient, proxy: ScriptedProxy
) -> None:
    proxy.answers = {"eth_getCode": "0x" + "00" * (MAX_RESULT // 2)}

    assert call(permitted, "eth_getCode")["error"]["code"] == -32602


def test_the_results_of_a_batch_are_bounded_together(
    permitted: TestClient, proxy: ScriptedProxy
) -> None:
    """100 small calls must not make the process hold 400 MB."""
    proxy.answers = {"eth_getLogs": ["0x" + "00" * (MAX_RESULT // 5)]}
    query = {"fromBlock": "latest"}
    logs = _request("eth_getLogs", params=[{**query, "blockHash": "0x" + "ab" * 32}])
    answer = rpc(permitted, [*[logs] * 97, _request(), _request("eth_accounts")])
    answers = answer.json

    assert [each["error"]["code"] for each in answers[2:97]] == [-32602] * 95
    assert ["result" in each for each in (*answers[:2], *answers[97:])] == [True] * 4
    assert len(answer.text) < 1.1 * MAX_RESULT
    assert len(proxy.asked) == 3


def test_reads_of_one_tenant_leave_threads_to_others(
    sqlite_store: SQLStore, clock: SettableClock
) -> None:
    """Two of four threads wait for slow nodes for one tenant, and three for all."""
    answers: list[Any] = []

    class SlowNode:
        def forward(self, method: str, params: Sequence[Any]) -> Any:
            for name in waiting.pop() if waiting else ():
                token = signer_token(sub=name)
                answers.append(rpc(client, _request("eth_gasPrice"), **token).json)
            return "0x1"

    waiting = [["mallory", "alice"], ["mallory"]]
    container = build_container(sqlite_store, clock)
    container.settings = container.settings.model_copy(update={"threads": 4})
    container.node_proxies = {"local": SlowNode()}
    client = TestClient(create_app(container))
    first = rpc(client, _request("eth_gasPrice"), **signer_token(sub="mallory")).json
    third, alice, second = answers

    assert [each["result"] for each in (first, second, alice)] == ["0x1"] * 3
    assert third["error"]["code"] == -32005
    assert third["error"]["data"]["retry_after"] == 1


def test_logs_of_few_blocks(permitted: TestClient, proxy: ScriptedProxy) -> None:
    proxy.answers = {"eth_getLogs": [], "eth_blockNumber": hex(10_000)}
    for query in (
        {},
        {"fromBlock": "0x1", "toBlock": "0x3e8"},
        {"fromBlock": "0x2700", "toBlock": "latest"},
        {"blockHash": "0x" + "ab" * 32},
    ):
        assert "result" in call(permitted, "eth_getLogs", query), query
    refused: list[Any] = [
        {"fromBlock": "0x1", "toBlock": "0x3e9"},
        {"fromBlock": "earliest"},
        {"fromBlock": "x"},
        {"fromBlock": []},
        7,
    ]
    for query in refused:
        assert call(permitted, "eth_getLogs", query)["error"]["code"] == -32602, query


def test_the_ledger_knows_the_next_nonce(
    paying_container: Container, proxy: ScriptedProxy
) -> None:
    """Of the wallet, once it has one; other addresses are the node's matter."""
    proxy.answers = {"eth_getTransactionCount": "0x63"}
    container = replaced(paying_container, node_proxies={"local": proxy})
    client = TestClient(create_app(container))
    own = _own(client)

    def count(*params: Any) -> Any:
        return call(client, "eth_getTransactionCount", *params)["result"]

    assert count(own, "pending") == "0x63"
    assert "result" in _send(client)
    assert count(own.lower(), "pending") == "0x1"
    assert count(own, "latest") == count(RECIPIENT, "pending") == "0x63"
    assert count(own) == "0x63"


# --- Codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PolicyViolationError("no", rule="coin"), 4001),
        (ForeignAddressError("no", field="from"), 4100),
        (TenantBlockedError("no"), 4100),
        (InvalidInputError("no"), -32602),
        (ConflictError("no"), -32003),
        (RateLimitedError("no", retry_after=1), -32005),
        (SigningStoppedError("no"), -32002),
        (BackendUnavailableError("arn:secret"), -32002),
        (RecoveryError("secret"), -32603),
        (ValueError("secret"), -32603),
    ],
)
def test_the_code_of_each_error(error: Exception, code: int) -> None:
    answer = error_of(error)

    assert answer.code == code
    assert "secret" not in str(answer)
    assert answer.data["code"] == getattr(error, "code", "internal-error")
