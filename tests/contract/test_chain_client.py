"""
What a chain client promises of contracts, fees and refusals, on every real chain.

``test_chain_client_nonces`` has the rest, which the chain in memory keeps, too.
"""

import threading

import coincurve
import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from signer.chain.erc20 import encode_transfer
from signer.crypto.transactions import LegacyTransaction
from signer.errors import BroadcastRejectedError, ExecutionRevertedError
from signer.model.audit_record import Operation, Purpose
from signer.ports import Call, ChainClient, Fees
from tests.fixtures.chain import DevChain
from tests.support.devices import honest, signer_over
from tests.support.payments import NOBODY, hash_of, mined, signed, transfer


@pytest.fixture
def client(chain: JSONRPCChain) -> ChainClient:
    """The client under test, seen through its port."""
    return chain


@pytest.fixture
def payer(dev_chain: DevChain) -> LocalAccount:
    """A throw-away account with gas and 1,000 coins."""
    account: LocalAccount = Account.create()
    coin.fund(
        dev_chain.url, account.address, token=dev_chain.token, amount=1_000 * 10**6
    )
    return account


def test_tells_balances_in_wei(client: ChainClient, dev_chain: DevChain) -> None:
    """The balance is an integer of wei, and zero for who never had any."""
    address = Account.create().address

    assert client.balance(address) == 0

    coin.fund(dev_chain.url, address, wei=123_456_789_012_345_678)

    assert client.balance(address) == 123_456_789_012_345_678


def test_calls_contracts(client: ChainClient, dev_chain: DevChain) -> None:
    """A call answers with the contract's bytes."""
    call = Call(dev_chain.deployer, dev_chain.token, coin.calldata("decimals()"))

    assert int.from_bytes(client.call(call)) == 6


def test_estimates_gas(
    client: ChainClient, dev_chain: DevChain, payer: LocalAccount
) -> None:
    """The estimate of a token transfer suffices to mine it."""
    data = coin.calldata("transfer(address,uint256)", NOBODY, 5)

    gas = client.estimate_gas(Call(payer.address, dev_chain.token, data))
    raw = transfer(payer, dev_chain.token, 5, gas=gas)
    client.broadcast(raw)

    assert 21_000 < gas < 100_000
    assert mined(client, raw).succeeded


@pytest.mark.parametrize("ask", ["call", "estimate_gas"])
def test_decodes_a_reason_string(
    client: ChainClient, dev_chain: DevChain, payer: LocalAccount, ask: str
) -> None:
    """A require() that fails is told in the contract's words."""
    data = coin.calldata("transfer(address,uint256)", NOBODY, 10**12)

    with pytest.raises(ExecutionRevertedError) as caught:
        getattr(client, ask)(Call(payer.address, dev_chain.token, data))

    assert str(caught.value) == "TestUSD: balance too low"


@pytest.mark.parametrize("ask", ["call", "estimate_gas"])
def test_names_a_custom_error(
    client: ChainClient, dev_chain: DevChain, payer: LocalAccount, ask: str
) -> None:
    """A custom error is told by its selector."""
    coin.administer(
        dev_chain.url, dev_chain.token, "setBlocked(address,bool)", NOBODY, True
    )
    data = coin.calldata("transfer(address,uint256)", NOBODY, 1)

    with pytest.raises(ExecutionRevertedError) as caught:
        getattr(client, ask)(Call(payer.address, dev_chain.token, data))

    selector = keccak(text="Blocked(address)")[:4].hex()
    assert str(caught.value) == f"custom error 0x{selector}"


@pytest.mark.parametrize("ask", ["call", "estimate_gas"])
def test_explains_a_panic(
    client: ChainClient, dev_chain: DevChain, payer: LocalAccount, ask: str
) -> None:
    """A panic is told by its number and what it means."""
    data = coin.calldata(
        "transferFrom(address,address,uint256)", payer.address, NOBODY, 1
    )

    with pytest.raises(ExecutionRevertedError) as caught:
        getattr(client, ask)(Call(dev_chain.deployer, dev_chain.token, data))

    assert str(caught.value) == "panic 0x11: arithmetic overflow or underflow"


def test_a_transaction_that_makes_a_contract_has_no_recipient(
    client: ChainClient, dev_chain: DevChain
) -> None:
    """Somebody's deployment is found like any other use of the key."""
    count = client.transaction_count(dev_chain.deployer)
    coin.deploy(dev_chain.url)

    found = client.find_transaction(dev_chain.deployer, count)

    assert found is not None
    assert found.to is None


def test_quotes_fees(client: ChainClient, dev_chain: DevChain) -> None:
    """The fees are the latest block's base fee and a tip that the node suggests."""
    latest = dev_chain.rpc("eth_getBlockByNumber", "latest", False)

    fees = client.fees()

    assert fees.base_fee is not None
    assert fees.base_fee == int(latest["baseFeePerGas"], 16) > 0
    assert fees.priority_fee == 10**9


def test_a_transfer_moves_coins(
    client: ChainClient, dev_chain: DevChain, payer: LocalAccount
) -> None:
    """What was broadcast and mined has paid the recipient."""
    raw = transfer(payer, dev_chain.token, 1_500_000)

    client.broadcast(raw)

    assert mined(client, raw).succeeded
    assert coin.balance_of(dev_chain.url, dev_chain.token, NOBODY) == 1_500_000


def test_a_reverted_transaction_has_a_receipt_that_says_so(
    client: ChainClient, dev_chain: DevChain, payer: LocalAccount
) -> None:
    """A transfer that reverts on chain is mined, did not succeed, and logs nothing."""
    raw = transfer(payer, dev_chain.token, 10**12)

    client.broadcast(raw)
    receipt = mined(client, raw)

    assert not receipt.succeeded
    assert receipt.logs == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"value": 10**24}, "insufficient-funds"),
        ({"maxFeePerGas": 1, "maxPriorityFeePerGas": 0}, "underpriced"),
        ({"chainId": 1}, "other"),
        ({"gas": 20_000}, "other"),
    ],
)
def test_says_why_a_transaction_is_not_taken(
    client: ChainClient, payer: LocalAccount, changes: dict[str, int], reason: str
) -> None:
    """A node's refusal comes with its reason, and changes nothing."""
    with pytest.raises(BroadcastRejectedError) as caught:
        client.broadcast(signed(payer, **changes))

    assert caught.value.reason == reason
    assert client.transaction_count(payer.address) == 0


def test_refuses_bytes_that_are_no_transaction(client: ChainClient) -> None:
    """Garbage is refused."""
    with pytest.raises(BroadcastRejectedError) as caught:
        client.broadcast(b"\x02garbage")

    assert caught.value.reason == "other"


def test_threads_share_a_client(client: ChainClient) -> None:
    """Sixteen threads that ask at the same time all get the right answer."""
    answers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: answers.extend(client.chain_id() for _ in range(5))
        )
        for _ in range(16)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [CHAIN_ID] * 80


def test_a_chain_without_base_fee_has_a_gas_price(legacy_anvil: DevChain) -> None:
    """Where blocks have no base fee, the fees are the whole gas price."""
    client: ChainClient = JSONRPCChain([legacy_anvil.url], timeout=10)
    price = int(legacy_anvil.rpc("eth_gasPrice"), 16)

    assert client.fees() == Fees(base_fee=None, priority_fee=price)


def test_a_legacy_transaction_is_mined(legacy_anvil: DevChain) -> None:
    """Our bytes with EIP-155 pay on a chain that knows nothing newer."""
    client: ChainClient = JSONRPCChain([legacy_anvil.url], timeout=10)
    key = coincurve.PrivateKey()
    signer = signer_over(honest(key))
    coin.fund(legacy_anvil.url, signer.address, token=legacy_anvil.token, amount=5)
    transaction = LegacyTransaction(
        chain_id=CHAIN_ID,
        nonce=0,
        gas_price=client.fees().priority_fee,
        gas=100_000,
        to=legacy_anvil.token,
        value=0,
        data=encode_transfer(NOBODY, 5),
    )
    raw = transaction.serialise(
        signer.sign_digest(
            transaction.signing_digest(), Purpose(Operation.TRANSACTION_SIGNING)
        )
    )

    client.broadcast(raw)

    assert mined(client, raw).succeeded
    assert coin.balance_of(legacy_anvil.url, legacy_anvil.token, NOBODY) == 5
    found = client.find_transaction(signer.address, 0)
    assert found is not None
    assert found.tx_hash == hash_of(raw)
