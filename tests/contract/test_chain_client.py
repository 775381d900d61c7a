"""What every chain client promises, on every chain that is at hand."""

import threading

import coincurve
import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from signer.audit import Operation, Purpose
from signer.errors import BroadcastRejectedError, ExecutionRevertedError
from signer.ports import Block, Call, ChainClient, Fees, MinedTransaction
from signer.refunds.erc20 import transfer_calldata
from signer.transactions import LegacyTransaction
from tests.fixtures.chain import DevChain
from tests.support.devices import honest, signer_over
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


def test_calls_contracts_for_nobody(client: ChainClient, dev_chain: DevChain) -> None:
    """Where it does not matter who asks, no sender is named."""
    call = Call(None, dev_chain.token, coin.calldata("decimals()"))

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


def test_counts_transactions_of_the_past(
    client: ChainClient, payer: LocalAccount
) -> None:
    """The next nonce is known behind every recent block, not only the latest."""
    before = client.latest_block().number
    for nonce in (0, 1):
        raw = signed(payer, nonce=nonce)
        client.broadcast(raw)
        mined(client, raw)

    counts = [client.transaction_count(payer.address, before + n) for n in range(3)]

    assert counts == [0, 1, 2]


def test_finds_who_consumed_a_nonce(
    client: ChainClient, dev_chain: DevChain, payer: LocalAccount
) -> None:
    """Whatever used the nonce is found, however many blocks came after it (R23)."""
    raws = [transfer(payer, dev_chain.token, amount, nonce=amount) for amount in (0, 1)]
    for raw in raws:
        client.broadcast(raw)
        receipt = mined(client, raw)
    for nonce in range(2, 10):
        last = signed(payer, nonce=nonce)
        client.broadcast(last)
        mined(client, last)

    found = client.find_transaction(payer.address, 1)

    assert found == MinedTransaction(
        tx_hash=hash_of(raws[1]),
        sender=payer.address,
        nonce=1,
        to=dev_chain.token,
        data=coin.calldata("transfer(address,uint256)", NOBODY, 1),
        block=receipt.block,
    )


def test_finds_nobody_where_a_nonce_waits(
    client: ChainClient, payer: LocalAccount
) -> None:
    """A nonce that nobody consumed has no transaction."""
    raw = signed(payer)
    client.broadcast(raw)
    mined(client, raw)

    assert client.find_transaction(payer.address, 1) is None
    assert client.find_transaction(NOBODY, 0) is None


def test_a_transaction_that_makes_a_contract_has_no_recipient(
    client: ChainClient, dev_chain: DevChain
) -> None:
    """Somebody's deployment is found like any other use of the key."""
    count = client.transaction_count(dev_chain.deployer)
    coin.deploy(dev_chain.url)

    found = client.find_transaction(dev_chain.deployer, count)

    assert found is not None
    assert found.to is None


def test_many_receipts_are_those_of_each(
    client: ChainClient, payer: LocalAccount
) -> None:
    """Asked together, receipts are the same as asked one by one."""
    raws = [signed(payer, nonce=nonce) for nonce in range(3)]
    expected = {}
    for raw in raws:
        client.broadcast(raw)
        expected[hash_of(raw)] = mined(client, raw)

    receipts = client.receipts(["0x" + "11" * 32, *expected])

    assert receipts == expected


def test_quotes_fees(client: ChainClient, dev_chain: DevChain) -> None:
    """The fees are the latest block's base fee and a tip that the node suggests."""
    latest = dev_chain.rpc("eth_getBlockByNumber", "latest", False)

    fees = client.fees()

    assert fees.base_fee is not None
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
        data=transfer_calldata(NOBODY, 5),
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
