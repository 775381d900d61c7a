"""Contract of chain clients, real and in memory: nonces, receipts and the pool."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak

from backends.json_rpc import JSONRPCChain
from dev import stablecoin as coin
from dev.chain import CHAIN_ID
from signer.errors import BroadcastRejectedError, ExecutionRevertedError
from signer.ports.chain import Call, ChainClient, MinedTransaction, NodeStatus, Receipt
from tests.fixtures.chain import ON_GETH, ON_HARDHAT, DevChain
from tests.fixtures.provider import Provider
from tests.fixtures.scripted_chain import TOKEN, ScriptedChain
from tests.support.payments import RECIPIENT, hash_of, mined, transfer
from tests.support.rpc import broadcast, receipt_of


UNKNOWN = "0x" + "11" * 32
FUNDS = 1_000 * 10**6


@dataclass(frozen=True)
class Stage:
    """A chain client, a token, an account that has some, and a way to mine."""

    client: ChainClient
    token: str
    payer: LocalAccount
    mine: Callable[[], object]

    def transfer(self, nonce: int, amount: int = 0, **changes: int) -> bytes:
        """Return the bytes of a transfer to RECIPIENT."""
        return transfer(self.payer, self.token, amount, nonce=nonce, **changes)

    def pay(self, nonce: int, amount: int = 0) -> Receipt:
        """Pay RECIPIENT in a block of its own."""
        raw = self.transfer(nonce, amount)
        broadcast(self.client, raw)
        self.mine()
        return mined(self.client, raw)

    def status(self, *tx_hashes: str) -> NodeStatus:
        """Return the only node's status of the payer."""
        (status,) = self.client.node_statuses(self.payer.address, tx_hashes)
        return status


@pytest.fixture
def anvil_stage(fresh_anvil: DevChain) -> Stage:
    """Anvil that mines on request."""
    stage = _real(fresh_anvil, fresh_anvil.mine)
    fresh_anvil.mine_on_request()
    return stage


@pytest.fixture
def provider_stage(fresh_anvil: DevChain) -> Iterator[Stage]:
    """A provider of anvil, with limits."""
    with Provider(fresh_anvil.url) as provider:
        stage = _real(fresh_anvil, fresh_anvil.mine, provider.url)
        fresh_anvil.mine_on_request()
        yield stage


@pytest.fixture
def geth_provider_stage(geth: DevChain) -> Iterator[Stage]:
    """A provider of geth, with limits."""
    with Provider(geth.url) as provider:
        stage = _real(geth, geth.mine, provider.url)
        geth.mine_on_request()
        yield stage


@pytest.fixture
def geth_stage(geth: DevChain) -> Stage:
    """geth that mines on request."""
    stage = _real(geth, geth.mine)
    geth.mine_on_request()
    return stage


@pytest.fixture
def hardhat_stage(hardhat: DevChain) -> Stage:
    """Hardhat's node that mines on request."""
    stage = _real(hardhat, hardhat.mine)
    hardhat.mine_on_request()
    return stage


@pytest.fixture
def eth_tester_stage(fresh_eth_tester: DevChain) -> Stage:
    """eth-tester, which mines before it answers."""
    return _real(fresh_eth_tester, lambda: None)


@pytest.fixture
def scripted_stage() -> Stage:
    """The chain in memory, where every estimate reverts."""
    chain = ScriptedChain()
    chain.revert = "TestUSD: balance too low"
    return Stage(chain, TOKEN, Account.create(), chain.mine)


ON_PROVIDERS = ["provider", pytest.param("geth_provider", marks=pytest.mark.nodes)]


@pytest.fixture(
    params=["anvil", "eth_tester", "scripted", ON_GETH, ON_HARDHAT, *ON_PROVIDERS]
)
def stage(request: pytest.FixtureRequest) -> Stage:
    """Each chain in turn."""
    return cast("Stage", request.getfixturevalue(f"{request.param}_stage"))


@pytest.fixture(params=["anvil", "scripted", ON_GETH, ON_HARDHAT, *ON_PROVIDERS])
def pool(request: pytest.FixtureRequest) -> Stage:
    """Each chain that has a pool."""
    return cast("Stage", request.getfixturevalue(f"{request.param}_stage"))


def _real(chain: DevChain, mine: Callable[[], object], url: str | None = None) -> Stage:
    payer: LocalAccount = Account.create()
    coin.fund(chain.url, payer.address, token=chain.token, amount=FUNDS)
    client = JSONRPCChain([url or chain.url], timeout=10, chain_id=CHAIN_ID)
    return Stage(client, chain.token, payer, mine)


def test_the_chain_id_is_that_of_the_node(stage: Stage) -> None:
    assert stage.client.chain_id() == CHAIN_ID


def test_only_contracts_have_code(stage: Stage) -> None:
    assert stage.client.code(stage.token)
    assert not stage.client.code(RECIPIENT)


def test_a_delegated_address_has_code(node: DevChain) -> None:
    """T7: a key that signs an authorisation (EIP-7702) gives code to its address."""
    stage = _real(node, lambda: None)
    payer = stage.payer
    authorization = payer.sign_authorization(
        {"chainId": CHAIN_ID, "address": stage.token, "nonce": 1}
    )
    signed = payer.sign_transaction(
        {
            "type": 4,
            "chainId": CHAIN_ID,
            "nonce": 0,
            "to": payer.address,
            "value": 0,
            "gas": 200_000,
            "maxFeePerGas": 10**10,
            "maxPriorityFeePerGas": 10**9,
            "authorizationList": [authorization],  # type: ignore[list-item]
        }
    )
    before = stage.client.code(payer.address)
    broadcast(stage.client, signed.raw_transaction)
    mined(stage.client, signed.raw_transaction)

    assert not before
    assert stage.client.code(payer.address)


def test_a_call_may_have_no_sender(stage: Stage) -> None:
    call = Call(None, stage.token, coin.calldata("decimals()"))

    assert int.from_bytes(stage.client.call(call)) == 6


def test_the_next_nonce_counts_mined_transactions(stage: Stage) -> None:
    """After every recent block; without a pool, the pending count is the same."""
    client, address = stage.client, stage.payer.address
    before = client.latest_block().number
    assert client.transaction_count(address) == client.pending_count(address) == 0
    for nonce in (0, 1):
        stage.pay(nonce)

    counts = [client.transaction_count(address, before + n) for n in range(3)]

    assert counts == [0, 1, 2]
    assert client.transaction_count(address) == client.pending_count(address) == 2


def test_the_transaction_with_a_nonce_is_found(stage: Stage) -> None:
    """The transaction that used a nonce is found under many later blocks (R23)."""
    stage.pay(0)
    raw = stage.transfer(1, 7, gas=123_456)
    broadcast(stage.client, raw)
    stage.mine()
    for nonce in range(2, 10):
        stage.pay(nonce)

    found = stage.client.find_transaction(stage.payer.address, 1)

    assert stage.client.find_transaction(stage.payer.address, 10) is None
    assert stage.client.find_transaction(RECIPIENT, 0) is None
    assert found == MinedTransaction(
        tx_hash=hash_of(raw),
        sender=stage.payer.address,
        nonce=1,
        to=stage.token,
        value=0,
        data=coin.calldata("transfer(address,uint256)", RECIPIENT, 7),
        gas_limit=123_456,
        block=mined(stage.client, raw).block,
    )


def test_a_batch_of_receipts_equals_single_receipts(stage: Stage) -> None:
    """A hash that was never sent has no receipt."""
    expected = {}
    for nonce in range(3):
        receipt = stage.pay(nonce)
        expected[receipt.tx_hash] = receipt

    receipts = stage.client.receipts([UNKNOWN, *expected])

    assert receipts == expected
    assert receipt_of(stage.client, UNKNOWN) is None


def test_a_transfer_ends_in_a_receipt_with_its_event(stage: Stage) -> None:
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
        bytes(12) + bytes.fromhex(RECIPIENT[2:]),
    )
    assert int.from_bytes(log.data) == 1_500_000


def test_blocks_are_found_by_number(stage: Stage) -> None:
    before = stage.client.latest_block()
    stage.pay(0)
    after = stage.client.latest_block()

    assert after.number == before.number + 1
    assert stage.client.block(before.number) == before
    assert stage.client.block(after.number) == after
    assert stage.client.block(after.number + 1) is None


def test_a_replacement_must_pay_more(pool: Stage) -> None:
    """Other bytes with the nonce of pending ones are refused as underpriced."""
    broadcast(pool.client, pool.transfer(1))

    with pytest.raises(BroadcastRejectedError) as caught:
        broadcast(pool.client, pool.transfer(1, 1))

    assert caught.value.reason == "underpriced"


def test_an_eighth_more_replaces_pending_bytes(pool: Stage) -> None:
    """With both fees raised by 12.5 % the new bytes are mined, and the old dropped."""
    old = pool.transfer(0)
    new = pool.transfer(
        0, maxFeePerGas=20 * 10**9 * 9 // 8, maxPriorityFeePerGas=10**9 * 9 // 8
    )
    broadcast(pool.client, old)

    broadcast(pool.client, new)
    pool.mine()

    assert mined(pool.client, new).succeeded
    assert receipt_of(pool.client, hash_of(old)) is None
    assert pool.status(hash_of(old), hash_of(new)).transactions == {
        hash_of(old): "unknown",
        hash_of(new): "mined",
    }


def test_the_pending_count_includes_the_pool(pool: Stage) -> None:
    """It is the first nonce that neither a block nor the pool has (R24)."""
    address = pool.payer.address
    pool.pay(0)
    for nonce in (1, 2, 4):
        broadcast(pool.client, pool.transfer(nonce))

    assert pool.client.pending_count(address) == 3
    assert pool.client.preflight(address, []).pending_count == 3
    assert pool.client.transaction_count(address) == 1


def test_a_node_status_has_head_counts_and_transactions(stage: Stage) -> None:
    receipt = stage.pay(0)

    assert stage.status(receipt.tx_hash, UNKNOWN) == NodeStatus(
        "node-1",
        trusted=True,
        head=receipt.block.number,
        counted=1,
        pending=1,
        transactions={receipt.tx_hash: "mined", UNKNOWN: "unknown"},
    )
    assert stage.status().transactions == {}


def test_a_node_status_shows_pending_transactions(pool: Stage) -> None:
    """The pending count ends at the first missing nonce; later ones are pending."""
    raws = [pool.transfer(nonce) for nonce in (0, 1, 3)]
    hashes = [hash_of(raw) for raw in raws]
    for raw in raws:
        broadcast(pool.client, raw)

    before = pool.status(*hashes)
    pool.mine()
    after = pool.status(*hashes)

    assert (before.counted, before.pending) == (0, 2)
    assert before.transactions == dict.fromkeys(hashes, "pending")
    assert (after.counted, after.pending) == (2, 2)
    assert list(after.transactions.values()) == ["mined", "mined", "pending"]


def test_a_preflight_has_what_single_requests_have(stage: Stage) -> None:
    """Pending count, fees, and an estimate or an error for each call."""
    stage.pay(0)
    address = stage.payer.address
    data = coin.calldata("transfer(address,uint256)", RECIPIENT, 10**12)
    reverting = Call(address, stage.token, data)

    preflight = stage.client.preflight(address, [reverting, reverting])

    assert preflight.pending_count == stage.client.pending_count(address) == 1
    assert preflight.fees == stage.client.fees()
    assert [str(error) for error in preflight.estimates] == [
        "TestUSD: balance too low",
        "TestUSD: balance too low",
    ]
    assert {type(error) for error in preflight.estimates} == {ExecutionRevertedError}
    assert stage.client.preflight(address, []).estimates == ()
    with pytest.raises(ExecutionRevertedError, match=r"^TestUSD: balance too low$"):
        stage.client.estimate_gas(reverting)


def test_each_transaction_of_a_batch_has_an_outcome(stage: Stage) -> None:
    """A transaction that is refused does not affect the others."""
    stage.pay(0)
    raws = [stage.transfer(nonce) for nonce in range(3)]

    mined_already, *others = stage.client.broadcast_all(raws)
    stage.mine()

    assert isinstance(mined_already, BroadcastRejectedError)
    assert mined_already.reason == "nonce-too-low"
    assert others == [None, None]
    assert all(mined(stage.client, raw).succeeded for raw in raws)


def test_pending_bytes_may_be_sent_again(pool: Stage) -> None:
    """Together and alone, also those that need an earlier nonce."""
    raws = [pool.transfer(nonce) for nonce in range(3)]
    for _ in range(2):
        broadcast(pool.client, raws[1])
    pool.mine()
    assert receipt_of(pool.client, hash_of(raws[1])) is None

    outcomes = [pool.client.broadcast_all(raws) for _ in range(2)]
    pool.mine()

    assert [list(each) for each in outcomes] == [[None] * 3] * 2
    assert all(mined(pool.client, raw).succeeded for raw in raws)
