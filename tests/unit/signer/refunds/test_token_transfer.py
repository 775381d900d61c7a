"""What a client may have sent: a transfer of a configured token, or a call."""

from typing import Any

import pytest

from signer.crypto.transactions import MAX_GAS
from signer.errors import InvalidInputError, PolicyViolationError
from signer.refunds.eth_send_transaction import TransactionSender
from signer.refunds.token_transfer import (
    ContractCall,
    Payment,
    TransferRequest,
    read_chain_id,
    read_payment,
)
from tests.fixtures.scripted_chain import CHAIN_ID, TOKEN
from tests.support.refunds import ACTOR, CUSTOMER, NETWORK, SECOND, World


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
    with pytest.raises(PolicyViolationError, match=f"rule {rule}") as caught:
        _read(**changes)
    assert caught.value.rule == rule


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
    sender = TransactionSender(world.service, store, clock, {})

    with pytest.raises(PolicyViolationError, match=f"rule {rule}") as caught:
        sender.accept(found, "local", "shop", ACTOR)

    assert isinstance(found, ContractCall)
    assert caught.value.rule == rule
    assert world.store.list("shop").refunds == ()


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
