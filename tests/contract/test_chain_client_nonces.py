"""
What every chain client promises of nonces, receipts and the pool.

Kept by real nodes, and by the chain in memory that other tests decide about.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from signer.errors import BroadcastRejectedError, ExecutionRevertedError
from signer.ports import Block, Call, ChainClient, MinedTransaction, NodeStatus, Receipt
from tests.fixtures.chain import DevChain
from tests.fixtures.scripted_chain import TOKEN, ScriptedChain
from tests.support.payments import NOBODY, hash_of, mined, transfer


UNKNOWN = "0x" + "11" * 32
FUNDS = 1_000 * 10**6


@dataclass(frozen=True)
class Stage:
    """A chain client, a token, who has some, and a way to let the chain mine."""

    client: ChainClient
    token: str
    payer: LocalAccount
    mine: Callable[[], object]

    def transfer(self, nonce: int, amount: int = 0, **changes: int) -> bytes:
        """Return the bytes of a transfer to NOBODY."""
        return transfer(self.payer, self.token, amount, nonce=nonce, **changes)

    def pay(self, nonce: int, amount: int = 0) -> Receipt:
        """Pay NOBODY in a block of its own."""
        raw = self.transfer(nonce, amount)
        self.client.broadcast(raw)
        self.mine()
        return mined(self.client, raw)

    def view(self, *tx_hashes: str) -> NodeStatus:
        """Return the only node's view of the payer."""
        (view,) = self.client.node_statuses(self.payer.address, tx_hashes)
        return view


@pytest.fixture
def anvil_stage(fresh_anvil: DevChain) -> Iterator[Stage]:
    """Anvil that mines when it is told to."""
    stage = _real(fresh_anvil, lambda: fresh_anvil.rpc("evm_mine"))
    fresh_anvil.rpc("evm_setAutomine", False)
    yield stage
    fresh_anvil.rpc("evm_setAutomine", True)


@pytest.fixture
def eth_tester_stage(fresh_eth_tester: DevChain) -> Stage:
    """eth-tester, which has mined before it answers."""
    return _real(fresh_eth_tester, lambda: None)


@pytest.fixture
def scripted_stage() -> Stage:
    """The chain in memory, where every estimate reverts."""
    chain = ScriptedChain()
    chain.revert = "TestUSD: balance too low"
    return Stage(chain, TOKEN, Account.create(), chain.mine)


@pytest.fixture(params=["anvil", "eth_tester", "scripted"])
def stage(request: pytest.FixtureRequest) -> Stage:
    """Each chain in turn."""
    found: Stage = request.getfixturevalue(f"{request.param}_stage")
    return found


@pytest.fixture(params=["anvil", "scripted"])
def pool(request: pytest.FixtureRequest) -> Stage:
    """Each chain on which transactions wait."""
    found: Stage = request.getfixturevalue(f"{request.param}_stage")
    return found


def _real(chain: DevChain, mine: Callable[[], object]) -> Stage:
    payer: LocalAccount = Account.create()
    coin.fund(chain.url, payer.address, token=chain.token, amount=FUNDS)
    client = JSONRPCChain([chain.url], timeout=10, chain_id=CHAIN_ID)
    return Stage(client, chain.token, payer, mine)


def test_tells_the_chain_id(stage: Stage) -> None:
    """The chain id is the one that the node was started with."""
    assert stage.client.chain_id() == CHAIN_ID


def test_tells_contracts_from_accounts(stage: Stage) -> None:
    """Code is seen at a contract's address, and at no other."""
    assert stage.client.has_code(stage.token)
    assert not stage.client.has_code(NOBODY)


def test_calls_contracts_for_nobody(stage: Stage) -> None:
    """Where it does not matter who asks, no sender is named."""
    call = Call(None, stage.token, coin.calldata("decimals()"))

    assert int.from_bytes(stage.client.call(call)) == 6


def test_counts_transactions(stage: Stage) -> None:
    """The next nonce is the number of transactions mined so far."""
    assert stage.client.transaction_count(stage.payer.address) == 0

    for nonce in (0, 1):
        stage.pay(nonce)

    assert stage.client.transaction_count(stage.payer.address) == 2


def test_counts_transactions_of_the_past(stage: Stage) -> None:
    """The next nonce is known behind every recent block, not only the latest."""
    before = stage.client.latest_block().number
    for nonce in (0, 1):
        stage.pay(nonce)

    counts = [
        stage.client.transaction_count(stage.payer.address, before + n)
        for n in range(3)
    ]

    assert counts == [0, 1, 2]


def test_finds_who_consumed_a_nonce(stage: Stage) -> None:
    """Whatever used the nonce is found, however many blocks came after it (R23)."""
    stage.pay(0)
    raw = stage.transfer(1, 7, gas=123_456)
    stage.client.broadcast(raw)
    stage.mine()
    for nonce in range(2, 10):
        stage.pay(nonce)

    found = stage.client.find_transaction(stage.payer.address, 1)

    assert found == MinedTransaction(
        tx_hash=hash_of(raw),
        sender=stage.payer.address,
        nonce=1,
        to=stage.token,
        data=coin.calldata("transfer(address,uint256)", NOBODY, 7),
        gas_limit=123_456,
        block=mined(stage.client, raw).block,
    )


def test_finds_nobody_where_a_nonce_waits(stage: Stage) -> None:
    """A nonce that nobody consumed has no transaction."""
    stage.pay(0)

    assert stage.client.find_transaction(stage.payer.address, 1) is None
    assert stage.client.find_transaction(NOBODY, 0) is None


def test_many_receipts_are_those_of_each(stage: Stage) -> None:
    """Asked together, receipts are the same as asked one by one."""
    expected = {}
    for nonce in range(3):
        receipt = stage.pay(nonce)
        expected[receipt.tx_hash] = receipt

    receipts = stage.client.receipts([UNKNOWN, *expected])

    assert receipts == expected


def test_a_transfer_ends_in_a_receipt_with_its_event(stage: Stage) -> None:
    """The receipt of a transfer names its block and carries the Transfer event."""
    raw = stage.transfer(0, 1_500_000)

    receipt = stage.pay(0, 1_500_000)

    assert receipt.tx_hash == hash_of(raw)
    assert receipt.succeeded
    assert receipt.block == stage.client.latest_block()
    (log,) = receipt.logs
    assert log.address == stage.token
    assert log.topics == (
        keccak(text="Transfer(address,address,uint256)"),
        bytes(12) + bytes.fromhex(stage.payer.address[2:]),
        bytes(12) + bytes.fromhex(NOBODY[2:]),
    )
    assert int.from_bytes(log.data) == 1_500_000


def test_knows_no_receipt_of_what_was_never_sent(stage: Stage) -> None:
    """An unknown hash has no receipt."""
    assert stage.client.receipt(UNKNOWN) is None


def test_finds_blocks_by_number(stage: Stage) -> None:
    """Each block that was the latest is found again by its number, the next is not."""
    before = stage.client.latest_block()
    stage.pay(0)
    after = stage.client.latest_block()

    assert after.number == before.number + 1
    assert stage.client.block(before.number) == before
    assert stage.client.block(after.number) == after
    assert stage.client.block(after.number + 1) is None


def test_writes_hashes_in_lower_case(stage: Stage) -> None:
    """A block's hash is 32 bytes in lower-case hex behind 0x."""
    block = stage.client.latest_block()

    assert isinstance(block, Block)
    assert block.hash[:2] == "0x"
    assert block.hash == block.hash.lower()
    assert len(bytes.fromhex(block.hash[2:])) == 32


def test_mined_bytes_are_not_taken_twice(stage: Stage) -> None:
    """Bytes that were mined are refused as nonce-too-low, which is no failure."""
    raw = stage.transfer(0)
    stage.pay(0)

    with pytest.raises(BroadcastRejectedError) as caught:
        stage.client.broadcast(raw)

    assert caught.value.reason == "nonce-too-low"
    assert mined(stage.client, raw).succeeded


def test_bytes_that_wait_are_already_known(pool: Stage) -> None:
    """Bytes that wait in the pool for an earlier nonce may be sent again and again."""
    second = pool.transfer(1)

    pool.client.broadcast(second)
    pool.client.broadcast(second)
    pool.mine()

    assert pool.client.receipt(hash_of(second)) is None

    pool.client.broadcast(pool.transfer(0))
    pool.mine()

    assert mined(pool.client, second).succeeded


def test_a_replacement_must_pay_more(pool: Stage) -> None:
    """Other bytes with the nonce of waiting ones are refused as underpriced."""
    pool.client.broadcast(pool.transfer(1))

    with pytest.raises(BroadcastRejectedError) as caught:
        pool.client.broadcast(pool.transfer(1, 1))

    assert caught.value.reason == "underpriced"


def test_an_eighth_more_replaces_what_waits(pool: Stage) -> None:
    """With both fees raised by 12.5 % the new bytes are mined, the old forgotten."""
    old = pool.transfer(0)
    new = pool.transfer(
        0,
        maxFeePerGas=20 * 10**9 * 9 // 8,
        maxPriorityFeePerGas=10**9 * 9 // 8,
    )
    pool.client.broadcast(old)

    pool.client.broadcast(new)
    pool.mine()

    assert mined(pool.client, new).succeeded
    assert pool.client.receipt(hash_of(old)) is None
    assert pool.view(hash_of(old), hash_of(new)).transactions == {
        hash_of(old): "unknown",
        hash_of(new): "mined",
    }


def test_counts_what_waits(pool: Stage) -> None:
    """Behind the pool is the next nonce that neither block nor pool has (R24)."""
    address = pool.payer.address
    pool.pay(0)
    for nonce in (1, 2, 4):
        pool.client.broadcast(pool.transfer(nonce))

    assert pool.client.pending_count(address) == 3
    assert pool.client.transaction_count(address) == 1


def test_with_nothing_waiting_both_counts_are_one(stage: Stage) -> None:
    """Behind an empty pool is the next nonce of the latest block."""
    assert stage.client.pending_count(stage.payer.address) == 0

    stage.pay(0)

    assert stage.client.pending_count(stage.payer.address) == 1


def test_shows_what_the_node_has(stage: Stage) -> None:
    """A view has the node's head, both counts, and where each transaction is."""
    receipt = stage.pay(0)

    assert stage.view(receipt.tx_hash, UNKNOWN) == NodeStatus(
        "node-1",
        trusted=True,
        head=receipt.block.number,
        counted=1,
        pending=1,
        transactions={receipt.tx_hash: "mined", UNKNOWN: "unknown"},
    )
    assert stage.view().transactions == {}


def test_shows_what_waits_in_the_pool(pool: Stage) -> None:
    """Behind the pool is the next nonce, until one is missing; all of it is pending."""
    raws = [pool.transfer(nonce) for nonce in (0, 1, 3)]
    hashes = [hash_of(raw) for raw in raws]
    for raw in raws:
        pool.client.broadcast(raw)

    before = pool.view(*hashes)
    pool.mine()
    after = pool.view(*hashes)

    assert (before.counted, before.pending) == (0, 2)
    assert before.transactions == dict.fromkeys(hashes, "pending")
    assert (after.counted, after.pending) == (2, 2)
    assert list(after.transactions.values()) == ["mined", "mined", "pending"]


def test_a_reverting_call_is_not_estimated(stage: Stage) -> None:
    """An estimate that reverts is told in the contract's words."""
    data = coin.calldata("transfer(address,uint256)", NOBODY, 10**12)

    with pytest.raises(ExecutionRevertedError) as caught:
        stage.client.estimate_gas(Call(stage.payer.address, stage.token, data))

    assert str(caught.value) == "TestUSD: balance too low"
