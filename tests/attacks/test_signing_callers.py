"""A caller of JSON-RPC or typed data: what it may not get signed or paid."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import TestClient
from structlog.testing import capture_logs

from api.http.app import create_app
from backends.sql import SQLStore
from signer.clear_signing.typed_data import (
    _BULK_ORDER,
    _KINDS,
    _WITNESS,
    UNKNOWN,
    recognise,
)
from signer.config.deny_list import DenyList
from signer.config.networks import Network
from signer.config.tenants import Tenant, TenantRegistry
from signer.crypto.transactions import DynamicFeeTransaction
from signer.crypto.typed_data import TypedData
from signer.model.hold import EVERYTHING
from signer.policy.default_rules import service_files
from signer.policy.policy import Policy
from signer.policy.rules import PolicyFile
from tests.api.service import (
    BODY,
    NETWORKS,
    RECIPIENT,
    TOKEN_ADDRESS,
    build_container,
    replaced,
)
from tests.api.signers import call, rpc, sign, signer_token
from tests.api.support import SettableClock, post
from tests.fixtures.ledger import refund_page, stopped
from tests.support.rpc import ScriptedProxy
from tests.unit.signer.clear_signing import documents as d


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
    (refund,) = refund_page(sqlite_store, "gateway-1").refunds
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
        assert refund_page(sqlite_store, "gateway-1").refunds == ()


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
    rows = refund_page(sqlite_store, "gateway-1").refunds
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

    assert refund_page(sqlite_store, "gateway-1").refunds == ()


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
        (refund,) = refund_page(sqlite_store, tenant).refunds
        assert refund.id == refund_id


def test_a_signer_creates_no_refund_by_http(client: TestClient) -> None:
    answer = post(client, BODY, **signer_token())

    assert answer.status_code == 403


# A caller whom a rule lets sign typed data, and who asks for what payments may not.

DOCUMENTS = """
@id("documents")  // The most that an operator could write by mistake.
permit (principal, action == Action::"sign-typed-data", resource);
"""

OTHER = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"

NOBODY = "0x8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199"

NOTHING = Tenant(subjects=("gateway-1",))

Answer = Mapping[str, Any]

OTHER_TOKEN = "0x9fE46736679d2D9a65F0992F2272dE9f3c7fa6e0"


def _document(
    type_string: str, chain_id: int | None = 31337, **changes: object
) -> dict[str, Any]:
    """Return a document about the token, in JSON."""
    return _with_message(
        type_string, d.signed_for_others(type_string, **changes), chain_id
    )


def _with_message(
    type_string: str,
    message: Mapping[str, object],
    chain_id: int | None = 31337,
    contract: str = TOKEN_ADDRESS,
) -> dict[str, Any]:
    """Return the document with *message*, in which USDC and DAI are our tokens."""
    types = d.types_of(type_string)
    domain: dict[str, Any] = {"name": "Example", "verifyingContract": contract}
    if chain_id is not None:
        domain["chainId"] = chain_id
    text = json.dumps(message, default=lambda value: f"0x{value.hex()}")
    text = text.replace(d.USDC, TOKEN_ADDRESS).replace(d.DAI, OTHER_TOKEN)
    primary = next(iter(types))
    return {
        "types": types,
        "primaryType": primary,
        "domain": domain,
        "message": json.loads(text),
    }


def _calldata(amount: int, recipient: str = RECIPIENT) -> str:
    return f"0xa9059cbb{recipient[2:].lower().rjust(64, '0')}{amount:064x}"


def _permitted(amount: int, token: str = d.USDC) -> dict[str, object]:
    return {"token": token, "amount": amount}


_TRADE = {"witness": {"price": 3}}


def _bulk_order(*amounts: int) -> dict[str, Any]:
    one, two, three, four = (d.order(0, amount) for amount in amounts)
    message = {"tree": [[one, two], [three, four]]}
    return _with_message(d.BULK_ORDER, message, contract=RECIPIENT)


# What each kind lets leave: *amount* base units, to or for RECIPIENT.
KINDS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "permit": lambda amount: _document(d.ERC2612, value=amount),
    "permit2": lambda amount: _with_message(
        d.SINGLE, d.allowance(d.details(amount=amount))
    ),
    "permit2, batch": lambda amount: _with_message(
        d.BATCH, d.allowance([d.details(amount=amount - 1), d.details(amount=1)])
    ),
    "permit2, transfer": lambda amount: _with_message(
        d.TRANSFER, d.transfer(_permitted(amount))
    ),
    "permit2, batch of transfers": lambda amount: _with_message(
        d.BATCH_TRANSFER, d.transfer([_permitted(amount - 1), _permitted(1)])
    ),
    "permit2, witness": lambda amount: _with_message(
        d.WITNESS, d.transfer(_permitted(amount), **_TRADE)
    ),
    "permit2, batch with a witness": lambda amount: _with_message(
        d.BATCH_WITNESS, d.transfer([_permitted(1), _permitted(amount - 1)], **_TRADE)
    ),
    "transfer": lambda amount: _document(d.ERC3009, to=RECIPIENT, value=amount),
    "receive": lambda amount: _document(d.ERC3009_RECEIVE, to=RECIPIENT, value=amount),
    # As bridged tokens on Polygon have it.
    "no chain": lambda amount: _document(d.ERC3009, None, to=RECIPIENT, value=amount),
    "safe": lambda amount: _document(
        d.SAFE, to=d.USDC, value=0, data=_calldata(amount)
    ),
    "safe before 1.0.0": lambda amount: _document(
        d.SAFE.replace("baseGas", "dataGas"), value=0, data=_calldata(amount)
    ),
    # The contract takes the tokens; who buys them is not known.
    "seaport": lambda amount: _with_message(
        d.ORDER, d.order(0, amount), contract=RECIPIENT
    ),
    "seaport, bulk": lambda amount: _bulk_order(1, 1, 1, amount - 3),
    "order": lambda amount: _document(d.COW_ORDER, sellAmount=amount - 2, feeAmount=2),
    "1inch": lambda amount: _document(d.INCH_ORDER, makingAmount=amount),
    "1inch 3": lambda amount: _document(d.INCH_ORDER_3, makingAmount=amount),
    "approval": lambda amount: _document(d.APPROVE_WITH_AUTHORIZATION, value=amount),
    "increase": lambda amount: _document(
        d.INCREASE_WITH_AUTHORIZATION, increment=amount
    ),
    "credit": lambda amount: _document(d.CREDIT_DELEGATION, value=amount),
    "meta transaction": lambda amount: _document(
        d.META_TRANSACTION, functionSignature=_calldata(amount)
    ),
    "forward request 4": lambda amount: _document(
        d.FORWARD_4, data=_calldata(amount), value=0
    ),
    "forward request 5": lambda amount: _document(
        d.FORWARD_5, data=_calldata(amount), value=0
    ),
    "forward request, GSN": lambda amount: _document(
        d.FORWARD_GSN, data=_calldata(amount), value=0
    ),
    "multicall": lambda amount: _document(
        d.META_TRANSACTION,
        functionSignature=d.multicall_of(
            _calldata(amount - 1), d.multicall_of(_calldata(1))
        ),
    ),
}

# What gives no amount that could be changed away, for or to RECIPIENT.
WITHOUT_AMOUNT: Mapping[str, dict[str, Any]] = {
    "dai": _document(d.DAI_PERMIT, allowed=False),
    "nft": _document(d.NFT_PERMIT),
    "nft, all": _document(d.NFT_PERMIT_FOR_ALL),
    "compound": _document(d.COMPOUND_MANAGER),
    "morpho": _document(d.MORPHO_MANAGER),
    "votes": _document(d.VOTES),
    "user operation": _document(d.USER_OPERATION),
}

FIVE = {**{name: write(5) for name, write in KINDS.items()}, **WITHOUT_AMOUNT}


"""A document of each kind."""


def _two(first: int, second: int) -> list[dict[str, object]]:
    return [_permitted(first), _permitted(second, d.DAI)]


def _order_of_two(first: int, second: int) -> dict[str, object]:
    order: dict[str, Any] = d.order(0, first)
    (item,) = order["offer"]
    return {**order, "offer": [item, {**item, "token": d.DAI, "endAmount": second}]}


# What lets base units of both tokens leave.
BATCHES: Mapping[str, Callable[[int, int], dict[str, Any]]] = {
    "permit2": lambda *amounts: _with_message(
        d.BATCH,
        d.allowance(
            [d.details(amount=amounts[0]), d.details(d.DAI, amount=amounts[1])]
        ),
    ),
    "transfers": lambda *amounts: _with_message(
        d.BATCH_TRANSFER, d.transfer(_two(*amounts))
    ),
    "witness": lambda *amounts: _with_message(
        d.BATCH_WITNESS, d.transfer(_two(*amounts), **_TRADE)
    ),
    "seaport": lambda *amounts: _with_message(d.ORDER, _order_of_two(*amounts)),
    "seaport, bulk": lambda *amounts: _with_message(
        d.BULK_ORDER,
        {"tree": [[d.order(0, 0), _order_of_two(*amounts)], [d.order(0, 0)] * 2]},
    ),
}

LIMIT = 1_000_000_000


class Service:
    """An application: its operator permits typed data of a token, or of two."""

    def __init__(self, store: SQLStore, folder: Path) -> None:
        self._denied = folder / "denied.txt"
        self.deny(NOBODY)
        tenants = TenantRegistry({"gateway-1": NOTHING})
        files = service_files(NETWORKS, tenants)
        self._container = replaced(
            build_container(
                store,
                SettableClock(),
                tenants=tenants,
                policy=Policy.compile(files, [PolicyFile("own.cedar", DOCUMENTS)]),
            ),
            deny_list=DenyList(self._denied),
        )
        self._change()

    def _change(self, **parts: object) -> None:
        """Start again, with other *parts* of the configuration."""
        self._container = replaced(self._container, **parts)
        for name in ("payment_policy", "signing"):
            vars(self._container).pop(name, None)
        self._client = TestClient(create_app(self._container))
        (self._own,) = call(self._client, "eth_accounts")["result"]

    def deny(self, address: str) -> None:
        """Make the deny list contain *address*."""
        self._denied.write_text(address)

    def limit(self, other: Mapping[str, str] | None = None, /, **limits: str) -> None:
        """Give the token other *limits*; with *other*, there is a second one."""
        document = NETWORKS["local"].model_dump(mode="json")
        document["rpc_urls"] = ["http://127.0.0.1:9"]
        tokens = document["tokens"]
        tokens["TUSD"] |= limits
        if other is not None:
            tokens["TEUR"] = tokens["TUSD"] | {"address": OTHER_TOKEN} | other
        self._change(networks={"local": Network.model_validate(document)})

    def limit_tenant(self, **limits: str) -> None:
        """Give the tenant *limits* for the token."""
        networks = {"local": {"tokens": {"TUSD": limits}}}
        tenant = Tenant.model_validate(
            {"subjects": ["gateway-1"], "networks": networks}
        )
        self._change(tenants=TenantRegistry({"gateway-1": tenant}))

    def ask(self, document: Mapping[str, Any]) -> list[Answer | None]:
        """Return the errors of JSON-RPC and of HTTP; None for a signature."""
        rpc = call(self._client, "eth_signTypedData_v4", self._own, document)
        http = sign(self._client, "typed-data", typed_data=document)
        error = rpc.get("error")
        return [error and error["data"], http.json if http.status_code != 200 else None]


@pytest.fixture
def service(sqlite_store: SQLStore, tmp_path: Path) -> Iterator[Service]:
    """A service on an empty database."""
    with capture_logs():  # A traceback in colours takes two seconds.
        yield Service(sqlite_store, tmp_path)


def _rules(answers: Sequence[Answer | None]) -> list[str | None]:
    return [None if answer is None else answer.get("rule") for answer in answers]


def _codes(answers: Sequence[Answer | None]) -> list[str | None]:
    return [None if answer is None else answer["code"] for answer in answers]


def _refused(
    service: Service, documents: Mapping[str, dict[str, Any]]
) -> dict[str, list[str | None]]:
    """Return the rules that refuse each of *documents*; None for a signature."""
    return {name: _rules(service.ask(each)) for name, each in documents.items()}


def _write(amount: int) -> dict[str, dict[str, Any]]:
    return {name: write(amount) for name, write in KINDS.items()}


SIGNED = [None, None]


def test_the_largest_amount(service: Service) -> None:
    """Of the token, and of the tenant; exactly that much is signed."""
    too_much = dict.fromkeys(KINDS, ["max-amount"] * 2)

    assert _refused(service, _write(LIMIT)) == dict.fromkeys(KINDS, SIGNED)
    assert _refused(service, _write(LIMIT + 1)) == too_much
    service.limit_tenant(max_amount="2")
    assert _refused(service, _write(2_000_000)) == dict.fromkeys(KINDS, SIGNED)
    assert _refused(service, _write(2_000_001)) == too_much


def test_a_denied_recipient(service: Service) -> None:
    """As spender, recipient or receiver, and in the calldata of a call."""
    service.deny(OTHER)
    assert _refused(service, FIVE) == dict.fromkeys(FIVE, SIGNED)
    service.deny(RECIPIENT)
    assert _refused(service, FIVE) == dict.fromkeys(FIVE, ["recipient-denied"] * 2)


def test_a_denied_address_anywhere(service: Service) -> None:
    """Also in a document of an unknown kind, in a list, and as the contract."""
    types = {
        "Split": [{"name": "parts", "type": "Part[]"}, {"name": "to", "type": "bytes"}],
        "Part": [{"name": "payees", "type": "address[]"}],
    }
    approval = bytes.fromhex(_calldata(1, OTHER)[2:])
    for parts, to, contract in (
        ([[RECIPIENT, OTHER]], "0x", RECIPIENT),
        ([[RECIPIENT]], f"0x{approval.hex()}", RECIPIENT),
        ([], d.multicall_of(f"0x{approval.hex()}"), RECIPIENT),
        ([], "0x", OTHER),
    ):
        document = {
            "types": types,
            "primaryType": "Split",
            "domain": {"name": "x", "verifyingContract": contract},
            "message": {"parts": [{"payees": each} for each in parts], "to": to},
        }
        service.deny(NOBODY)
        assert service.ask(document) == [None, None]
        service.deny(OTHER)
        assert _rules(service.ask(document)) == ["recipient-denied"] * 2


def test_calldata_that_is_read_in_two_ways(service: Service) -> None:
    """Half a byte is missing, or the calls are nested too deeply."""
    nested = _calldata(5)
    for _ in range(400):
        nested = d.multicall_of(nested)
    for data in (_calldata(5)[:-2], nested):
        document = _document(d.META_TRANSACTION, functionSignature=data)

        assert _rules(service.ask(document)) == ["calldata"] * 2


def test_a_stopped_network(service: Service, sqlite_store: SQLStore) -> None:
    """What names no chain may be valid there as well."""
    stopped(sqlite_store, 31337)

    codes = {name: _codes(service.ask(each)) for name, each in FIVE.items()}
    assert codes == dict.fromkeys(FIVE, ["signing-stopped"] * 2)


def test_stops_of_other_networks(service: Service, sqlite_store: SQLStore) -> None:
    """A stop of one network leaves the documents of others; one of everything none."""
    largest = 2**256 - 1
    stopped(sqlite_store, 5)
    document = _document(d.ERC3009, largest)

    assert service.ask(KINDS["permit"](5)) == [None, None]
    assert _codes(service.ask(KINDS["no chain"](5))) == ["signing-stopped"] * 2
    assert service.ask(document)[1] is None  # JSON-RPC signs for its own network only.
    stopped(sqlite_store, EVERYTHING)
    assert _codes(service.ask(KINDS["permit"](5))) == ["signing-stopped"] * 2


@pytest.mark.parametrize(
    "limit", ["hourly_limit", "daily_limit", "daily_limit_per_recipient"]
)
def test_the_totals(service: Service, limit: str) -> None:
    """Documents of all kinds use the limit up together, on both paths."""
    service.limit(max_amount="500", **{limit: str(2 * len(KINDS) * 500)})
    documents = _write(500_000_000)

    assert _refused(service, documents) == dict.fromkeys(KINDS, SIGNED)
    codes = {name: _codes(service.ask(each)) for name, each in documents.items()}
    assert codes == dict.fromkeys(KINDS, ["limit-reached"] * 2)


@pytest.mark.parametrize("kind", BATCHES)
def test_a_batch_of_two_tokens(service: Service, kind: str) -> None:
    """The limit of either token refuses the whole, which then uses up neither."""
    write, one = BATCHES[kind], KINDS["transfer"]
    service.limit({"max_amount": "0.000007"}, max_amount="0.000005")
    assert _rules(service.ask(write(6, 7))) == ["max-amount"] * 2
    assert _rules(service.ask(write(5, 8))) == ["max-amount"] * 2
    assert service.ask(write(5, 7)) == SIGNED

    other = {"max_amount": "0.000007", "daily_limit": "0.000014"}
    service.limit(other, max_amount="0.000005", daily_limit="0.000012")
    assert _codes(service.ask(write(1, 1))) == ["limit-reached"] * 2
    assert service.ask(one(1)) == SIGNED
    assert _codes(service.ask(one(1))) == ["limit-reached"] * 2

    other["daily_limit"] = "1000"
    service.limit(other, max_amount="0.000005", daily_limit="0.000012")
    assert _codes(service.ask(write(1, 1))) == ["limit-reached"] * 2


def test_the_totals_of_a_tenant(service: Service) -> None:
    service.limit_tenant(max_amount="500", daily_limit="1000")
    document = KINDS["transfer"](500_000_000)

    assert service.ask(document) == [None, None]
    assert _codes(service.ask(document)) == ["limit-reached"] * 2


def test_a_permit_of_everything(service: Service) -> None:
    """Also with a rule for it: no amount is above all."""
    everything = _document(d.DAI_PERMIT, allowed=True)
    nothing = _document(d.DAI_PERMIT, allowed=False)

    assert _rules(service.ask(everything)) == ["max-amount"] * 2
    assert service.ask(nothing) == [None, None]


def test_every_kind_has_a_document() -> None:
    """A kind has one for each amount that a caller can choose."""
    documents = [TypedData.parse(each) for each in FIVE.values()]
    chosen = {TypedData.parse(each).encode_type() for each in _write(5).values()}

    assert _KINDS.keys() <= {each.encode_type() for each in documents}
    assert {_BULK_ORDER, *(name for name, _ in _WITNESS.values())} <= {
        recognise(each).kind for each in documents
    }
    assert {
        type_
        for type_, of in _KINDS.items()
        if of.grants or of.offer or of.calldata or isinstance(of.amount, str)
    } <= chosen


def test_the_documents_are_what_their_names_say() -> None:
    for kind, fields in FIVE.items():
        document = TypedData.parse(fields)

        assert document.digest()
        assert recognise(document).kind != UNKNOWN, kind
