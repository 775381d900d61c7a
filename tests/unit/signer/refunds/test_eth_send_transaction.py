"""Transactions of clients: what they may be, and that each becomes one refund."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from signer.crypto.transactions import MAX_GAS
from signer.errors import (
    ConflictError,
    IdempotencyMismatchError,
    InvalidInputError,
    NonceUsedError,
    PolicyViolationError,
)
from signer.model.refund import Refund, Status
from signer.model.wallet import Wallet
from signer.ports.outside_services import NodeProxy
from signer.refunds.eth_send_transaction import (
    WINDOW_SECONDS,
    TransactionSender,
    is_derived_key,
)
from signer.refunds.token_transfer import (
    ContractCall,
    Payment,
    TransferRequest,
    read_chain_id,
    read_payment,
)
from tests.fixtures.ledger import refund_page
from tests.fixtures.scripted_chain import CHAIN_ID, TOKEN
from tests.support.approvals import ruled
from tests.support.other_payments import CONTRACT, PING, RULES
from tests.support.refunds import (
    ACTOR,
    CUSTOMER,
    NETWORK,
    SECOND,
    World,
    altered,
    refused,
    signer,
)
from tests.support.rpc import ScriptedProxy


TRANSFER = TransferRequest(SECOND.address, CHAIN_ID, "TUSD", CUSTOMER, "12.500000")

NODE = ScriptedProxy({"eth_getTransactionCount": "0x0"})

# The start of a window: its reference changes in the middle.
START = datetime.fromtimestamp(WINDOW_SECONDS * 15_000_000, UTC)


def _sender(
    world: World, store: object = None, node: NodeProxy = NODE
) -> TransactionSender:
    return TransactionSender(
        world.service,
        store or world.store,  # type: ignore[arg-type]
        world.clock,
        {"local": node},
        {"local": world.network},
    )


def _accept(
    world: World, at: float, transfer: Payment = TRANSFER, tenant: str = "shop"
) -> Refund:
    world.clock.now = START + timedelta(seconds=at)
    return _sender(world).accept(transfer, "local", tenant, ACTOR)


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        (0, 0, True),
        (10, 119, True),
        (59, 61, True),
        (100, 121, True),
        (100, 219, True),
        (119.9, 120.1, True),
        (100, 221, False),
        (0, 120, False),
    ],
)
def test_a_repeated_transfer(
    world: World, *, first: float, second: float, is_same: bool
) -> None:
    """The same one within two minutes, also across the edge of a window."""
    earlier, later = _accept(world, first), _accept(world, second)

    assert (earlier.id == later.id) is is_same
    assert earlier.reference.startswith("rpc-")
    assert earlier.reference == earlier.payment_session_id


@pytest.mark.parametrize(
    "change", [{"amount": "12.500001"}, {"recipient": "0x" + "11" * 20}]
)
def test_another_transfer(world: World, change: dict[str, str]) -> None:
    other = replace(TRANSFER, **change)  # type: ignore[arg-type]

    assert _accept(world, 1).id != _accept(world, 1, other).id


def test_another_tenant(world: World) -> None:
    """It neither joins nor sees the refund of the first."""
    first, second = _accept(world, 1), _accept(world, 1, tenant="other")

    assert first.id != second.id
    assert first.reference != second.reference


@pytest.mark.parametrize("second", [119.9, 120.1, 61])
def test_two_requests_at_the_same_moment(world: World, second: float) -> None:
    """The one that does not see the other is refused by the ledger, and joins it."""
    first = _accept(world, 59.9 if second == 61 else 119.5)
    world.clock.now = START + timedelta(seconds=second)
    seen: list[str] = []

    def find(tenant: str, key: str) -> Refund | None:
        seen.append(key)
        # As if the first was not committed yet.
        return None if len(seen) <= 2 else world.store.find(tenant, key)

    racing = _sender(world, altered(world.store, find=find))
    second_refund = racing.accept(TRANSFER, "local", "shop", ACTOR)

    assert second_refund.id == first.id


def test_a_conflict_that_no_window_explains(world: World) -> None:
    _accept(world, 59.9)
    world.clock.now = START + timedelta(seconds=61)
    hidden = altered(world.store, find=lambda *_: None)

    with pytest.raises(ConflictError):
        _sender(world, hidden).accept(TRANSFER, "local", "shop", ACTOR)


def test_an_explicit_key(world: World) -> None:
    """It names the transfer for ever, and an equal one with another key is new."""
    sender = _sender(world)
    first = sender.accept(TRANSFER, "local", "shop", ACTOR, "key-1")
    world.clock.advance(days=3)
    again = sender.accept(TRANSFER, "local", "shop", ACTOR, "key-1")
    other = sender.accept(TRANSFER, "local", "shop", ACTOR, "key-2")

    assert (first.id, first.idempotency_key) == (again.id, "key-1")
    assert other.id != first.id
    changed = replace(TRANSFER, amount="1")
    with pytest.raises(IdempotencyMismatchError):
        sender.accept(changed, "local", "shop", ACTOR, "key-1")


@pytest.mark.parametrize("second", [1, 61, 119])
def test_a_repeated_call(world: World, second: float) -> None:
    """Its content is recipient, coin and calldata."""
    ruled(world, RULES)
    call = ContractCall(SECOND.address, CHAIN_ID, CONTRACT, 0, PING)

    first = _accept(world, 1, call, "gateway")
    again = _accept(world, second, call, "gateway")
    changed = _accept(world, 1, replace(call, value=1), "gateway")
    other = _accept(world, 1, replace(call, data=PING + b"\0"), "gateway")
    coin = ContractCall(SECOND.address, CHAIN_ID, CUSTOMER, 1, b"")

    assert first.id == again.id
    assert len({each.id for each in (first, changed, other)}) == 3
    assert (first.recipient, first.amount, first.calldata) == (CONTRACT, 0, PING)
    assert _accept(world, 1, coin, "gateway").calldata == b""


def test_derived_keys_have_a_form_of_their_own(world: World) -> None:
    assert is_derived_key(_accept(world, 1).idempotency_key)
    assert not is_derived_key("key-1")


# --- With a nonce

NUMBERED = replace(TRANSFER, sender=signer().address, nonce=0)
CORRECTED = replace(NUMBERED, recipient="0x" + "11" * 20)


def _accept_nonce(
    world: World,
    payment: Payment = NUMBERED,
    key: str | None = None,
    *,
    tenant: str = "shop",
    **changes: Any,
) -> Refund:
    asked = replace(payment, **changes)
    return _sender(world).accept(asked, "local", tenant, ACTOR, key)


def test_a_queued_payment_is_joined_for_ever(world: World) -> None:
    """While no worker runs, the same request is the same refund, days later too."""
    first = _accept_nonce(world)
    world.clock.advance(days=3)

    assert _accept_nonce(world).id == first.id
    assert refund_page(world.store, "shop").refunds == (first,)
    assert is_derived_key(first.idempotency_key)


def test_a_paid_payment_is_joined_for_ever(world: World) -> None:
    """Its nonce is below the next one."""
    first = _accept_nonce(world)
    world.work()
    world.settle()
    world.clock.advance(days=3)

    again = _accept_nonce(world)

    assert (again.id, again.nonce, again.status) == (first.id, 0, Status.CONFIRMED)
    assert len(world.chain.payouts()) == 1


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_replacement_is_refused(world: World, *, is_sent: bool) -> None:
    """A corrected recipient would be paid as well as the first one."""
    first = _accept_nonce(world)
    if is_sent:
        world.work()

    with pytest.raises(NonceUsedError, match=r"^nonce too low: .*is not replaced") as e:
        _accept_nonce(world, CORRECTED)

    assert e.value.refund_id == first.id
    assert len(refund_page(world.store, "shop").refunds) == 1


def test_a_call_that_has_the_nonce(world: World) -> None:
    """Its client named none, and learnt it from the chain."""
    ruled(world, RULES)
    call = ContractCall(signer().address, CHAIN_ID, CONTRACT, 0, PING)
    first = _accept_nonce(world, call, tenant="gateway")
    world.work()

    again = _accept_nonce(world, call, tenant="gateway", nonce=0)

    assert (again.id, world.stored(first).nonce) == (first.id, 0)
    with pytest.raises(NonceUsedError):
        _accept_nonce(world, call, tenant="gateway", nonce=0, value=1)
    with pytest.raises(NonceUsedError):
        _accept_nonce(world, CORRECTED, tenant="gateway")


def test_the_nonce_of_another_tenant(world: World) -> None:
    """It names no refund of that tenant; the nonce that each gets is another."""
    _accept_nonce(world)
    world.work()

    with pytest.raises(NonceUsedError, match="the next one is 1") as caught:
        _accept_nonce(world, tenant="other")

    assert caught.value.refund_id is None
    second = _accept_nonce(world, tenant="other", nonce=1)
    third = _accept_nonce(world, nonce=1)
    world.work()
    assert {world.stored(each).nonce for each in (second, third)} == {1, 2}
    assert _accept_nonce(world, nonce=1).id == third.id


def test_a_nonce_that_the_ledger_does_not_know(world: World) -> None:
    """The wallet was used before it was this service's."""
    world.store.open_wallet(Wallet(CHAIN_ID, signer().address, 7, 7))

    with pytest.raises(NonceUsedError, match=r"nonce 6 .* the next one is 7"):
        _accept_nonce(world, nonce=6)


@pytest.mark.parametrize("nonce", [1, 2**64, 2**256 - 1])
@pytest.mark.parametrize("is_open", [False, True])
def test_a_nonce_above_the_next_one(world: World, nonce: int, *, is_open: bool) -> None:
    """A node counts for a wallet that is not opened yet."""
    following = 0
    if is_open:
        world.broadcast()
        following = 1

    with pytest.raises(InvalidInputError, match=f"next nonce .* is {following}$") as e:
        _accept_nonce(world, nonce=nonce + following)
    assert e.value.field == "nonce"
    assert refund_page(world.store, "shop").refunds == ()


def test_a_client_numbers_what_it_has_queued(world: World) -> None:
    """One after the other, without a gap."""
    first = _accept_nonce(world)
    with pytest.raises(InvalidInputError, match="nonce too high"):
        _accept_nonce(world, nonce=2)
    others = [_accept_nonce(world, nonce=each) for each in (1, 2)]
    world.work()

    assert len({first.id, *(each.id for each in others)}) == 3
    assert {world.stored(each).nonce for each in (first, *others)} == {0, 1, 2}


def test_a_payment_that_ended_without_a_nonce(world: World) -> None:
    """Another one may have the nonce; the same one ended, for two minutes."""
    first = _accept_nonce(world)
    world.cancel(first, "shop")
    assert world.stored(first).status is Status.CANCELLED

    assert _accept_nonce(world).id == first.id
    corrected = _accept_nonce(world, CORRECTED)
    assert corrected.id != first.id
    world.clock.advance(seconds=WINDOW_SECONDS)
    with pytest.raises(NonceUsedError):
        _accept_nonce(world)
    world.cancel(corrected, "shop")
    assert _accept_nonce(world).id not in {first.id, corrected.id}


def test_a_key_and_a_nonce(world: World) -> None:
    """The key finds the refund whatever the nonce, and a nonce has one refund."""
    first = _accept_nonce(world, key="key-1")

    assert first.idempotency_key == "key-1"
    assert _accept_nonce(world, key="key-1", nonce=5).id == first.id
    assert (
        _sender(world).accept(TRANSFER, "local", "shop", ACTOR, "key-1").id == first.id
    )
    assert _accept_nonce(world).id == first.id
    with pytest.raises(NonceUsedError):
        _accept_nonce(world, CORRECTED, key="key-2")
    with pytest.raises(IdempotencyMismatchError):
        _accept_nonce(world, CORRECTED, key="key-1", nonce=1)


def test_two_payments_with_a_nonce_at_the_same_moment(world: World) -> None:
    """The ledger accepts the reference once; the other one joins, or is refused."""
    first = _accept_nonce(world)

    def race(payment: Payment) -> Refund:
        seen: list[str] = []

        def find_reference(tenant: str, reference: str) -> Refund | None:
            seen.append(reference)
            is_first = len(seen) == 1  # As if the first was not committed yet.
            return None if is_first else world.store.find_reference(tenant, reference)

        store = altered(world.store, find_reference=find_reference)
        return _sender(world, store).accept(payment, "local", "shop", ACTOR)

    assert race(NUMBERED).id == first.id
    with pytest.raises(NonceUsedError):
        race(CORRECTED)


# --- With a fee or a type


def _node(base_fee: object) -> ScriptedProxy:
    block = {"number": "0x1"} | (
        {} if base_fee is None else {"baseFeePerGas": base_fee}
    )
    return ScriptedProxy({"eth_getBlockByNumber": block})


@pytest.mark.parametrize(
    ("base_fee", "terms"),
    [
        ("0x7", {"max_price": 7}),
        ("0x7", {"max_price": 7, "type": 2}),
        ("0x7", {"type": 2}),
        (None, {"type": 0}),
        (None, {"max_price": 1, "type": 0}),
        ("0x0", {"max_price": 1}),
    ],
)
def test_terms_on_which_it_can_be_mined(
    world: World, base_fee: str | None, terms: dict[str, Any]
) -> None:
    sender = _sender(world, node=_node(base_fee))
    payment = replace(TRANSFER, **terms)

    assert sender.accept(payment, "local", "shop", ACTOR).status is Status.QUEUED


@pytest.mark.parametrize(
    ("base_fee", "terms", "field"),
    [
        ("0x7", {"max_price": 6}, "maxFeePerGas"),
        ("0x7", {"max_price": 0, "type": 2}, "maxFeePerGas"),
        ("0x0", {"max_price": 0}, "maxFeePerGas"),
        (None, {"max_price": 0}, "maxFeePerGas"),
        ("0x7", {"max_price": 9, "type": 0}, "type"),
        (None, {"max_price": 9, "type": 2}, "type"),
    ],
)
def test_terms_on_which_it_cannot_be_mined(
    world: World, base_fee: str | None, terms: dict[str, Any], field: str
) -> None:
    """The worker would not wait for that fee, nor send that type."""
    sender = _sender(world, node=_node(base_fee))

    with pytest.raises(InvalidInputError) as caught:
        sender.accept(replace(TRANSFER, **terms), "local", "shop", ACTOR)
    assert caught.value.field == field
    assert refund_page(world.store, "shop").refunds == ()


@pytest.mark.parametrize(
    ("fees", "sent"), [("tempo", 118), ("legacy", 0), ("eip-1559", 2), (None, 2)]
)
def test_the_type_is_that_of_the_network(
    world: World, fees: str | None, sent: int
) -> None:
    """Also where blocks have a base fee: prices are in its units, whatever pays."""
    update = {"fees": fees, "coin_is": "TUSD"}
    world.network = world.network.model_copy(update=update)
    sender = _sender(world, node=_node("0x7"))
    payment = replace(TRANSFER, max_price=7)

    with pytest.raises(InvalidInputError, match=f"with the type {sent}:"):
        sender.accept(replace(payment, type=1), "local", "shop", ACTOR)
    accepted = sender.accept(replace(payment, type=sent), "local", "shop", ACTOR)
    assert accepted.status is Status.QUEUED


def test_a_repeated_payment_has_its_terms(world: World) -> None:
    """The base fee may have risen since: it joins all the same."""
    cheap = replace(NUMBERED, max_price=7)
    world.store.open_wallet(Wallet(CHAIN_ID, signer().address, 0, 0))
    first = _sender(world, node=_node("0x7")).accept(cheap, "local", "shop", ACTOR)
    again = _sender(world, node=_node("0x8")).accept(cheap, "local", "shop", ACTOR)

    assert again.id == first.id


@pytest.mark.parametrize("head", [None, {"baseFeePerGas": "many"}])
def test_a_node_that_knows_no_block(world: World, head: object) -> None:
    """As one without a base fee, unless it says nonsense."""
    sender = _sender(world, node=ScriptedProxy({"eth_getBlockByNumber": head}))
    payment = replace(TRANSFER, max_price=1)
    if head is None:
        assert sender.accept(payment, "local", "shop", ACTOR).nonce is None
        return
    with pytest.raises(InvalidInputError):
        sender.accept(payment, "local", "shop", ACTOR)


WALLET = SECOND.address
RECIPIENT = CUSTOMER[2:].lower().rjust(64, "0")
AMOUNT = f"{12_500_000:064x}"
DATA = f"0xa9059cbb{RECIPIENT}{AMOUNT}"
APPROVE = f"0x095ea7b3{RECIPIENT}{AMOUNT}"

PLAIN = {"from": WALLET, "to": TOKEN, "data": DATA}


def _read(**changes: Any) -> Payment:
    return read_payment({**PLAIN, **changes}, NETWORK)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"from": WALLET.lower(), "to": TOKEN.lower(), "gas": "0xffff"},
        {"input": DATA, "value": "0x0", "chainId": CHAIN_ID},
        {"data": None, "input": DATA, "accessList": []},
        {"maxPriorityFeePerGas": 1, "gasLimit": 30_000, "gas": 30_000},
    ],
)
def test_the_forms_of_clients(changes: dict[str, Any]) -> None:
    """viem, ethers, cast and web3.py send these."""
    assert _read(**changes) == TransferRequest(
        WALLET, CHAIN_ID, "TUSD", CUSTOMER, "12.500000"
    )


def test_the_nonce_of_a_client() -> None:
    assert (_read(nonce="0x7").nonce, _read().nonce) == (7, None)
    assert _read(nonce=0, data="0xdeadbeef").nonce == 0
    assert (_read(nonce=0).has_terms, _read(gas=50_000).has_terms) == (True, False)


@pytest.mark.parametrize(
    ("changes", "kind", "price"),
    [
        ({}, None, None),
        ({"gasPrice": "0x9"}, None, 9),
        ({"gasPrice": 9, "type": "0x0"}, 0, 9),
        ({"type": "0x0"}, 0, None),
        ({"maxFeePerGas": "0x9"}, None, 9),
        ({"maxFeePerGas": "0x9", "maxPriorityFeePerGas": 9, "type": 2}, 2, 9),
        ({"maxPriorityFeePerGas": "0x9", "type": 2}, 2, None),
    ],
)
def test_the_terms_of_a_client(
    changes: dict[str, Any], kind: int | None, price: int | None
) -> None:
    """What it would pay for one gas, and in which type of transaction."""
    found = _read(**changes)

    assert (found.type, found.max_price) == (kind, price)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"nonce": 2**64 - 1}, "nonce"),
        ({"nonce": hex(2**256 - 1)}, "nonce"),
        ({"gas": 0}, "gas"),
        ({"gas": hex(21_000)}, "gas"),  # Data costs more.
        ({"gas": MAX_GAS + 1}, "gas"),
        ({"gasLimit": "0x1"}, "gas"),
        ({"gas": 30_000, "gasLimit": 30_001}, "gasLimit"),
        ({"maxFeePerGas": 1, "maxPriorityFeePerGas": 2}, "maxPriorityFeePerGas"),
        ({"maxFeePerGas": 2**256}, "maxFeePerGas"),
        ({"gasPrice": 2**255}, "gasPrice"),
        ({"gasPrice": 1, "maxFeePerGas": 1}, "gasPrice"),
        ({"gasPrice": 1, "maxPriorityFeePerGas": 1}, "gasPrice"),
        ({"gasPrice": 1, "type": 2}, "gasPrice"),
        ({"maxFeePerGas": 1, "type": 0}, "maxFeePerGas"),
        ({"maxPriorityFeePerGas": 1, "type": "0x0"}, "maxPriorityFeePerGas"),
        ({"accessList": [], "type": "0x0"}, "accessList"),
        ({"chainId": 0}, "chainId"),
        ({"value": 2**256}, "value"),
        ({"maxPriorityFeePerGas": "x"}, "maxPriorityFeePerGas"),
    ],
)
def test_impossible_and_contradictory_fields(
    changes: dict[str, Any], field: str
) -> None:
    """They are refused, since a client means something by them."""
    with pytest.raises(InvalidInputError) as caught:
        _read(**changes)
    assert caught.value.field == field


def test_the_chain_that_a_client_means() -> None:
    """That of the endpoint, unless it names another, which is refused."""
    assert _read(chainId=hex(CHAIN_ID)).chain_id == _read().chain_id == CHAIN_ID
    assert read_chain_id({"chainId": 5}) == 5
    assert read_chain_id({}) is None


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"to": None}, "creation"),
        ({"to": None, "data": None, "value": 1}, "creation"),
        ({"type": "0x1"}, "transaction-type"),
        ({"type": "0x3"}, "transaction-type"),
        ({"gasPrice": 1, "accessList": []}, "transaction-type"),
        ({"blobVersionedHashes": []}, "transaction-type"),
        ({"authorizationList": []}, "transaction-type"),
        ({"accessList": [{"address": TOKEN, "storageKeys": []}]}, "function"),
    ],
)
def test_what_the_ledger_never_sends(changes: dict[str, Any], rule: str) -> None:
    """No rule of an operator can permit it; the names are those of the policy."""
    with refused(rule):
        _read(**changes)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"to": CUSTOMER, "data": None, "value": 1}, "coin"),
        ({"data": None, "value": 1}, "recipient"),  # A token's contract.
        ({"to": CUSTOMER, "data": "0x"}, "empty"),
        ({"value": "0x1"}, "value"),
        ({"to": CUSTOMER}, "token"),
        ({"data": APPROVE}, "allowance"),
        ({"data": "0xdeadbeef"}, "function"),
        ({"data": f"0x23b872dd{RECIPIENT}{RECIPIENT}{AMOUNT}"}, "function"),
        ({"data": DATA[:-2]}, "calldata"),
        ({"data": DATA.replace("0xa9059cbb00", "0xa9059cbb01")}, "calldata"),
        ({"data": DATA + "00" * 16}, "extra-calldata"),
        ({"data": DATA + "00"}, "extra-calldata"),
    ],
)
def test_everything_else_is_a_call_that_the_policy_refuses(
    world: World, changes: dict[str, Any], rule: str
) -> None:
    """By default, each; 16 bytes more would forge a memo."""
    found = _read(**changes)
    store, clock = world.store, world.clock
    sender = TransactionSender(world.service, store, clock, {}, {})

    with pytest.raises(PolicyViolationError, match=f"rule {rule}") as caught:
        sender.accept(found, "local", "shop", ACTOR)

    assert isinstance(found, ContractCall)
    assert caught.value.rule == rule
    assert refund_page(world.store, "shop").refunds == ()


def test_the_content_of_a_call() -> None:
    """What the client sent, and no byte more."""
    found = _read(to=CUSTOMER.lower(), data="0xdeadbeef", value="0x7", chainId=5)

    assert found == ContractCall(WALLET, 5, CUSTOMER, 7, bytes.fromhex("deadbeef"))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"from": None}, "from"),
        ({"from": "0x1"}, "from"),
        ({"input": APPROVE}, "input"),
        ({"data": "0xa"}, "data"),
        ({"nonce": "seven"}, "nonce"),
        ({"gas": 1.5}, "gas"),
        ({"chainId": True}, "chainId"),
        ({"accessList": 7}, "accessList"),
        ({"to": WALLET[:-1]}, "to"),
        ({"maxFee": "0x1"}, "maxFee"),
    ],
)
def test_malformed_fields(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        _read(**changes)
    assert caught.value.field == field
