"""What every chain client promises, on every chain that is at hand."""

import threading

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from signer.errors import BroadcastRejectedError, ExecutionRevertedError
from signer.ports import Block, Call, ChainClient
from tests.fixtures.chain import DevChain
from tests.support.payments import NOBODY, hash_of, mined, signed, transfer


TRANSFER = keccak(text="Transfer(address,address,uint256)")


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


def test_tells_the_chain_id(client: ChainClient) -> None:
    """The chain id is the one that the node was started with."""
    assert client.chain_id() == CHAIN_ID


def test_tells_contracts_from_accounts(
    client: ChainClient, dev_chain: DevChain
) -> None:
    """Code is seen at a contract's address, and at no other."""
    assert client.has_code(dev_chain.token)
    assert not client.has_code(NOBODY)


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


def test_counts_transactions(client: ChainClient, payer: LocalAccount) -> None:
    """The next nonce is the number of transactions mined so far."""
    assert client.transaction_count(payer.address) == 0

    for nonce in (0, 1):
        raw = signed(payer, nonce=nonce)
        client.broadcast(raw)
        mined(client, raw)

    assert client.transaction_count(payer.address) == 2


def test_quotes_fees(client: ChainClient, dev_chain: DevChain) -> None:
    """The fees are the latest block's base fee and a tip that the node suggests."""
    latest = dev_chain.rpc("eth_getBlockByNumber", "latest", False)

    fees = client.fees()

    assert fees.base_fee == int(latest["baseFeePerGas"], 16) > 0
    assert fees.priority_fee == 10**9


def test_a_transfer_ends_in_a_receipt_with_its_event(
    client: ChainClient, dev_chain: DevChain, payer: LocalAccount
) -> None:
    """The receipt of a transfer names its block and carries the Transfer event."""
    raw = transfer(payer, dev_chain.token, 1_500_000)

    client.broadcast(raw)
    receipt = mined(client, raw)

    assert receipt.tx_hash == hash_of(raw)
    assert receipt.succeeded
    assert receipt.block == client.latest_block()
    (log,) = receipt.logs
    assert log.address == dev_chain.token
    assert log.topics == (
        TRANSFER,
        bytes(12) + bytes.fromhex(payer.address[2:]),
        bytes(12) + bytes.fromhex(NOBODY[2:]),
    )
    assert int.from_bytes(log.data) == 1_500_000
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


def test_knows_no_receipt_of_what_was_never_sent(client: ChainClient) -> None:
    """An unknown hash has no receipt."""
    assert client.receipt("0x" + "11" * 32) is None


def test_finds_blocks_by_number(client: ChainClient, payer: LocalAccount) -> None:
    """Each block that was the latest is found again by its number, the next is not."""
    before = client.latest_block()
    raw = signed(payer)
    client.broadcast(raw)
    mined(client, raw)
    after = client.latest_block()

    assert after.number == before.number + 1
    assert client.block(before.number) == before
    assert client.block(after.number) == after
    assert client.block(after.number + 1) is None


def test_writes_hashes_in_lower_case(client: ChainClient) -> None:
    """A block's hash is 32 bytes in lower-case hex behind 0x."""
    block = client.latest_block()

    assert isinstance(block, Block)
    assert block.hash[:2] == "0x"
    assert block.hash == block.hash.lower()
    assert len(bytes.fromhex(block.hash[2:])) == 32


def test_mined_bytes_are_not_taken_twice(
    client: ChainClient, payer: LocalAccount
) -> None:
    """Bytes that were mined are refused as nonce-too-low, which is no failure."""
    raw = signed(payer)
    client.broadcast(raw)
    mined(client, raw)

    with pytest.raises(BroadcastRejectedError) as caught:
        client.broadcast(raw)

    assert caught.value.reason == "nonce-too-low"
    assert mined(client, raw).succeeded


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


def test_bytes_that_wait_are_already_known(
    fresh_anvil: DevChain,
) -> None:
    """Bytes that wait in the pool for an earlier nonce may be sent again and again."""
    client: ChainClient = JSONRPCChain([fresh_anvil.url], timeout=10)
    payer: LocalAccount = Account.create()
    coin.fund(fresh_anvil.url, payer.address)
    second = signed(payer, nonce=1)

    client.broadcast(second)
    client.broadcast(second)

    assert client.receipt(hash_of(second)) is None

    client.broadcast(signed(payer, nonce=0))

    assert mined(client, second).succeeded


def test_a_replacement_must_pay_more(fresh_anvil: DevChain) -> None:
    """Other bytes with the nonce of waiting ones are refused as underpriced."""
    client: ChainClient = JSONRPCChain([fresh_anvil.url], timeout=10)
    payer: LocalAccount = Account.create()
    coin.fund(fresh_anvil.url, payer.address)
    client.broadcast(signed(payer, nonce=1))

    with pytest.raises(BroadcastRejectedError) as caught:
        client.broadcast(signed(payer, nonce=1, value=1))

    assert caught.value.reason == "underpriced"
